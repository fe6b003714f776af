"""Candidates + references -> every chosen metric, block by block: the same numbers in one process as in many.

Blocks hold a fixed number of images, whoever computes them, so a sum is added up in the same order always. Metrics that
weigh words by document frequencies come in a second pass, after the blocks' counts were merged; no other part of the
corpus is held but statistics, one row an image. Not for reading files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from components.metrics.frequencies import DocumentFrequencies, merge
from components.metrics.material import Counted, Frequencies, Material, Texts, Words
from components.metrics.ngrams import Floats, refuse_uncounted
from components.metrics.scorecard import MEASURES, Column, Weights, columns

BLOCK = 2048
"""Images in a block: part of what a CIDEr number is to its last bit."""
AT_ONCE = 16
"""Blocks' document frequencies that wait to be merged."""
KEPT = 8
"""Up to so many blocks, n-grams are kept from the first pass to the second; past that they are counted twice."""

Part = dict[str, Any]


class Run(Protocol):
    """How blocks are computed: `map`, or a pool of processes; answers in the order of the blocks."""

    def __call__(self, function: Callable[[Any], Any], blocks: Iterable[Any], /) -> Iterator[Any]:
        """Like `map`."""


@dataclass(frozen=True)
class Scores:
    """The statistics of all images, and the numbers they give."""

    measures: tuple[str, ...]
    images: int
    statistics: Part
    """Measure -> its record, one row an image in the order given."""

    @property
    def columns(self) -> list[Column]:
        """What the numbers are called, in the table's order."""
        return columns(self.measures)

    def corpus(self, weights: Weights = None) -> dict[str, float]:
        """The corpus' number in each column; weights say how often each image counts."""
        values = [
            value
            for name in self.measures
            for value in MEASURES[name].score(self.statistics[name], weights)
        ]
        return {
            column.name: float(value) for column, value in zip(self.columns, values, strict=True)
        }

    def per_image(self) -> dict[str, Floats]:
        """Each image's own number in each column: (N,)."""
        rows = np.concatenate(
            [MEASURES[name].per_image(self.statistics[name]) for name in self.measures], axis=1
        )
        return {column.name: rows[:, place] for place, column in enumerate(self.columns)}


def score(
    given: Texts | Words,
    measures: Sequence[str],
    *,
    frequencies: DocumentFrequencies | None = None,
    cache: Path | None = None,
    run: Run = map,
    shared: Path | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Scores:
    """Compute measures of the scorecard over all images.

    frequencies: a saved record for CIDEr; the evaluated references are counted if left out.
    cache: folder of compiled tables, for metrics that need one.
    run, shared: a pool of processes, and a folder that its processes can read.
    advance: told how many images are through a pass.
    Raises MetricInputError for lists of different lengths or an image without references.
    """
    refuse_uncounted(given.candidates, given.references)
    for name in measures:
        MEASURES[name].prepare(cache)
    late = tuple(name for name in measures if MEASURES[name].weighed is not None)
    first = partial(
        _first_pass,
        measures=tuple(name for name in measures if name not in late),
        late=bool(late),
        count=bool(late) and frequencies is None,
        whole=run is map and len(given.candidates) <= KEPT * BLOCK,
    )
    seen = _Seen()
    for block, found in enumerate(run(first, _blocks(given, cache))):
        seen.take(*found)
        advance(min(BLOCK, len(given.candidates) - block * BLOCK))
    statistics = _joined(seen.parts)
    if late:
        weighed = (
            seen.weighed() if frequencies is None else Frequencies(frequencies, frequencies.digest)
        )
        second = partial(_second_pass, measures=late, frequencies=_within_reach(weighed, shared))
        statistics |= _joined(list(run(second, seen.counted)))
    return Scores(tuple(measures), len(given.candidates), statistics)


class _Seen:
    """What the first pass brings home, with document frequencies merged as they come."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.counted: list[Counted] = []
        self._records: list[DocumentFrequencies] = []

    def take(self, part: Part, counted: Counted | None, record: DocumentFrequencies | None) -> None:
        self.parts.append(part)
        if counted is not None:
            self.counted.append(counted)
        if record is not None:
            self._records.append(record)
        if len(self._records) == AT_ONCE:
            self._records = [merge(self._records)]

    def weighed(self) -> Frequencies:
        whole = self._records[0] if len(self._records) == 1 else merge(self._records)
        return Frequencies(whole, "references")


def _blocks(given: Texts | Words, cache: Path | None) -> Iterator[Material]:
    for start in range(0, len(given.candidates), BLOCK):
        yield Material(given.part(slice(start, start + BLOCK)), cache)


def _first_pass(
    block: Material, *, measures: Sequence[str], late: bool, count: bool, whole: bool
) -> tuple[Part, Counted | None, DocumentFrequencies | None]:
    part = {}
    for name in measures:
        statistics = MEASURES[name].statistics
        assert statistics is not None
        part[name] = statistics(block)
    record = block.counted.frequencies() if count else None
    if not late:
        return part, None, None
    return part, block.counted if whole else block.counted.packed(), record


def _second_pass(
    counted: Counted, *, measures: Sequence[str], frequencies: Frequencies | Path
) -> Part:
    if isinstance(frequencies, Path):
        frequencies = _read(frequencies)
    part = {}
    for name in measures:
        weighed = MEASURES[name].weighed
        assert weighed is not None
        part[name] = weighed(counted, frequencies)
    return part


def _within_reach(frequencies: Frequencies, shared: Path | None) -> Frequencies | Path:
    """The frequencies, or where other processes find them: sent with every block they would take longer than the block."""
    if shared is None:
        return frequencies
    (shared / "source").write_text(frequencies.source)
    (shared / "record").write_bytes(frequencies.record.to_bytes())
    return shared


@lru_cache(maxsize=1)
def _read(shared: Path) -> Frequencies:
    record = DocumentFrequencies.from_bytes((shared / "record").read_bytes())
    return Frequencies(record, (shared / "source").read_text())


def _joined(parts: Sequence[Part]) -> Part:
    """Blocks' statistics one after another: arrays have one row an image, all else is the same in every block."""
    return {name: _chained([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _chained(records: Sequence[Any]) -> Any:
    arrays = {}
    for each in fields(records[0]):
        values = [getattr(record, each.name) for record in records]
        if isinstance(values[0], np.ndarray):
            arrays[each.name] = np.concatenate(values)
    return replace(records[0], **arrays)
