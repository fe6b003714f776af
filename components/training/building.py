"""A model from its name, its config and the parts its slots are handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from components.catalog import FOLDERS, MODELS, PACKAGES, STAND_INS
from components.config import Config, ConfigError
from components.data.text import Tokenizer
from components.models.hub_snapshot import snapshot
from components.models.parts import Origin, Part


def build(name: str, config: Config, parts: Mapping[str, Part] | None = None) -> nn.Module:
    """The model called `name`, with random weights of its own; `handed_parts` tells what it was handed.

    Raises UnknownName, and ConfigError for a part that is missing or cannot do what its slot asks.
    """
    family = MODELS[name]
    kept = {slot: part for slot, part in (parts or {}).items() if slot in slots(family)}
    model: Any = family(config, kept) if slots(family) else family(config)
    model.handed_parts = kept
    built: nn.Module = model
    return built


def slots(family: type) -> Mapping[str, type]:
    """The slots that a model of this family cannot live without, and what each asks of its part."""
    found: Mapping[str, type] = getattr(family, "PARTS", {})
    return found


def starts(family: type) -> Mapping[str, type]:
    """The slots whose weights are copied when training starts; a checkpoint needs them no more."""
    found: Mapping[str, type] = getattr(family, "STARTS", {})
    return found


def find_part(slot: str, origin: Origin, *, fetch: bool = True) -> Part:
    """A part that is kept outside of checkpoints: in a package, a folder or on the Hub.

    fetch: whether a Hub name may be fetched; a checkpoint that is read may only use what is here.
    Raises ConfigError for weights that are not those the origin names by digest, PretrainedMissing for a package that
    is not installed.
    """
    if origin.kind == "package":
        part = PACKAGES[origin.name]()
    else:
        folder = snapshot(origin.name, fetch=fetch) if origin.kind == "hub" else origin.name
        part = FOLDERS[slot](str(folder))
    if origin.digest and part.origin.digest != origin.digest:
        raise ConfigError(
            f"{origin.kind}:{origin.name} holds weights {part.origin.digest[:12]}, and the model was made with "
            f"{origin.digest[:12]}; bring those back, or train the model anew."
        )
    # As it was asked for: where this machine keeps a Hub's folder is no part of what a part is.
    return replace(part, origin=replace(origin, digest=part.origin.digest))


def random_part(slot: str, tokenizer: Tokenizer) -> Part:
    """A stand-in for a slot: the tiny preset of what usually goes there, untrained, for this tokenizer; or its `stand_in`."""
    name = STAND_INS[slot]
    made = MODELS[name].Config
    config: Any = getattr(made, "stand_in", made.tiny)().fitted((), tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(name, config)
    return Part(
        module=module.requires_grad_(False).eval(),
        tokenizer=tokenizer,
        origin=Origin(kind="random", name=name),
    )
