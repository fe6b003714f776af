"""Layers that two families use just as they are: attention with a cache, and the pre-norm block.

Not for a layer of one family: that stays in the family's own file.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeysValues(NamedTuple):
    """What attention reads: keys and values, each (rows, heads, tokens, width / heads)."""

    keys: Tensor
    values: Tensor

    def select(self, index_N: Tensor) -> KeysValues:
        """Rows in another order, or fewer, or repeated."""
        return KeysValues(self.keys.index_select(0, index_N), self.values.index_select(0, index_N))

    def columns(self, index_N: Tensor, column_NS: Tensor) -> KeysValues:
        """Rows as by `select`, and of each row some of its tokens, in an order of its own."""
        row_N1 = index_N[:, None]
        return KeysValues(
            *(kept.transpose(1, 2)[row_N1, column_NS].transpose(1, 2) for kept in self)
        )


def split_heads(x_BTD: Tensor, heads: int) -> Tensor:
    """(B, T, D) -> (B, heads, T, D / heads)."""
    return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x_BHTd: Tensor) -> Tensor:
    """(B, heads, T, D / heads) -> (B, T, D)."""
    return x_BHTd.transpose(1, 2).flatten(2)


def attend(
    inward_BTE: Tensor,
    heads: int,
    past: KeysValues | None = None,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, KeysValues]:
    """A sequence's queries, keys and values side by side (E = 3 D) -> (B, T, D) of what was seen, heads side by side,
    and keys and values up to its end.

    With `past` and without a mask the input holds exactly one token a row, which may see all of the past.

    mask: True where a token (last but one dimension) may read a column (last), or numbers to add; it replaces `causal`.
    """
    query, key, value = (split_heads(part, heads) for part in inward_BTE.chunk(3, -1))
    if past is not None:
        key = torch.cat([past.keys, key], dim=2)
        value = torch.cat([past.values, value], dim=2)
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and past is None and mask is None,
    )
    return merge_heads(mixed), KeysValues(key, value)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence over itself; one product makes queries, keys and values."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)

    def forward(
        self,
        x_BTD: Tensor,
        past: KeysValues | None = None,
        *,
        causal: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """The attended sequence, and keys and values up to its end; `past`, `causal` and `mask` as in `attend`."""
        mixed_BTD, kept = attend(
            self.inward(x_BTD), self.heads, past, causal=causal, mask=mask,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.outward(mixed_BTD), kept

    def one(self, x_BTD: Tensor, at_B: Tensor, *, causal: bool = False) -> Tensor:
        """(B, D): what the token at `at_B` of each row sees; the others are keys and values alone."""
        width = x_BTD.shape[-1]
        weights, biases = (
            (value[:width], value[width:]) for value in (self.inward.weight, self.inward.bias)
        )
        asks_B1D = F.linear(pick(x_BTD, at_B)[:, None], weights[0], biases[0])
        key, value = F.linear(x_BTD, weights[1], biases[1]).chunk(2, -1)
        mask = None
        if causal:
            mask = torch.arange(x_BTD.shape[1], device=at_B.device) <= at_B[:, None, None, None]
        mixed = F.scaled_dot_product_attention(
            *(split_heads(part, self.heads) for part in (asks_B1D, key, value)), attn_mask=mask
        )
        return self.outward(merge_heads(mixed))[:, 0]

    def looks(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, T): how much of each column a token reads, the mean over heads; rows sum to 1. mask: bool, as in `attend`."""
        query, key, _ = (split_heads(part, self.heads) for part in self.inward(x_BTD).chunk(3, -1))
        scores_BHTT = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores_BHTT = scores_BHTT.masked_fill(~mask, -torch.inf)
        return scores_BHTT.softmax(dim=-1).mean(dim=1)


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence over a memory, whose keys and values can be made once."""

    def __init__(
        self, width: int, heads: int, *, out_width: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(width, 2 * width)
        self.outward = nn.Linear(width, out_width or width)

    def read(self, memory_BND: Tensor) -> KeysValues:
        """Keys and values of a memory."""
        key, value = (
            split_heads(part, self.heads) for part in self.memory(memory_BND).chunk(2, -1)
        )
        return KeysValues(key, value)

    def forward(self, x_BTD: Tensor, memory: KeysValues, mask_BN: Tensor | None = None) -> Tensor:
        """(B, T, out_width): every token looks at the memory of its row.

        mask_BN: bool, False for places of the memory that nobody may see; all may be seen by default.
        """
        mixed = F.scaled_dot_product_attention(
            split_heads(self.query(x_BTD), self.heads),
            memory.keys,
            memory.values,
            attn_mask=for_every_query(mask_BN),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.outward(merge_heads(mixed))


def pick(x_BTD: Tensor, at_B: Tensor) -> Tensor:
    """(B, D): one token of each row."""
    return x_BTD[torch.arange(x_BTD.shape[0], device=x_BTD.device), at_B]


def for_every_query(mask_BN: Tensor | None) -> Tensor | None:
    """A mask over what is looked at, the same for every head and every token that looks."""
    return None if mask_BN is None else mask_BN[:, None, None, :]


class QuickGELU(nn.Module):
    """`x * sigmoid(1.702 x)`: CLIP's weights were trained with it and lose 3 points with GELU."""

    def forward(self, x: Tensor) -> Tensor:
        # The same by one kernel, which keeps one tensor for the backward pass instead of two.
        return F.silu(1.702 * x) * (1 / 1.702)


