"""A language model of another origin that goes on learning from the captions alone: the stage "adapted_lm".

MAGIC writes with a language model that knows how captions are written, learnt without any image ("unsupervised language
modelling on the captions": Su et al. 2022, arXiv:2205.02655, section 3.1). Here only the last blocks learn, so that a
CPU can do it and a checkpoint holds no more than them; all else stays the part's own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from components.abilities import LanguageModel
from components.config import Config, ConfigError
from components.models.causal_lm import language_loss
from components.models.groups import by_shape
from components.models.parts import NO_PARTS, Part, handed
from components.records import Batch, BatchSpec, Loss


@dataclass(frozen=True, kw_only=True)
class AdaptedLmConfig(Config):
    """What learns, and from what; the defaults are the tiny preset."""

    learnt_blocks: int = 4
    """How many of the last blocks learn."""
    max_tokens: int = 24
    """Longest text it learns from, with `<bos>` and `<eos>`."""
    texts: str = "captions"
    """Which texts it learns from: a name in `components/data/texts.py`."""
    simctg_margin: float = 0.0
    """SimCTG's rho, as in the stage "lm"; 0 is off, MAGIC's 0.5."""

    def __post_init__(self) -> None:
        if self.learnt_blocks < 1 or self.max_tokens < 3 or not 0 <= self.simctg_margin <= 2:
            raise ConfigError(
                f"learnt_blocks={self.learnt_blocks}, max_tokens={self.max_tokens}, simctg_margin="
                f"{self.simctg_margin}: at least 1, at least 3, and from 0 to 2 are needed."
            )

    @classmethod
    def small(cls) -> Self:
        """The last fifth of SmolLM2's thirty blocks: 21 M of its 135 M parameters."""
        return cls(learnt_blocks=6, max_tokens=32)

    @classmethod
    def paper(cls) -> Self:
        """All twelve blocks of GPT-2, with SimCTG's margin; the paper moves its word vectors too."""
        return cls(learnt_blocks=12, max_tokens=64, simctg_margin=0.5)


class AdaptedLm(nn.Module):
    """Reads and writes as the language model it was handed, with last blocks of its own."""

    Config: ClassVar[type[AdaptedLmConfig]] = AdaptedLmConfig
    PARTS: ClassVar[Mapping[str, type]] = {"lm": LanguageModel}
    TOKENIZER: ClassVar[str | None] = "lm"

    def __init__(self, config: AdaptedLmConfig, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Raises ConfigError for a part that is missing, is no language model, or has fewer blocks or positions."""
        super().__init__()
        self.config = config
        given = handed(parts, "lm", LanguageModel, "adapted_lm")
        _refuse_misfit(config, given)
        self.lm = _with_own(given, config.learnt_blocks)
        self.width, self.vocab_size = given.width, given.vocab_size
        self.bos_id, self.eos_id, self.pad_id = given.bos_id, given.eos_id, given.pad_id
        self.max_positions: int | None = given.max_positions

    @property
    def blocks(self) -> nn.ModuleList:
        """The model's layers in order, its own among them."""
        found: nn.ModuleList = self.lm.blocks
        return found

    def train(self, mode: bool = True) -> Self:
        """What does not learn stays in eval mode."""
        super().train(False)
        for block in self.blocks[-self.config.learnt_blocks :]:
            block.train(mode)
        return self

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Token ids -> (B, T, width), positions not yet added."""
        found: Tensor = self.lm.embed(tokens_BT)
        return found

    def run(
        self,
        inputs_BTD: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask_BT: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Embeddings -> (hidden_BTD after the final norm, the cache of them), as the part's own `run`."""
        found: tuple[Tensor, Any] = self.lm.run(
            inputs_BTD, positions_BT=positions_BT, mask_BT=mask_BT
        )
        return found

    def step(self, inputs_ND: Tensor, past: Any) -> tuple[Tensor, Any]:
        """One more token of each text, as the part's own `step`."""
        found: tuple[Tensor, Any] = self.lm.step(inputs_ND, past)
        return found

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """States -> (..., vocab_size)."""
        found: Tensor = self.lm.logits(hidden_BTD)
        return found

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(image_px=0, max_tokens=config.max_tokens, texts=config.texts)

    def initialise(self) -> None:
        """Nothing: its blocks begin as the part's."""

    def loss(self, batch: Batch) -> Loss:
        """Mean of minus log p of each token that is not given, in nats, and SimCTG's margin loss if it is asked for."""
        return language_loss(self.lm, batch, self.config.simctg_margin)

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Matrices decay; gains and biases do not."""
        return by_shape(self)

    def after_step(self) -> None:
        """Nothing to clamp."""


def _refuse_misfit(config: AdaptedLmConfig, lm: LanguageModel) -> None:
    if config.learnt_blocks > len(lm.blocks):
        raise ConfigError(
            f"learnt_blocks={config.learnt_blocks}, and the language model has {len(lm.blocks)} blocks; "
            f"set learnt_blocks: {len(lm.blocks)} or less."
        )
    if lm.max_positions is not None and config.max_tokens > lm.max_positions:
        raise ConfigError(
            f"max_tokens={config.max_tokens}, and the language model has {lm.max_positions} positions; "
            f"set max_tokens: {lm.max_positions} or less."
        )


def _with_own(lm: Any, learnt: int) -> Any:
    """The model anew: its last blocks are copies that learn, every other tensor is the very one of the part."""
    own = {
        id(tensor)
        for block in lm.blocks[-learnt:]
        for tensor in block.state_dict(keep_vars=True).values()
    }
    shared = [tensor for tensor in lm.state_dict(keep_vars=True).values() if id(tensor) not in own]
    with torch.no_grad():
        made = copy.deepcopy(lm, {id(tensor): tensor for tensor in shared})
    made.blocks[-learnt:].requires_grad_(True)
    return made
