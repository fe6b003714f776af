"""All that is chosen by name, on one screen: families, decoders, sources, metrics."""

from __future__ import annotations

from typing import Any

from components.decoding.beam import beam
from components.decoding.greedy import greedy
from components.models.clip import Clip
from components.models.virtex import VirTex
from components.table import Table

FAMILIES: Table[type[Any]] = Table(
    "model family",
    {
        "clip": Clip,
        "virtex": VirTex,
    },
)

DECODERS: Table[Any] = Table(
    "decoder",
    {
        "beam": beam,
        "greedy": greedy,
    },
)
