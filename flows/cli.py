"""The `diptych` command: each command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.asking import asking
from flows.commands.exporting import exporting
from flows.commands.options import Debug, ExperimentArgument, Overrides, check
from flows.commands.scoring import scoring
from flows.commands.training import training

app = typer.Typer(
    name="diptych",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Image and text on one hinge: data in, a gated champion out.",
)


@app.command()
def demo(
    force: Annotated[
        bool, typer.Option(help="Train again although nothing changed, with the next seed.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Run the main job on real drawings: train CLIP and VirTex, measure, gate, promote."""
    from flows.terminal import command, say

    with command(debug):
        from components.models.lite0 import weights_path
        from components.models.packaged import PretrainedMissing

        night = ["clip_emoji_mini", "virtex_emoji_mini"]
        try:
            weights_path()
        except PretrainedMissing:
            say("The ImageNet weights are not installed: the towers learn from scratch.")
            night = [f"{experiment}_conv" for experiment in night]
        _night(night, [], force, debug)
        say("Next: `diptych up` opens the pages above; `diptych ledger` says what was decided.")


@app.command()
def retrain(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="Experiments in order; the nightly two if none.")
    ] = None,
    override: Overrides = None,
    force: Annotated[
        bool, typer.Option(help="Train although data and settings are unchanged.")
    ] = False,
    debug: Debug = False,
) -> None:
    """The night, now: fresh data, retrain what changed, promote or refuse with reasons."""
    _night(experiments or ["clip_emoji_mini", "virtex_emoji_mini"], override or [], force, debug)


@app.command()
def evaluate(
    model: ExperimentArgument,
    number: Annotated[
        int | None, typer.Argument(min=1, help="A version; the champion if left out.")
    ] = None,
    override: Overrides = None,
    debug: Debug = False,
) -> None:
    """Measure a registered version on its experiment's data."""
    from flows.terminal import platform, say

    check([model], override or [], debug)
    with platform(debug):
        from flows.evaluate_model import evaluate_model

        for name, value in evaluate_model(model, number, override or []).items():
            say(f"{name:45} {value:.4f}")


@app.command()
def promote(
    model: ExperimentArgument,
    number: Annotated[int, typer.Argument(min=1, help="The version that asks to be champion.")],
    debug: Debug = False,
) -> None:
    """Ask the gate about a version; move the champion alias if it passes. Exit code 1 if refused."""
    from flows.terminal import platform, show

    check([model], [], debug)
    with platform(debug):
        from flows.promote_model import promote_model

        outcome = promote_model(model, number)
        show([outcome])
        raise typer.Exit(0 if outcome.promoted else 1)


@app.command()
def rollback(
    model: ExperimentArgument,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")],
    debug: Debug = False,
) -> None:
    """Give the champion alias back to the version that had it before."""
    from flows.terminal import command, platform, say

    check([model], [], debug)
    with command(debug):
        from registry.promotion import check_reason

        check_reason(reason)
    with platform(debug):
        from flows.promote_model import rollback_model

        say(f"{model} version {rollback_model(model, reason)} is champion again.")


@app.command()
def reconcile(debug: Debug = False) -> None:
    """Make every champion alias what the ledger says, and finish moves a crash left open."""
    from flows.terminal import platform, say

    with platform(debug):
        from flows.services import services
        from registry import promotion

        doors = services()
        for model in doors.ledger.models():
            champion = promotion.reconcile(doors.ledger, doors.versions, model)
            say(f"{model}: " + (f"version {champion.number}" if champion else "no champion"))


@app.command()
def ledger(
    limit: Annotated[int, typer.Option(min=1, help="How many decisions, newest first.")] = 20,
    debug: Debug = False,
) -> None:
    """What was decided, when, by whom and why."""
    from flows.terminal import command, say

    with command(debug) as settings:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from registry.ledger.store import Ledger

        settings.prepare()
        history = Ledger(settings.ledger_url).migrate().history(limit)
        table = Table("when (UTC)", "what", "model", "version", "outcome", "by", "why")
        for entry in history:
            cells = (entry.kind, entry.model, entry.number, entry.outcome, entry.by, entry.text)
            # As Text: what a person wrote into a reason is no markup.
            texts = (Text(str(cell or "")) for cell in cells)
            table.add_row(f"{entry.at:%Y-%m-%d %H:%M:%S}", *texts)
        if not history:
            say("Nothing was decided yet: `diptych demo` or `diptych retrain` asks the first gate.")
            return
        Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.command()
def families(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    debug: Debug = False,
) -> None:
    """The model families: paper, what each can do, and how large its presets are."""
    from flows.terminal import command

    with command(debug):
        from flows.commands.families import show_families

        show_families(as_json)


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="A source of components/catalog.py.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the shards; data/shards/SOURCE if left out.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Make a source's shards and manifest (what `dvc repro` runs)."""
    from flows.terminal import command, say

    with command(debug):
        from flows.sources import prepare_source

        shards = prepare_source(source, out or Path("data/shards") / source)
        counts = ", ".join(f"{split} {count}" for split, count in shards.counts.items())
        say(f"{source}: {counts}; digest {shards.digest[:12]} in {shards.path}")


@app.command()
def up(debug: Debug = False) -> None:
    """Start Prefect, MLflow and a Ray head on loopback, and deploy every flow; what runs stays."""
    from flows.terminal import command, say
    from infra import stack
    from infra.deployments import deploy

    with command(debug) as settings:
        services = stack.up(settings, say=say)
        deploy(settings)
        for service in services:
            if service.url:
                say(f"{service.name:8} {service.url}")
        say("`diptych status` says how they are, `diptych down` ends them.")


@app.command()
def down(debug: Debug = False) -> None:
    """Stop what `diptych up` started, with every process it left."""
    from flows.terminal import command, say
    from infra import stack

    with command(debug) as settings:
        if not stack.down(settings, say=say):
            say("Nothing of ours was running.")


@app.command()
def status(debug: Debug = False) -> None:
    """How each service is; exit code 1 if one that was started is not well."""
    from flows.terminal import command, say
    from infra import stack

    with command(debug) as settings:
        services = stack.status(settings)
        for each in services:
            say(f"{each.name:8} {each.state:5} {each.url or ''} {each.detail}".rstrip())
        raise typer.Exit(1 if any(each.state == "ill" for each in services) else 0)


def _night(experiments: list[str], overrides: list[str], force: bool, debug: bool) -> None:
    from flows.terminal import launcher, platform, show

    check(experiments, overrides, debug)
    with platform(debug) as settings:
        from flows.nightly_retrain import nightly_retrain

        show(nightly_retrain(experiments, overrides, force, launcher(settings)))


app.add_typer(training)
app.add_typer(asking)
app.add_typer(exporting)
app.add_typer(scoring)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"diptych {version('diptych')}")
        raise typer.Exit


@app.callback()
def about(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Options of the whole command."""


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
