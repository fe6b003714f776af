"""Candidates and references of the same images, side by side, and the images that lack one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class IncompleteCaptions(ValueError):
    """Images without a candidate or without references, where all were to be scored."""


@dataclass(frozen=True)
class Pairs:
    """Images that have both; in an order that depends on their names alone, so that files may be in any."""

    ids: tuple[str, ...]
    candidates: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    without_candidate: tuple[str, ...]
    without_reference: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Share of the images with references that have a candidate, in (0, 1]."""
        return len(self.ids) / (len(self.ids) + len(self.without_candidate))


def pair(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    allow_missing: bool = False,
) -> Pairs:
    """Join by image.

    allow_missing: leave images out that have only one side. Without it, and where nothing is left, raises
    IncompleteCaptions naming the images.
    """
    no_candidate = sorted(references.keys() - candidates.keys(), key=by_number)
    no_reference = sorted(candidates.keys() - references.keys(), key=by_number)
    ids = sorted(candidates.keys() & references.keys(), key=by_number)
    if not ids:
        raise IncompleteCaptions(
            f"No image has both a candidate and a reference: candidates are of {_listed(no_reference)}; "
            f"references are of {_listed(no_candidate)}. Are the files of the same images?"
        )
    if not allow_missing and (no_candidate or no_reference):
        raise IncompleteCaptions(_refusal(no_candidate, no_reference))
    return Pairs(
        ids=tuple(ids),
        candidates=tuple(candidates[image] for image in ids),
        references=tuple(tuple(references[image]) for image in ids),
        without_candidate=tuple(no_candidate),
        without_reference=tuple(no_reference),
    )


def by_number(image: str) -> tuple[bool, int, str]:
    """Sorts 9 before 10, and numbers before words."""
    number = image.isascii() and image.isdigit() and len(image) <= 40
    return not number, int(image) if number else 0, image


def _refusal(no_candidate: Sequence[str], no_reference: Sequence[str]) -> str:
    said = []
    if no_candidate:
        said.append(f"{_listed(no_candidate)} without a candidate")
    if no_reference:
        said.append(f"{_listed(no_reference)} without a reference")
    return (
        f"Not every image has both sides: {'; '.join(said)}. "
        "Add what is missing, or give --allow-missing to score the images that have both."
    )


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(image[:40] for image in ids[:10])
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return f"{len(ids)} image{'s' * (len(ids) != 1)} ({shown}{more})"
