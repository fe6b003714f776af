"""Training images under the captions that a teacher wrote (sequence-level distillation, Kim & Rush 2016, arXiv:1606.07947)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from components.data.batches import SplitImages
from components.records import Row

FINEST = 20
"""The largest denominator of a share: an image has at most so many times its captions."""


class TextsMissing(ValueError):
    """A file of a teacher's texts that does not hold one for each training image."""


def retold(images: SplitImages, texts: Path, share: float) -> SplitImages:
    """The same images, a share of whose captions is the teacher's one: all of them with 1.

    texts: JSON lines `{"id", "caption"}`. A caption is drawn evenly from an image's list, so that the teacher's stands
    there as often as its share takes, which is met to 0.025. Raises TextsMissing.
    """
    lines = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    told = {line["id"]: line["caption"] for line in lines}
    missing = [row.sample.id for row in images.rows if not told.get(row.sample.id)]
    if missing:
        raise TextsMissing(
            f'{texts} has no caption of {len(missing)} training images, as "{missing[0]}"; delete it, and the same '
            "command has the teacher write again."
        )
    return replace(images, rows=[_row(row, told[row.sample.id], share) for row in images.rows])


def _row(row: Row, caption: str, share: float) -> Row:
    own = row.sample.captions if share < 1 else ()
    if not own:
        return replace(row, sample=replace(row.sample, captions=(caption,)))
    # told : own = share : 1 - share in whole numbers, the smallest there are
    part = Fraction(share).limit_denominator(FINEST)
    told, each = part.numerator * len(own), part.denominator - part.numerator
    least = math.gcd(told, each)
    captions = (*own * (each // least), *(caption,) * (told // least))
    return replace(row, sample=replace(row.sample, captions=captions))
