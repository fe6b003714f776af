"""The `diptych` command: each command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="diptych",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Image and text on one hinge: data in, a gated champion out.",
)


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="A source of components/catalog.py.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the shards; data/shards/SOURCE if left out.")
    ] = None,
) -> None:
    """Make a source's shards and manifest (what `dvc repro` runs)."""
    from components.catalog import SOURCES
    from components.data.shards import write_shards

    shards = write_shards(SOURCES[source](), out or Path("data/shards") / source)
    counts = ", ".join(f"{split} {count}" for split, count in shards.counts.items())
    typer.echo(f"{source}: {counts}; digest {shards.digest[:12]} in {shards.path}")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
