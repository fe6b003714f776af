"""SimVLM's layers: an encoder whose image patches know how far apart they are, a decoder over it, and its cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.models.blocks import CrossAttention, KeysValues, SelfAttention


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
        self, x_BSD: Tensor, memory: KeysValues, seen_BM: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """The next representation, and this layer's keys and values of the words."""
        read, kept = self.words(self.norms[0](x_BSD), past, causal=True)
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
    """What was read, as each decoder layer's keys and values, and the words written so far; one row a text."""

    memory: tuple[KeysValues, ...]
    seen_NM: Tensor
    """bool: False where the memory holds padding."""
    given_N: Tensor
    """int64: tokens of the prefix, `<bos>` counted."""
    words: tuple[KeysValues, ...] = ()

    @property
    def written(self) -> int:
        """Tokens the decoder read so far, its `<bos>` counted."""
        return self.words[0].keys.shape[2] if self.words else 0

    def repeat(self, times: int) -> Writing:
        """Each row `times` times, side by side."""
        rows_N = torch.arange(len(self.given_N), device=self.given_N.device)
        return self.reorder(rows_N.repeat_interleave(times))

    def reorder(self, index_N: Tensor) -> Writing:
        """Row i becomes what row index_N[i] was, its image and prefix too."""
        return Writing(
            tuple(kept.select(index_N) for kept in self.memory),
            self.seen_NM[index_N],
            self.given_N[index_N],
            tuple(kept.select(index_N) for kept in self.words),
        )


def relative_index(side: int) -> Tensor:
    """(N, N) int64 for a square map of N = side² patches: which row of a bias table two patches' distance is.

    >>> relative_index(2)[0].tolist()
    [4, 3, 1, 0]
    """
    y_N, x_N = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    down_NN = y_N.flatten()[:, None] - y_N.flatten() + side - 1
    right_NN = x_N.flatten()[:, None] - x_N.flatten() + side - 1
    return down_NN * (2 * side - 1) + right_NN