class PreNormBlock(nn.Module):
    """Transformer block that normalises before attention and before its two layers (CLIP's, both towers)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm_layers = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x_BTD: Tensor, *, causal: bool = False, at_B: Tensor | None = None) -> Tensor:
        """(B, T, D); with `at_B`, int64, of each row only that token, (B, D), for a quarter of the products.

        That is how a last block is run whose tower is read at one token.
        """
        normed_BTD = self.norm_attention(x_BTD)
        if at_B is None:
            attended, _ = self.attention(normed_BTD, causal=causal)
        else:
            attended = self.attention.one(normed_BTD, at_B, causal=causal)
            x_BTD = pick(x_BTD, at_B)
        x_BTD = x_BTD + attended
        return x_BTD + self.layers(self.norm_layers(x_BTD))


class PostNormBlock(nn.Module):
    """Transformer block that normalises after each sum, as the first Transformer and BERT do."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        inner: int,
        dropout: float = 0.0,
        eps: float = 1e-5,
        bend: type[nn.Module] = nn.GELU,
    ) -> None:
        """inner: width between its two layers. bend: the activation there."""
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout=dropout)
        self.norm_attention = nn.LayerNorm(width, eps=eps)
        self.layers = nn.Sequential(nn.Linear(width, inner), bend(), nn.Linear(inner, width))
        self.norm_layers = nn.LayerNorm(width, eps=eps)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """mask_BT: bool, False for padding, which nobody sees; what stands there itself is of no meaning."""
        attended, _ = self.attention(x_BTD, mask=for_every_query(mask_BT))
        x_BTD = self.norm_attention(x_BTD + self.drop(attended))
        return self.norm_layers(x_BTD + self.drop(self.layers(x_BTD)))


def initialise_block(block: PreNormBlock, *, width: int, layers: int) -> None:
    """CLIP's rule: `W^-1/2` inward, that over `(2 layers)^1/2` outward, `(2 W)^-1/2` for the first layer."""
    out_std = width**-0.5 * (2 * layers) ** -0.5
    nn.init.normal_(block.attention.inward.weight, std=width**-0.5)
    nn.init.normal_(block.attention.outward.weight, std=out_std)
    nn.init.normal_(block.layers[0].weight, std=(2 * width) ** -0.5)
    nn.init.normal_(block.layers[2].weight, std=out_std)
    for linear in (
        block.attention.inward,
        block.attention.outward,
        block.layers[0],
        block.layers[2],
    ):
        nn.init.zeros_(linear.bias)
