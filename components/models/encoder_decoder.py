"""SimVLM's layers: an encoder whose image patches know how far apart they are, a decoder over it, and its cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.models.blocks import CrossAttention, KeysValues, SelfAttention
from components.models.text_cache import TextCache, taken


class EncoderLayer(nn.Module):
    """Pre-norm layer over image and prefix together; image patches know how far apart they are."""

    def __init__(self, width: int, heads: int, *, side: int, dropout: float = 0.0) -> None:
        """side: patches along a side of the square map."""
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = SelfAttention(width, heads, dropout=dropout)
        self.relative = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.inner = _inner(width, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BMD: Tensor, seen_BM: Tensor, index_NN: Tensor) -> Tensor:
        bias_HNN = self.relative[index_NN].permute(2, 0, 1)
        text = x_BMD.shape[1] - index_NN.shape[0]
        bias_1HMM = F.pad(bias_HNN, (0, text, 0, text))[None]
        mask_BHMM = bias_1HMM.masked_fill(~seen_BM[:, None, None, :], float("-inf"))
        normed_BMD = self.norms[0](x_BMD)
        attended, _ = self.attention(normed_BMD, mask=mask_BHMM)
        x_BMD = x_BMD + self.drop(attended)
        return x_BMD + self.drop(self.inner(self.norms[1](x_BMD)))


class DecoderLayer(nn.Module):
    """Pre-norm layer: over the words so far, over what the encoder made, then two layers with GELU."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.words = SelfAttention(width, heads, dropout=dropout)
        self.memory = CrossAttention(width, heads, dropout=dropout)
        self.inner = _inner(width, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x_BSD: Tensor,
        memory: KeysValues,
        seen_BM: Tensor,
        past: KeysValues | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, KeysValues]:
        """The next representation, and this layer's keys and values of the words; `past` and `mask` as in `attend`."""
        read, kept = self.words(self.norms[0](x_BSD), past, causal=True, mask=mask)
        x_BSD = x_BSD + self.drop(read)
        x_BSD = x_BSD + self.drop(self.memory(self.norms[1](x_BSD), memory, seen_BM))
        return x_BSD + self.drop(self.inner(self.norms[2](x_BSD))), kept


def _inner(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 4 * width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(4 * width, width),
    )


@dataclass(frozen=True)
class Writing:
    """What was read, as each decoder layer's keys and values, and the words written so far."""

    memory: tuple[KeysValues, ...]
    """A row for each of the words'."""
    seen_RM: Tensor
    """bool: False where the memory holds padding."""
    words: TextCache

    def reorder(self, index_N: Tensor) -> Writing:
        """Text i becomes what text index_N[i] was, its image and prefix too."""
        words, row_R = self.words.moved(index_N)
        seen_RM = self.seen_RM if row_R is None else self.seen_RM[row_R]
        return Writing(taken(self.memory, row_R), seen_RM, words)


def relative_index(side: int) -> Tensor:
    """(N, N) int64 for a square map of N = side² patches: which row of a bias table two patches' distance is.

    >>> relative_index(2)[0].tolist()
    [4, 3, 1, 0]
    """
    y_N, x_N = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    down_NN = y_N.flatten()[:, None] - y_N.flatten() + side - 1
    right_NN = x_N.flatten()[:, None] - x_N.flatten() + side - 1
    return down_NN * (2 * side - 1) + right_NN
