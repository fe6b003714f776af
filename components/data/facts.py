"""Manifest rows -> what expectations are about: counts and flags of each image and each caption, no pixels and no texts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from components.data.text import normalise
from components.records import Row

T = TypeVar("T")

# "dog2", "clock1230", "star_32pt05step": names of files and symbols, not words of people.
_MACHINE = re.compile(r"[^\W\d_]\d|\d[^\W\d_]{3}|_")
# What a catalogue says of itself rather than of one picture.
BOILERPLATE = re.compile(
    r"https?://|www\.|\S@\S+\.\w|<[a-z/!][^>]*>|&[a-z]+;"
    r"|\b(?:copyright|all rights reserved|untitled|lorem ipsum|click here|clip ?art|part of the .* collection)\b",
    re.IGNORECASE,
)
_SEARCHED = 2000
"""Characters searched for patterns; a longer caption is too long anyway."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """One image; None where there is nothing to measure."""

    id: str
    split: str
    label: str | None
    license: str | None
    captions: int
    pixels_sha256: str | None
    shorter_side_px: int | None
    aspect: float | None
    """Longer side over shorter side."""
    twins_here: int
    """Other images of its split with equal pixels and captions."""
    twins_across: int
    """Images with equal pixels outside of train for one in train, and in train for one outside."""
    namings: int
    """Different sets of captions under which its pixels stand; 0 if it cannot be read."""
    family_leaks: int
    """1 if its family of concepts stands in train and in a split of unseen concepts, and it is in one of these."""


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """One caption of one image."""

    id: str
    """Of the image."""
    letters: int
    """Letters and digits."""
    words: int
    characters: int
    odd_characters: int
    machine_tokens: int
    boilerplate: int
    concepts: int
    """Concepts that this caption names."""


def image_facts(rows: Sequence[Row]) -> list[ImageFacts]:
    """What is known of each image, alone and among the others."""
    pictures = [row for row in rows if row.pixels_sha256]
    sides = Counter((row.pixels_sha256, _is_training(row)) for row in pictures)
    copies = Counter(map(_copy, pictures))
    namings = _gather(pictures, lambda row: row.pixels_sha256, _names)
    splits = _gather(rows, lambda row: row.sample.concept_family, lambda row: row.sample.split)
    return [
        ImageFacts(
            id=row.sample.id,
            split=row.sample.split,
            label=row.sample.label.strip() or None,
            license=row.sample.license.strip() or None,
            captions=len(row.sample.captions),
            pixels_sha256=row.pixels_sha256 or None,
            shorter_side_px=min(row.width_px, row.height_px) or None,
            aspect=_aspect(row),
            twins_here=max(0, copies[_copy(row)] - 1),
            twins_across=sides[row.pixels_sha256, not _is_training(row)],
            namings=len(namings[row.pixels_sha256]),
            family_leaks=int(_leaks(row, splits[row.sample.concept_family])),
        )
        for row in rows
    ]


def caption_facts(rows: Sequence[Row]) -> list[CaptionFacts]:
    """What is known of each caption; one that stands at two images counts twice."""
    captions = [(row, caption) for row in rows for caption in row.sample.captions]
    concepts = _gather(
        captions, lambda pair: normalise(pair[1]), lambda pair: pair[0].sample.concept
    )
    return [
        CaptionFacts(
            id=row.sample.id,
            letters=sum(map(str.isalnum, caption)),
            words=len(caption.split()),
            characters=len(caption),
            odd_characters=sum(map(_is_odd, caption)),
            machine_tokens=len(_MACHINE.findall(caption[:_SEARCHED])),
            boilerplate=len(BOILERPLATE.findall(caption[:_SEARCHED])),
            concepts=len(concepts[normalise(caption)]),
        )
        for row, caption in captions
    ]


def _gather(
    items: Iterable[T], key: Callable[[T], Hashable], value: Callable[[T], Hashable]
) -> defaultdict[Hashable, set[Hashable]]:
    found: defaultdict[Hashable, set[Hashable]] = defaultdict(set)
    for item in items:
        found[key(item)].add(value(item))
    return found


def _aspect(row: Row) -> float | None:
    short, long = sorted((row.width_px, row.height_px))
    return long / short if short else None


def _copy(row: Row) -> Hashable:
    return row.pixels_sha256, row.sample.split, _names(row)


def _names(row: Row) -> frozenset[str]:
    return frozenset(map(normalise, row.sample.captions))


def _is_training(row: Row) -> bool:
    return row.sample.split == "train"


def _leaks(row: Row, splits: set[Hashable]) -> bool:
    held_out = {"val_concept", "test_concept"}
    return (
        "train" in splits
        and not splits.isdisjoint(held_out)
        and row.sample.split in {"train", *held_out}
    )


def _is_odd(character: str) -> bool:
    """Control characters, private ones and the mark of a decoding that failed; joiners of emoji are none."""
    return unicodedata.category(character) in {"Cc", "Co", "Cn"} or character == "\ufffd"
