"""Samples that come with a count of what was left out and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

from components.records import Sample


class Counted(Iterator[Sample]):
    """Yields samples; `counts` is whole once the last was taken."""

    def __init__(self, samples: Iterator[Sample], counts: Mapping[str, int]) -> None:
        self._samples = samples
        self.counts = counts
        """What was found, kept and dropped, by reason."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Sample:
        return next(self._samples)
