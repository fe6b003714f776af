"""The command that exports. Like all of `cli.py`: it imports what it needs when it runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.asking import VersionArgument
from flows.commands.options import Debug

exporting = typer.Typer()


class Formats(StrEnum):
    """What `--format` takes."""

    hub = "hub"
    onnx = "onnx"
    torch = "torch"


@exporting.command()
def export(
    version: VersionArgument,
    to: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    format: Annotated[
        Formats,
        typer.Option(
            help="hub: safetensors and config; onnx: graphs for onnxruntime; torch: torch.export's programs."
        ),
    ] = Formats.hub,
    debug: Debug = False,
) -> None:
    """Write a version as files for other programs; graphs are held against the model before they are kept."""
    from flows.terminal import command, say

    with command(debug) as settings:
        from flows.using.exporting import export_version, told

        for line in told(export_version(settings, version, to.absolute(), format.value)):
            say(line)
