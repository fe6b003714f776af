"""A graph as torch.export's program (.pt2), which C++ and a bare torch run without our code. No pickle is in it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch.fx import GraphModule

from components.export.graph import Graph, NotExportable
from components.export.onnx_files import first_line, quiet, shapes
from components.export.parity import compared

SUFFIX = ".pt2"
_ZIP = b"PK\x03\x04"
"""How all begins that torch.save writes."""


def write(graph: Graph, folder: Path) -> Path:
    """Write `<name>.pt2`. Raises NotExportable."""
    path = folder / f"{graph.name}{SUFFIX}"
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                graph.module, tuple(graph.inputs.values()), dynamic_shapes=shapes(graph)
            )
    except (
        Exception
    ) as error:  # what torch raises for a graph it cannot make are classes of many of its modules
        raise NotExportable(f"{graph.name}: {first_line(error)}") from error
    program.example_inputs = None  # torch would pickle them into the file
    _forget_paths(program)
    torch.export.save(program, path)
    refuse_pickle(path)
    return path


def _forget_paths(program: torch.export.ExportedProgram) -> None:
    """As of ONNX's: the lines of the files that each node came from."""
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)


def check(graph: Graph, path: Path) -> float:
    """The largest difference between the file, read again, and the model over all probes. Raises NotAlike."""
    module = torch.export.load(path).module()
    return compared(graph, lambda inputs: module(*inputs))


def refuse_pickle(path: Path) -> None:
    """Raise NotExportable for a program with pickled data in it: whoever loads one runs what it says.

    torch.export.load itself does not look: load only programs whose MANIFEST.json you trust.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            data = archive.read(member)
            listed = member.filename.endswith("_config.json")
            if data[:4] == _ZIP or (listed and b'"use_pickle": true' in data):
                raise NotExportable(f"{path.name} would hold a pickle, in {member.filename}.")
