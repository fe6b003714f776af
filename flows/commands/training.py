"""The commands that train. Like all of `cli.py`: each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Debug, ExperimentArgument, Overrides, check

training = typer.Typer()

Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that share each batch; the experiment's if left out."),
]


@training.command()
def train(
    experiment: ExperimentArgument,
    override: Overrides = None,
    workers: Workers = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with its newest unfinished run, or say why not.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train one experiment up to a registered version, or a stage up to its checkpoint; promotes nothing."""
    from flows.terminal import launcher, platform, show

    overrides = _overrides(override, workers)
    check([experiment], overrides, debug)
    with platform(debug) as settings:
        from components.catalog import STAGES
        from flows.experiment import read_experiment
        from flows.runs.begun import newest_of, refuse_overrides

        if resume:
            _go_on(newest_of(experiment).key, overrides, launcher(settings))
        elif read_experiment(experiment).family in STAGES:
            from flows.train_stage import train_stage

            refuse_overrides(experiment, overrides)
            _say_ready(experiment, train_stage(experiment, launcher(settings)))
        else:
            from flows.train_model import train_model

            show([train_model(experiment, overrides, launcher(settings))])


@training.command("resume")
def resume_command(
    run: Annotated[str, typer.Argument(help="A run's key (its folder's name) or its MLflow id.")],
    workers: Workers = None,
    debug: Debug = False,
) -> None:
    """Finish a run that was begun: training from its last checkpoint, measuring, registration."""
    from flows.terminal import launcher, platform

    with platform(debug) as settings:
        from flows.runs.begun import meant

        _go_on(meant(run).key, _overrides(None, workers), launcher(settings))


def _go_on(key: str, overrides: list[str], launcher: str) -> None:
    from flows.resume_run import resume_run
    from flows.terminal import say, show

    outcome = resume_run(key, overrides, launcher)
    if outcome is None:
        say(f"{key} is ready as a part of others.")
    else:
        show([outcome])


def _overrides(given: list[str] | None, workers: int | None) -> list[str]:
    return [*(given or []), *([f"training.workers={workers}"] if workers else [])]


def _say_ready(experiment: str, digest: str) -> None:
    from flows.terminal import say

    say(
        f"{experiment} is ready for `parts: {{slot: stage:{experiment}}}`; checkpoint {digest[:12]}."
    )


@training.command()
def distill(
    experiment: ExperimentArgument, override: Overrides = None, debug: Debug = False
) -> None:
    """Train a student beside its experiment's teacher, which is found or trained first; promotes nothing."""
    from flows.terminal import launcher, platform, show

    check([experiment], override or [], debug)
    with platform(debug) as settings:
        from flows.distill_student import distill_student

        show([distill_student(experiment, override or [], launcher(settings))])


@training.command()
def sweep(
    experiment: ExperimentArgument,
    override: Overrides = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="The best settings' file, ending in .yaml; in the state folder if left out."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Try the settings of an experiment's section `search`, and write the best as an experiment's file."""
    from flows.terminal import platform, say

    check([experiment], override or [], debug)
    with platform(debug):
        from flows.sweep_settings import sweep_settings

        for line in sweep_settings(experiment, override or [], to and to.absolute()):
            say(line)
