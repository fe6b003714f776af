"""Options that commands of several files share, and the check that tells a mistake in them early."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", help="A setting for this run, as training.lr=1e-4."),
]


def _stem(given: str) -> str:
    """An experiment by its file, as a shell completes it, is the same as by its stem."""
    path = Path(given)
    shipped = (
        path.suffix == ".yaml"
        and path.resolve().parent == Path(__file__).parents[1] / "experiments"
    )
    return path.stem if shipped else given


ExperimentArgument = Annotated[
    str, typer.Argument(callback=_stem, help="A file of flows/experiments, or its stem.")
]


def check(experiments: list[str], overrides: list[str], debug: bool) -> None:
    """Tell a mistake before anything is started."""
    from flows.terminal import command

    with command(debug):
        from flows.experiment import read_experiment, shipped

        for experiment in experiments:
            read_experiment(shipped(experiment), overrides)
