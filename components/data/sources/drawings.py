"""A drawing of a concept by one set, and the one file that holds many: how `emoji_mini` lies in the repository."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import atomic


@dataclass(frozen=True, kw_only=True)
class DrawingSet:
    """A set of drawings by one hand, as one package gives it."""

    name: str
    package: str
    version: str
    author: str
    license: str
    """SPDX identifier."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """What can be drawn, with its names; the first is the one people use."""

    key: str
    """Code points in lower-case hex, joined by "-", without the variation selector fe0f."""
    names: tuple[str, ...]
    tags: tuple[str, ...]
    group: str
    family: str
    """Shared by concepts that a split must not divide: those with a name in common, and man, woman, person of one trade."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One concept by one set, as the inside of an `<svg>` element."""

    set: DrawingSet
    concept: Concept
    body: str
    view_box: tuple[float, float, float, float]
    """Left, top, width, height in the drawing's own units."""


def write_drawings(path: Path, drawings: Iterable[Drawing]) -> None:
    """Write drawings as gzipped JSON: sets and concepts once, then the bodies. The same drawings give the same bytes."""
    sets: dict[str, Any] = {}
    concepts: dict[str, Any] = {}
    bodies = []
    for drawing in drawings:
        sets[drawing.set.name] = asdict(drawing.set)
        concepts[drawing.concept.key] = asdict(drawing.concept)
        bodies.append([drawing.set.name, drawing.concept.key, drawing.view_box, drawing.body])
    content = {"sets": sets, "concepts": concepts, "drawings": bodies}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    atomic.write_bytes(path, gzip.compress(text.encode(), compresslevel=9, mtime=0))


def read_drawings(path: Path) -> Iterator[Drawing]:
    """The drawings that `write_drawings` wrote, in their order."""
    content = json.loads(gzip.decompress(path.read_bytes()))
    sets = {name: DrawingSet(**fields) for name, fields in content["sets"].items()}
    concepts = {key: _concept(fields) for key, fields in content["concepts"].items()}
    for name, key, view_box, body in content["drawings"]:
        yield Drawing(set=sets[name], concept=concepts[key], body=body, view_box=tuple(view_box))


def _concept(fields: dict[str, Any]) -> Concept:
    return Concept(**fields | {"names": tuple(fields["names"]), "tags": tuple(fields["tags"])})
