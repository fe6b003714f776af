"""Which families can be exported as what: tried for each, and docs/export.md says the same."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from components.abilities import Indexes
from components.catalog import FAMILIES
from components.data.batches import load_split
from components.export import onnx_files, programs
from components.export.graph import NotExportable
from components.export.graphs import graphs_of
from components.export.parity import NotAlike

DOCS = Path(__file__).parents[3] / "docs" / "export.md"


def documented() -> dict[str, tuple[str, ...]]:
    """Family -> its cells `onnx` and `torch`."""
    rows = [line.split("|")[1:-1] for line in DOCS.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip().strip("`") for cell in row] for row in rows]
    return {row[0]: (row[1], row[2]) for row in cells if row[0] in FAMILIES}


def test_the_table_names_every_family():
    assert documented().keys() == FAMILIES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_exports_as_the_table_says(
    family, build_tiny, tiny_tokenizer, tiny_shards, tmp_path
):
    model = build_tiny(family).eval()
    if isinstance(model, Indexes):
        side_px = model.batch_spec().image_px
        model.build(load_split(tiny_shards, "train", side_px), tiny_tokenizer)
    found = tuple(
        _written(door, model, tiny_tokenizer, tmp_path) for door in (onnx_files, programs)
    )
    assert found == documented()[family]


def _written(door: ModuleType, model, tokenizer, folder: Path) -> str:
    """The graphs that a door writes and that hold against the model, or "no"."""
    try:
        graphs = graphs_of(model, tokenizer)
        for graph in graphs:
            door.check(graph, door.write(graph, folder))
    except (NotExportable, NotAlike) as refused:
        print(refused)
        return "no"
    return ", ".join(graph.name for graph in graphs)
