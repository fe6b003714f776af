"""What `diptych families` prints: each family's paper, abilities, slots, presets and parameters."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import Any

import torch

from components import abilities
from components.catalog import FAMILIES
from components.config import ConfigError
from components.data.text import SMALLEST_VOCAB, Tokenizer
from components.training.building import build, random_part, slots

ABILITIES = {
    "learns": abilities.Learns,
    "embeds": abilities.Embeds,
    "captions": abilities.Captions,
    "steers": abilities.Steers,
    "matches": abilities.Matches,
    "answers": abilities.Answers,
    "learns in context": abilities.InContext,
    "detects": abilities.Detects,
    "probes": abilities.Probes,
    "indexes": abilities.Indexes,
}
PRESETS = ("tiny", "small", "paper")
_CITED = re.compile(r"\(([^()]*\d{4}[^()]*)\)")


def show_families(as_json: bool = False) -> None:
    """Print one row a family; parameters are counted on the meta device, so nothing is allocated."""
    found = [describe(name) for name in FAMILIES]
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("family", "paper", "can", "frozen parts", *PRESETS)
    for row in found:
        sizes = (_in_words(row["parameters"].get(each)) for each in PRESETS)
        table.add_row(
            row["family"],
            row["paper"],
            ", ".join(row["abilities"]),
            ", ".join(row["parts"]),
            *sizes,
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print("Parameters are a family's own, without its frozen parts; - where the parts decide.")


def describe(name: str) -> dict[str, Any]:
    """A family as JSON can hold it; `parameters` are its own, null where they follow from the parts it is given."""
    family = FAMILIES[name]
    presets = [each for each in PRESETS if hasattr(family.Config, each)]
    return {
        "family": name,
        "paper": _paper(family),
        "abilities": [word for word, each in ABILITIES.items() if issubclass(family, each)],
        "parts": list(slots(family)),
        "presets": presets,
        "parameters": {each: _parameters(name, each) for each in presets},
    }


def _paper(family: type) -> str:
    cited = _CITED.search(sys.modules[family.__module__].__doc__ or "")
    return " ".join(cited[1].partition(";")[0].split()) if cited else ""


def _parameters(name: str, preset: str) -> int | None:
    """Own parameters of a preset; beside its parts a family is counted with small stand-ins, which only fit `tiny`."""
    family = FAMILIES[name]
    config, parts = family.Config.preset(preset), {}
    with torch.device("meta"):
        if slots(family) and preset == "tiny":
            tokenizer = Tokenizer.train(["a"], SMALLEST_VOCAB)
            config = replace(config, vocab_size=tokenizer.vocab_size)
            parts = {slot: random_part(slot, tokenizer) for slot in slots(family)}
        try:
            model = build(name, config, parts)
        except ConfigError:  # a part is missing: how large it is decides
            return None
    lent = {id(value) for part in parts.values() for value in part.module.parameters()}
    return sum(value.numel() for value in model.parameters() if id(value) not in lent)


def _in_words(parameters: int | None) -> str:
    return "-" if parameters is None else f"{parameters / 1e6:.1f} M"
