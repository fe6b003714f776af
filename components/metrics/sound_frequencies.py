"""Whether a record of document frequencies that came from a file can be looked up in: NumPy's archive says nothing of it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from components.metrics.metric import MetricInputError

if TYPE_CHECKING:
    from components.metrics.frequencies import DocumentFrequencies


def refuse_unsound(record: DocumentFrequencies) -> None:
    """Raise MetricInputError for what counting cannot give: it would weigh words by chance, or by NaN."""
    for order, (keys, counts) in enumerate(zip(record.keys, record.counts, strict=True), start=1):
        if any(each.ndim != 1 or each.dtype.kind != "i" for each in (keys, counts)):
            raise _damaged(f"{order}-grams are no rows of whole numbers")
        if len(keys) != len(counts):
            raise _damaged(f"{len(keys)} {order}-grams have {len(counts)} counts")
        if (np.diff(keys) <= 0).any():
            raise _damaged(f"{order}-grams are out of order")
        if len(counts) and not 1 <= counts.min() <= counts.max() <= record.images:
            raise _damaged(
                f"{order}-grams stand in {counts.min()} to {counts.max()} of {record.images} images"
            )
    words = len(record.words)
    if record.images < 1 or len(set(record.words)) < words:
        raise _damaged(f"{record.images} images, and {words} words that are not all different")
    parents = pairwise((np.zeros(1, np.int64), *record.keys))
    for order, (shorter, keys) in enumerate(parents, start=1):
        if len(keys) and not 0 <= keys[0] <= keys[-1] < len(shorter) * words:
            raise _damaged(f"{order}-grams go on from others that are not there")


def _damaged(why: str) -> MetricInputError:
    return MetricInputError(f"These document frequencies are damaged: {why}.")
