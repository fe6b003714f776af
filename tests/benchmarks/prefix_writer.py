"""A GPT-2 that continues an image's prefix, as our decoders drive it; the prefix is given as pixels, ready made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.models.causal_lm import CausalLm, CausalLmConfig

GPT2 = CausalLmConfig(
    width=512, layers=6, heads=8, positions=128, vocab_size=50257, eos_id=50256, bos_id=50256,
    pad_id=50256, settings={"initializer_range": 0.1},
)  # fmt: skip
"""45 M parameters, random, with words far enough apart that no search is decided by rounding."""


class PrefixWriter(nn.Module):
    """Meets the ability Captions: all that is before the first word is its argument."""

    def __init__(self, config: CausalLmConfig = GPT2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lm = CausalLm(config).eval()

    def prefill(
        self,
        prefix_BPD: Tensor,
        keys_B: Tensor | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Any, Tensor, Tensor]:
        hidden_BPD, past = self.lm.run(prefix_BPD)
        return past, self.lm.logits(hidden_BPD[:, -1]), hidden_BPD

    def step(self, state: Any, tokens_N: Tensor) -> tuple[Any, Tensor]:
        hidden_ND, state = self.lm.step(self.lm.embed(tokens_N), state)
        return state, hidden_ND

    def logits(self, hidden_ND: Tensor) -> Tensor:
        return self.lm.logits(hidden_ND)


def prefixes(rows: int, width: int, length: int = 10) -> Tensor:
    """(B, P, D) of what an image's mapper would give."""
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(1))
