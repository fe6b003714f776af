"""What a family is handed for one of its slots: a frozen module of another origin, and how to have it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from components.config import ConfigError

if TYPE_CHECKING:
    from components.data.text import Tokenizer

Kind = Literal["stage", "package", "folder", "hub", "random", "version"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a part came from; JSON in a job and in a checkpoint."""

    kind: Kind
    """stage: an experiment of ours; package: weights an installed package carries; folder, hub: transformers' layout;
    random: a stand-in of the tiny preset, for tests; version: a registered version, of a teacher."""
    name: str
    """The experiment, package, folder or hub name (OWNER/MODEL or OWNER/MODEL@COMMIT); the family of a stand-in."""
    digest: str = ""
    """Of the checkpoint, or sha256 of the weights; what makes it the same part."""
    path: str = ""
    """Where a stage's checkpoint lies on this machine; no part of its identity."""

    @property
    def identity(self) -> str:
        """As people read it: "stage:clip_emoji_mini@0123456789ab"."""
        return f"{self.kind}:{self.name}@{self.digest[:12]}"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module, the tokenizer it reads with if it reads, and its origin."""

    module: nn.Module
    tokenizer: Tokenizer | None
    origin: Origin


NO_PARTS: Mapping[str, Part] = MappingProxyType({})
"""What a family is handed where nobody hands it anything."""


def handed(parts: Mapping[str, Part], slot: str, ability: type, family: str) -> Any:
    """The module in a slot, frozen and in eval mode.

    Raises ConfigError where nothing was handed, or what was handed cannot do what the slot asks.
    """
    if slot not in parts:
        raise ConfigError(
            f'{family} needs a part "{slot}"; name one in the experiment, as `parts: {{{slot}: stage:lm_shapes_l0}}`.'
        )
    module = parts[slot].module
    if not isinstance(module, ability):
        raise ConfigError(
            f'The part "{slot}" of {family} is a {type(module).__name__} ({parts[slot].origin.kind}:'
            f"{parts[slot].origin.name}), which is no {ability.__name__}; name one that is."
        )
    return module.requires_grad_(False).eval()
