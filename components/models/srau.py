"""VisualGPT's block: a GPT-2 block whose words look at regions through self-resurrecting gates, and how far these open
(Chen et al. 2022, arXiv:2102.10407, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.models.blocks import CrossAttention, KeysValues
from components.models.gpt2 import CausalAttention, TwoLayers

if TYPE_CHECKING:
    from components.models.visualgpt import VisualGptConfig


def gates(pre: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """SRAU: how much language and how much vision pass, each in [0, 1]; a gate at or below the threshold is shut.

    `language = s 1[s > tau]` and `vision = (1 - s) 1[1 - s > tau]` with `s = sigmoid(pre)`: where both are open they
    sum to 1, and below tau 0.5 one of them always is, so `pre` never loses its gradient.

    >>> [round(value.item(), 2) for value in gates(torch.tensor(3.0), 0.2)]
    [0.95, 0.0]
    """
    language = torch.sigmoid(pre)
    vision = 1 - language
    return language * (language > threshold), vision * (vision > threshold)


class GatedBlock(nn.Module):
    """A GPT-2 block with a look at the regions between attention and the two layers.

    No residual leads around the gates: the language branch is the residual.
    """

    def __init__(self, config: VisualGptConfig) -> None:
        super().__init__()
        width = config.width
        self.threshold = config.threshold
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalAttention(width, config.heads, config.dropout)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = TwoLayers(width, config.dropout)
        self.look = CrossAttention(width, config.heads, dropout=config.dropout)
        self.gate_inputs: nn.ModuleList | None = None
        if config.gate_input == "concat":
            self.gate_inputs = nn.ModuleList(
                nn.Linear(2 * width, width) for _ in range(config.levels)
            )
        for layer in (self.look, *(self.gate_inputs or ())):
            for linear in (made for made in layer.modules() if isinstance(made, nn.Linear)):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)

    def read(self, levels: Sequence[Tensor]) -> list[KeysValues]:
        """Keys and values of every level, by one cross-attention and behind the norm that words go through too."""
        return [self.look.read(self.ln_1(level_BND)) for level_BND in levels]

    def forward(
        self,
        x_BTD: Tensor,
        images: Sequence[KeysValues],
        past: KeysValues | None = None,
        mask: Tensor | None = None,
        regions_BN: Tensor | None = None,
        opened: list[Tensor] | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """The next representation, and this block's keys and values of the words.

        regions_BN: bool, False for regions that are padding. opened: takes in how far the gates of vision are open, the
            mean over the width, (B, T, levels).
        """
        said, kept = self.attn(self.ln_1(x_BTD), past, mask)
        said = said + x_BTD
        asking, passed, open_BT = self.ln_1(said), [], []
        for level, image in enumerate(images):
            seen = self.look(asking, image, regions_BN)
            language, vision = gates(self.gate_input(level, said, seen), self.threshold)
            passed.append(language * said + vision * seen)
            if opened is not None:
                open_BT.append(vision.mean(dim=-1))
        if opened is not None:
            opened.append(torch.stack(open_BT, dim=-1))
        mixed = sum(passed[1:], start=passed[0]) / math.sqrt(len(images))
        return mixed + self.mlp(self.ln_2(mixed)), kept

    def gate_input(self, level: int, said: Tensor, seen: Tensor) -> Tensor:
        """What the gates of a level are opened by: the more, the more language."""
        if self.gate_inputs is None:
            return -said  # the paper's vision gate is the sigmoid of the state itself
        return self.gate_inputs[level](torch.cat([said, seen], dim=-1))
