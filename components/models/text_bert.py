"""A small BERT: the stage "mlm_text" that VisualBERT starts from (Devlin et al. 2019, arXiv:1810.04805).

`BertEncoder` is the stack that ALIGN reads with, `Bert` the same with a head, as VisualBERT has it; `TextBert` learns it from captions, by masked words alone (no next-sentence task).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import Config, ConfigError
from components.models.blocks import PostNormBlock, for_every_query
from components.models.groups import by_shape
from components.objectives.masking import IGNORED, hide_words, masked_cross_entropy
from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.text import Tokenizer
    from components.records import Row

EPS = 1e-12
"""BERT's floor in every norm."""


class TextTooLong(ValueError):
    """More tokens than the model has positions."""


@dataclass(frozen=True, kw_only=True)
class BertConfig(Config):
    """What a BERT is made of and how it hides words; the defaults are the tiny preset."""

    max_tokens: int = 24
    """Longest caption, with `<bos>` and `<eos>`."""
    positions: int = 64
    """Tokens it can read at once; two captions, or a question and a mask, must fit."""
    width: int = 128
    layers: int = 3
    heads: int = 4
    dropout: float = 0.1
    """Share of activations dropped, in [0, 1)."""
    mask_share: float = 0.15
    """Share of words that are hidden."""
    mask_id: int = 2
    """The token that stands for a hidden word."""
    first_word_id: int = 6
    """Tokens below it are specials and never hidden, nor is the last of the vocabulary, our `<eos>`."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"width={self.width} is not a multiple of heads={self.heads}; "
                "choose a number of heads that divides it."
            )
        if not 0 <= self.dropout < 1 or not 0 < self.mask_share <= 1:
            raise ConfigError(
                f"dropout={self.dropout} must be in [0, 1) and mask_share={self.mask_share} in (0, 1]; "
                "BERT has 0.1 and 0.15."
            )
        if self.max_tokens > self.positions:
            raise ConfigError(
                f"max_tokens={self.max_tokens} is more than positions={self.positions}; raise positions."
            )

    def fitted(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """With the tokenizer's vocabulary and special ids."""
        marks = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.mask_id, tokenizer.sep_id)
        last = max(*marks, tokenizer.image_id, tokenizer.endofchunk_id)
        fitted = super().fitted(rows, tokenizer)
        return replace(fitted, mask_id=tokenizer.mask_id, first_word_id=last + 1)


class BertEncoder(nn.Module):
    """Words, places and segments; blocks that see both ways."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.width
        self.words = nn.Embedding(config.vocab_size, width)
        self.places = nn.Embedding(config.positions, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PostNormBlock(width, config.heads, inner=4 * width, dropout=config.dropout, eps=EPS)
            for _ in range(config.layers)
        )
        self.apply(initialise_like_bert)

    def embed(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Tokens -> (B, T, D), not yet normalised. Raises TextTooLong."""
        length = tokens_BT.shape[1]
        if length > self.places.num_embeddings:
            raise TextTooLong(
                f"{length} tokens, and the model has {self.places.num_embeddings} positions; "
                "raise positions in its config, or cut the text."
            )
        segments = self.segments.weight[0] if segments_BT is None else self.segments(segments_BT)
        return self.words(tokens_BT) + segments + self.places.weight[:length]

    def run(
        self, x_BTD: Tensor, mask_BT: Tensor | None = None, looks: list[Tensor] | None = None
    ) -> Tensor:
        """Embeddings -> states of the last block.

        mask_BT: bool, False for padding. looks: takes in where each token looks in the last block, the mean over heads.
        """
        x_BTD = self.drop(self.norm(x_BTD))
        for block in self.blocks:
            if looks is not None and block is self.blocks[-1]:
                looks.append(block.attention.looks(x_BTD, for_every_query(mask_BT)))
            x_BTD = block(x_BTD, mask_BT)
        return x_BTD


class Bert(BertEncoder):
    """The encoder with a head that names hidden words."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        width = config.width
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=EPS))
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.head.apply(initialise_like_bert)

    def name_words(self, states_ND: Tensor) -> Tensor:
        """States -> (…, V) logits, by the words' own vectors."""
        return F.linear(self.head(states_ND), self.words.weight, self.head_bias)

    def mask_loss(self, states_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean loss of the hidden words; the states of all others take no part."""
        hidden_BT = labels_BT != IGNORED
        return masked_cross_entropy(self.name_words(states_BTD[hidden_BT]), labels_BT[hidden_BT])


class TextBert(nn.Module):
    """Learns the words that are hidden from it, from those around them."""

    Config: ClassVar[type[BertConfig]]

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)

    def batch_spec(self) -> BatchSpec:
        return BatchSpec(image_px=0, max_tokens=self.config.max_tokens)

    def initialise(self) -> None:
        """Nothing: it starts from random weights."""

    def loss(self, batch: Batch) -> Loss:
        """Mean of minus log p of the hidden words, in nats."""
        read_BT, labels_BT = hide(self.config, batch.tokens_BT)
        states_BTD = self.bert.run(self.bert.embed(read_BT), real(read_BT, batch.lengths_B))
        words = self.bert.mask_loss(states_BTD, labels_BT)
        return Loss(words, {"words": words.detach()}, items=(labels_BT != IGNORED).sum())

    def encode_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, D): the mean of each text's states, not normalised."""
        mask_BT = real(tokens_BT, lengths_B)
        states_BTD = self.bert.run(self.bert.embed(tokens_BT), mask_BT)
        return (states_BTD * mask_BT[..., None]).sum(1) / lengths_B[:, None]

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Matrices decay; norms and biases do not."""
        return by_shape(self)

    def after_step(self) -> None:
        """Nothing to clamp."""


@dataclass(frozen=True, kw_only=True)
class TextBertConfig(BertConfig):
    """The stage's own presets."""

    @classmethod
    def small(cls) -> Self:
        """BERT-Mini's shape: 4 layers of width 256."""
        return cls(width=256, layers=4, heads=4, max_tokens=64, positions=128)

    @classmethod
    def paper(cls) -> Self:
        """BERT-Base, uncased."""
        return cls(
            width=768, layers=12, heads=12, max_tokens=512, positions=512, vocab_size=30522,
            mask_id=103, first_word_id=999,
        )  # fmt: skip


TextBert.Config = TextBertConfig


def hide(config: BertConfig, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """What is read and the labels, as `hide_words` gives them; specials, `<eos>` among them, are never hidden."""
    words = range(config.first_word_id, config.vocab_size - 1)
    may_BT = (tokens_BT >= words.start) & (tokens_BT < words.stop)
    return hide_words(
        tokens_BT, may_BT, mask_id=config.mask_id, word_ids=words, share=config.mask_share
    )


def real(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Which tokens are no padding: bool (B, T)."""
    return torch.arange(tokens_BT.shape[1], device=tokens_BT.device) < lengths_B[:, None]


def initialise_like_bert(module: nn.Module) -> None:
    """BERT's rule: matrices from N(0, 0.02), biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
