"""The table `diptych families` prints: what each family can do, and how large its presets are."""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table

from components import abilities
from components.catalog import FAMILIES

ABILITIES = {
    "learns": abilities.Learns,
    "embeds": abilities.Embeds,
    "captions": abilities.Captions,
}
PRESETS = ("tiny", "small", "paper")


def show_families() -> None:
    """Print one row a family; parameters are counted on the meta device, so nothing is allocated."""
    table = Table("family", "paper", "can", *PRESETS)
    for name, family in FAMILIES.items():
        able = [word for word, protocol in ABILITIES.items() if issubclass(family, protocol)]
        table.add_row(
            name, _paper(family), ", ".join(able), *(_parameters(family, each) for each in PRESETS)
        )
    Console().print(table)


def _paper(family: type) -> str:
    first = (sys.modules[family.__module__].__doc__ or "").splitlines()[0]
    return first.partition("(")[2].rstrip(").")


def _parameters(family: type, preset: str) -> str:
    if not hasattr(family.Config, preset):
        return "n/a"
    with torch.device("meta"):
        model = family(family.Config.preset(preset))
    return f"{sum(value.numel() for value in model.parameters()) / 1e6:.1f} M"
