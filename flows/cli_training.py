"""The commands that train. Like all of `cli.py`: each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import Debug, ExperimentArgument, Overrides, check

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
    debug: Debug = False,
) -> None:
    """Train one experiment up to a registered version, or a stage up to its checkpoint; promotes nothing."""
    from flows.terminal import launcher, platform, say, show

    overrides = [*(override or []), *([f"training.workers={workers}"] if workers else [])]
    check([experiment], overrides, debug)
    with platform(debug) as settings:
        from components.catalog import STAGES
        from components.config import ConfigError
        from flows.experiment import read_experiment
        from flows.train_model import train_model
        from flows.train_stage import train_stage

        if read_experiment(experiment).family in STAGES:
            if overrides:
                raise ConfigError(
                    f"{experiment} is a stage, and others name it by its file: change the file, or copy it to another "
                    "name."
                )
            digest = train_stage(experiment, launcher(settings))
            say(
                f"{experiment} is ready for `parts: {{slot: stage:{experiment}}}`; checkpoint {digest[:12]}."
            )
            return

        show([train_model(experiment, overrides, launcher(settings))])


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
