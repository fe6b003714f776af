"""What the caption metrics of one block of images are computed from: its words, and n-grams counted once for all of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from components.metrics.frequencies import DocumentFrequencies, frequencies_from
from components.metrics.metric import MetricInputError
from components.metrics.ngrams import (
    Grams,
    Sentences,
    Tokens,
    count_grams,
    encode,
    split_at_spaces,
)
from components.metrics.tokenise import tokenise


@dataclass(frozen=True)
class Texts:
    """Captions as they were written: one candidate and some references for each image."""

    candidates: Sequence[str]
    references: Sequence[Sequence[str]]

    def part(self, images: slice) -> Texts:
        """Those of some images."""
        return Texts(self.candidates[images], self.references[images])


@dataclass(frozen=True)
class Words:
    """Captions as tokens."""

    candidates: Sequence[Tokens]
    references: Sequence[Sequence[Tokens]]

    def part(self, images: slice) -> Words:
        """Those of some images."""
        return Words(self.candidates[images], self.references[images])


@dataclass(frozen=True)
class Frequencies:
    """Document frequencies with the name that scores made with them carry."""

    record: DocumentFrequencies
    source: str
    """"references" (the evaluated ones), or the record's digest."""


@dataclass
class Counted:
    """The words of a block as numbers, and its n-grams: what BLEU, ROUGE-N and CIDEr read."""

    sentences: Sentences

    @cached_property
    def grams(self) -> list[Grams]:
        """The n-grams of orders 1 to 4, counted when they are first asked for."""
        return count_grams(self.sentences)

    def frequencies(self) -> DocumentFrequencies:
        """Document frequencies of this block's references alone."""
        return frequencies_from(self.sentences, self.grams)

    def packed(self) -> Counted:
        """The same in little memory: n-grams dropped, to be counted again, and words in half the bytes."""
        flat = self.sentences.flat.astype(np.int32)
        return Counted(replace(self.sentences, flat=flat))


@dataclass
class Material:
    """One block of images. What costs time is made when the first metric asks for it."""

    given: Texts | Words
    cache: Path | None = None
    """Folder of compiled tables, for metrics that need one."""

    @property
    def texts(self) -> Texts:
        """The captions as written. Raises MetricInputError where only tokens were given."""
        if isinstance(self.given, Words):
            raise MetricInputError(
                "This metric reads whole captions, and only their tokens were given."
            )
        return self.given

    @cached_property
    def words(self) -> Words:
        """The captions as tokens."""
        if isinstance(self.given, Words):
            return self.given
        with _no_search_for_cycles():
            return Words(
                candidates=[tokenise(caption) for caption in self.given.candidates],
                references=[
                    [tokenise(caption) for caption in several] for several in self.given.references
                ],
            )

    @cached_property
    def sentences(self) -> Sentences:
        """The tokens as numbers, one that holds a space as one word."""
        words = self.words
        return encode(words.candidates, words.references, split_spaces=False)

    @cached_property
    def counted(self) -> Counted:
        """The tokens as numbers, one that holds a space as several words."""
        return Counted(split_at_spaces(self.sentences))


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Each new list may make Python look through all lists for cycles; ours have none, and it takes 40 % of tokenising."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
