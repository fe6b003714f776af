"""Layers through which a frozen language model looks at images: Flamingo's gated cross-attention, and how it is put
before blocks that are another model's (Alayrac et al. 2022, arXiv:2204.14198)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from components.config import ConfigError
from components.models.blocks import KeysValues
from components.models.resampler import Activation, MediaAttention, two_layers


class GatedCrossAttention(nn.Module):
    """The paper's GATED XATTN-DENSE: both branches behind the tanh of a scalar that starts at 0.

    So before the first step the language model is bit for bit what it was.
    """

    def __init__(
        self, width: int, media_width: int, heads: int, head_width: int, activation: Activation
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = MediaAttention(width, media_width, heads, head_width)
        self.layers = two_layers(width, activation)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.layers_gate = nn.Parameter(torch.zeros(()))

    def forward(self, x_BTD: Tensor, media: KeysValues, sees_BTN: Tensor | None) -> Tensor:
        seen = self.attention(self.norm(x_BTD), media, sees_BTN)
        x_BTD = x_BTD + self.attention_gate.tanh() * seen
        return x_BTD + self.layers_gate.tanh() * self.layers(x_BTD)


def looked_from(blocks: Sequence[nn.Module], every: int) -> list[nn.Module]:
    """The blocks of a language model that a gated layer stands before: each whose number, from 1, is a multiple.

    Raises ConfigError where there is none.
    """
    chosen = list(blocks)[every - 1 :: every]
    if not chosen:
        raise ConfigError(
            f"every={every} leaves no gated layer in a language model of {len(blocks)} blocks; at most {len(blocks)} "
            "works."
        )
    return chosen


def openness(gated: Iterable[nn.Module]) -> Tensor:
    """Mean of |tanh| of all gates of gated layers: 0 as long as the language model is alone."""
    gates = [value for layer in gated for value in (layer.attention_gate, layer.layers_gate)]
    return torch.stack(gates).tanh().abs().mean()


@contextmanager
def looking(
    blocks: Sequence[nn.Module],
    layers: Iterable[nn.Module],
    media: Sequence[KeysValues],
    sees_BTN: Tensor | None,
) -> Iterator[None]:
    """Each block with a gated layer before it; outside of this the blocks are nobody's but their model's."""

    def before(layer: nn.Module, images: KeysValues) -> Callable[..., tuple[Any, ...]]:
        return lambda block, inputs: (layer(inputs[0], images, sees_BTN), *inputs[1:])

    handles = [
        block.register_forward_pre_hook(before(layer, images))
        for block, layer, images in zip(blocks, layers, media, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
