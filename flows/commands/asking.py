"""The commands that ask a version about images. Like all of `cli.py`: each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Debug

asking = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")]
VersionArgument = Annotated[
    str,
    typer.Argument(
        metavar="VERSION",
        help="EXPERIMENT (its champion, else its newest), EXPERIMENT@champion, EXPERIMENT/3, or a checkpoint's folder.",
    ),
]
ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...", help="Files, folders, or patterns such as 'shots/**/*.jpg'."
    ),
]


@asking.command()
def caption(
    version: VersionArgument,
    images: ImagesArgument,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="A decoder of components/catalog.py; left out, the one the version was measured with."
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Longest caption.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a caption for each image. Exit code 1 if one could not be read."""
    from flows.terminal import command

    with command(debug) as settings:
        from flows.using import asking

        code = asking.caption(
            settings, version, images, decoder=decoder, max_tokens=max_tokens, as_json=as_json
        )
    raise typer.Exit(code)


@asking.command()
def classify(
    version: VersionArgument,
    images: ImagesArgument,
    labels: Annotated[str, typer.Option(help="Names to choose from, between commas.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Name each image by the label that fits best. Exit code 1 if one could not be read."""
    from flows.terminal import command

    with command(debug) as settings:
        from flows.using import asking

        code = asking.classify(settings, version, images, labels, as_json=as_json)
    raise typer.Exit(code)


@asking.command()
def ask(
    version: VersionArgument,
    images: ImagesArgument,
    question: Annotated[str, typer.Argument(help="In quotes, last.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Answer a question about each image. Exit code 1 if one could not be read."""
    from flows.terminal import command

    with command(debug) as settings:
        from flows.using import asking

        code = asking.ask(settings, version, images, question, as_json=as_json)
    raise typer.Exit(code)


@asking.command()
def detect(
    version: VersionArgument,
    images: ImagesArgument,
    labels: Annotated[
        str | None,
        typer.Option(help="What to find, between commas; the taught classes if left out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where boxes are drawn: a PNG, or a folder for several.")
    ] = None,
    at_least: Annotated[float, typer.Option(help="Lowest score that is shown, 0 to 1.")] = 0.3,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find named objects in each image and draw them. Exit code 1 if one could not be read."""
    from flows.terminal import command

    with command(debug) as settings:
        from flows.using import detecting

        code = detecting.detect(
            settings, version, images, labels, out, at_least=at_least, as_json=as_json
        )
    raise typer.Exit(code)


@asking.command()
def search(
    version: VersionArgument,
    text: Annotated[str, typer.Argument(help="What to look for, in quotes.")],
    place: Annotated[
        str, typer.Option("--in", metavar="SOURCE[/SPLIT]", help="Prepared data to look through.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many, best first.")] = 10,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show the images of prepared data that fit a text best."""
    from flows.terminal import command

    with command(debug) as settings:
        from flows.using import searching

        searching.search(settings, version, text, place, top=top, as_json=as_json)
