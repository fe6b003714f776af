"""The golden corpus of what has no captions in it: SPICE from tuples, CLIPScore from embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.metrics import clipscore, spice

CLIPSCORE_TOLERANCE = 1e-5
"""The reference computes in float32."""

Deviation = tuple[str, float, float]
"""Shown name, absolute difference, tolerance."""


def spice_tuples(
    items: Sequence[Mapping[str, Any]], synsets: Mapping[str, Sequence[int]]
) -> Iterator[Deviation]:
    """Counts in every category, with synsets and without; whole numbers, so none may differ."""
    candidates, references = [item["test"] for item in items], [item["refs"] for item in items]
    named = spice.statistics(candidates, references, lambda word: synsets.get(word, ()))
    plain = spice.statistics(candidates, references)
    for image, item in enumerate(items):
        for column, category in enumerate(spice.CATEGORIES):
            yield from _counts(named, image, column, item["scores"][category])
        yield from _counts(plain, image, 0, item["all_nosynsets"])


def _counts(
    stats: spice.SpiceStatistics, image: int, column: int, theirs: Sequence[float]
) -> Iterator[Deviation]:
    matched = int(stats.matched_NC[image, column])
    offered, wanted = int(stats.offered_NC[image, column]), int(stats.wanted_NC[image, column])
    ours = (matched, offered - matched, wanted - matched)
    for mine, other in zip(ours, theirs, strict=False):  # theirs goes on with scores of these
        yield "SPICE from tuples", float(abs(mine - other)), 0.0


def embeddings(items: Sequence[Mapping[str, Any]]) -> Iterator[Deviation]:
    """CLIPScore, and RefCLIPScore where the paper and its programme agree (a reference term above 0)."""
    rows = [np.array([item[name] for item in items], np.float32) for name in ("image", "cand")]
    several = [np.array(item["refs"], np.float32) for item in items]
    stats = clipscore.statistics(rows[0], rows[1], several)
    ours = zip(clipscore.per_image(stats), clipscore.ref_per_image(stats), items, strict=True)
    for plain, with_references, item in ours:
        yield "CLIPScore", abs(float(plain) - item["CLIPScore"]), CLIPSCORE_TOLERANCE
        if item["ref_only"] > 0:
            theirs = item["RefCLIPScore"] or 0.0
            yield "RefCLIPScore", abs(float(with_references) - theirs), CLIPSCORE_TOLERANCE
