"""The door to ONNX: a graph as a file that onnxruntime runs, held against the model it came from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.config import ConfigError
from components.decoding.greedy import greedy, until
from components.export.graph import Graph, NotExportable
from components.export.parity import Compare, compared

SUFFIX = ".onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def write(graph: Graph, folder: Path) -> Path:
    """Write `<name>.onnx`; weights above 2 GB lie beside it.

    Raises NotExportable, and ConfigError where the packages of the extra `export` are missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(
            f"ONNX needs {', '.join(missing)}; `pip install -e .[export]` brings all of it. --format hub and torch need "
            "none."
        )
    path = folder / f"{graph.name}{SUFFIX}"
    try:
        with torch.no_grad(), quiet():
            program: Any = torch.onnx.export(
                graph.module,
                tuple(graph.inputs.values()),
                dynamo=True,
                verbose=False,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=shapes(graph),
            )
    except (
        Exception
    ) as error:  # what torch raises for a graph it cannot make are classes of many of its modules
        raise NotExportable(f"{graph.name}: {first_line(error)}") from error
    _forget_paths(program.model)
    program.save(str(path))
    return path


def shapes(graph: Graph) -> tuple[Any, ...]:
    """What may have another size, as torch.export takes it for a forward of `*inputs`."""
    return (
        tuple(
            dict.fromkeys(graph.growing[name], torch.export.Dim.DYNAMIC) for name in graph.inputs
        ),
    )


def check(graph: Graph, path: Path) -> float:
    """The largest difference between file and model over all probes. Raises NotAlike."""
    return compared(graph, session(path))


def same_captions(
    model: Any, folder: Path, pixels_BCHW: Tensor, *, eos_id: int, max_tokens: int
) -> list[list[int]]:
    """The ids that the files `prefill` and `step` write greedily for images.

    Raises NotExportable if they are not, to the last id, what `greedy` writes with the model.
    """
    prefill, step = (session(folder / f"{name}{SUFFIX}") for name in ("prefill", "step"))
    logits, *state = prefill((pixels_BCHW,))
    written = [logits.argmax(dim=-1)]
    while len(written) < max_tokens and not bool((torch.stack(written) == eos_id).any(0).all()):
        logits, *state = step((written[-1], *state))
        written.append(logits.argmax(dim=-1))
    theirs = [until(row, eos_id) for row in torch.stack(written, dim=1).tolist()]
    ours = greedy(model, pixels_BCHW, eos_id=eos_id, max_tokens=max_tokens)
    if theirs != ours:
        row = next(row for row, ids in enumerate(ours) if ids != theirs[row])
        raise NotExportable(
            f"onnxruntime writes {theirs[row]} where the model writes {ours[row]}; nothing was exported."
        )
    return theirs


def _forget_paths(model: Any) -> None:
    """Each node is told which lines of which files it came from: paths of this machine, which others get with the graph."""
    for part in (model.graph, *model.functions.values()):
        for node in part.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


def session(path: Path) -> Compare:
    """A file as a function of tensors, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in opened.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        fed: Mapping[str, Any] = {
            name: value.numpy() for name, value in zip(names, inputs, strict=True)
        }
        return tuple(torch.from_numpy(each) for each in opened.run(None, fed))

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Without the graph that torch prints on stderr where it cannot go on, and the exporter's warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}"
