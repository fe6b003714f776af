"""SimVLM: an image and the start of a text are read, the rest is written (Wang et al. 2021, arXiv:2108.10904).

One encoder-decoder, one PrefixLM loss, on pairs and on plain text. A prompt or a question is part of the prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.abilities import Views
from components.config import Config, ConfigError
from components.models.backbones import IMAGENET_MEAN, IMAGENET_STD, VisionSlot, build_vision
from components.models.blocks import KeysValues
from components.models.encoder_decoder import DecoderLayer, EncoderLayer, Writing, relative_index
from components.models.graphs import has_values
from components.models.groups import by_shape
from components.models.prompts import Prompts, write_answers
from components.models.resnet import ResNet
from components.models.text_cache import TextCache
from components.objectives.language import mean_log_likelihood, predicted, token_cross_entropy
from components.objectives.prefix import Cut, cut, draw_given
from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.text import Tokenizer

BOS_ID = 1
"""Of every tokenizer here (components/data/text.py)."""

DEPTHS = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23), "resnet152": (3, 8, 36)}
"""Blocks of the first three stages, which are the paper's conv stage: stride 16."""


class TextTooLong(ValueError):
    """More tokens than the model has positions."""


@dataclass(frozen=True, kw_only=True)
class SimvlmConfig(Config):
    """What a SimVLM is made of; the defaults are the tiny preset."""

    vision: Literal["conv", "resnet50", "resnet101", "resnet152", "lite0"] = "conv"
    """Conv stage: a small ResNet, three stages of a large one, or the frozen pretrained Lite0."""
    image_px: int = 64
    """Side of the square input image, in pixels."""
    vision_widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage of "conv"; the map's stride is 4 and doubles with every further stage."""
    max_tokens: int = 24
    """Longest text, with `<bos>` and `<eos>`; a prompt counts too."""
    encoder_layers: int = 3
    decoder_layers: int = 3
    width: int = 128
    """Width of encoder and decoder; their inner layers are four times as wide."""
    heads: int = 4
    dropout: float = 0.0
    """Share of activations dropped, in [0, 1): none in pretraining, 0.1 where the paper fine-tunes."""
    text_only_share: float = 0.5
    """Share of a batch whose images are dropped, so that captions are learnt as plain text too, in [0, 1)."""
    texts: Literal["captions", "questions", "captions_and_questions"] = "captions"
    """What is read and written; questions make it answer."""
    flip: bool = False
    """Train on mirrored images too, with left and right swapped in their captions."""

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config must equal itself after a checkpoint.
        object.__setattr__(self, "vision_widths", tuple(self.vision_widths))
        if self.width % self.heads:
            raise ConfigError(
                f"width={self.width} is not a multiple of heads={self.heads}; "
                "choose a number of heads that divides it."
            )
        for name in ("dropout", "text_only_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} is not in [0, 1).")
        if self.max_tokens < 2:
            raise ConfigError(
                f"max_tokens={self.max_tokens} holds no <bos> and <eos>; give 2 or more."
            )

    @classmethod
    def small(cls) -> Self:
        """Half of the paper's Base, with three stages of ResNet-50."""
        return cls.paper(vision="resnet50", width=512, heads=8, encoder_layers=6, decoder_layers=6)

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """Base: the widths of ViT-B and three stages of ResNet-101.

        The paper is not clear on the number of layers; 12 and 12 is our reading.
        """
        base: dict[str, Any] = {
            "vision": "resnet101", "image_px": 224, "max_tokens": 64, "encoder_layers": 12,
            "decoder_layers": 12, "width": 768, "heads": 12, "vocab_size": 32000,
            "text_only_share": 1 / 9,
        }  # fmt: skip
        return cls(**base | changes)


class SimVLM(nn.Module):
    """Learns by writing the second part of each text, having read its first part and its image."""

    Config: ClassVar[type[SimvlmConfig]] = SimvlmConfig

    def __init__(self, config: SimvlmConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = _conv_stage(config)
        side = int(self.vision.map_tokens**0.5)
        self.projection = nn.Linear(self.vision.map_width, config.width)
        self.image_places = nn.Parameter(torch.randn(side * side, config.width) * 0.02)
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.max_tokens, config.width)
        self.encoder = nn.ModuleList(
            EncoderLayer(config.width, config.heads, side=side, dropout=config.dropout)
            for _ in range(config.encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(config.width)
        self.decoder = nn.ModuleList(
            DecoderLayer(config.width, config.heads, dropout=config.dropout)
            for _ in range(config.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(config.width)
        self.register_buffer("relative_index_NN", relative_index(side), persistent=False)
        for name, module in self.named_modules():
            if not name.startswith("vision") and isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(
            image_px=config.image_px, max_tokens=config.max_tokens, flip=config.flip,
            texts=config.texts,
        )  # fmt: skip

    def initialise(self) -> None:
        """Load the frozen tower's weights, if it has one. Raises PretrainedMissing."""
        self.vision.initialise()

    def loss(self, batch: Batch) -> Loss:
        """Mean over suffix tokens, in nats. In eval mode nothing is drawn: the whole text is predicted, from its image.

        The parts are the same over pairs, over plain texts, and over texts of which less or more than half was given.
        """
        return self.view_loss(self.views(batch), batch)

    def views(
        self, batch: Batch, wanted: Collection[str] = (), like: Views | None = None
    ) -> dict[str, Tensor]:
        """Logits of the second part of each text, `tokens`, and what was drawn: the tokens `given`, the `pairs` that keep
        their image."""
        rows = len(batch.lengths_B)
        given_B, pairs = self._draw(batch) if like is None else (like["given"], int(like["pairs"]))
        halves = cut(batch.tokens_BT, batch.lengths_B, given_B, bos_id=BOS_ID)
        # Batches are shuffled, so which rows lose their image may be the same each time.
        patches_BND = self._patches(batch.pixels_BCHW[:pairs], batch.keys_B[:pairs])
        patches_BND = F.pad(patches_BND, (0, 0, 0, 0, 0, rows - pairs))
        logits_NV = self.logits(self._read(patches_BND, pairs, halves))
        return {
            "tokens": logits_NV,
            "tokens_at": predicted(batch.lengths_B, given_B, batch.tokens_BT.shape[1]),
            "labels": halves.labels_BS[halves.learnt_BS],
            "learnt": halves.learnt_BS,
            "given": given_B,
            "pairs": torch.tensor(pairs),
        }

    def view_loss(self, views: Views, batch: Batch) -> Loss:
        """As `loss`."""
        logits_NV, labels_N, learnt_BS = views["tokens"], views["labels"], views["learnt"]
        share_B = views["given"] / batch.lengths_B
        parts = self._parts(logits_NV.detach(), labels_N, learnt_BS, int(views["pairs"]), share_B)
        return Loss(token_cross_entropy(logits_NV, labels_N), parts, learnt_BS.sum())

    def prefill(
        self, pixels_BCHW: Tensor, keys_B: Tensor | None = None, prompts: Prompts = None
    ) -> tuple[Writing, Tensor, Tensor]:
        """Read the images, `<bos>` and the prompts: (state, logits_BV of the first word, hidden_B1D).

        Prompts go into the prefix, so the decoder itself has read one token, its `<bos>`.
        """
        prefix_BP, given_B = _prefixes(prompts, pixels_BCHW.shape[0], pixels_BCHW.device)
        real_BP = torch.arange(prefix_BP.shape[1], device=given_B.device) < given_B[:, None]
        memory_BMD, seen_BM = self.encode(
            self._patches(pixels_BCHW, keys_B), torch.ones_like(given_B).bool(), prefix_BP, real_BP
        )
        memory, given_B1 = self._memory(memory_BMD), given_B[:, None]
        hidden_B1D, kept = self.decode(
            memory, seen_BM, torch.full_like(given_B1, BOS_ID), given_B1 - 1
        )
        state = Writing(memory, seen_BM, TextCache(kept, given_B1))
        return state, self.logits(hidden_B1D[:, 0]), hidden_B1D

    def step(self, state: Writing, tokens_N: Tensor) -> tuple[Writing, Tensor]:
        """Append one token to every text: (state, hidden_ND)."""
        past = state.words
        hidden_RQD, kept = self.decode(
            state.memory,
            state.seen_RM,
            past.by_row(tokens_N),
            past.next_RQ,
            past.layers,
            past.mask(),
        )
        return replace(state, words=past.grown(kept)), hidden_RQD.flatten(0, 1)

    @torch.no_grad()
    def match(
        self,
        pixels_BCHW: Tensor,
        tokens_BT: Tensor,
        lengths_B: Tensor,
        keys_B: Tensor | None = None,
    ) -> Tensor:
        """(B,) mean log likelihood of each token of text i after `<bos>`, given image i, in nats, at most 0."""
        halves = cut(tokens_BT, lengths_B, torch.ones_like(lengths_B), bos_id=BOS_ID)
        hidden_ND = self._read(self._patches(pixels_BCHW, keys_B), len(lengths_B), halves)
        labels_N = halves.labels_BS[halves.learnt_BS]
        return mean_log_likelihood(self.logits(hidden_ND), labels_N, halves.learnt_BS)

    def answer(
        self,
        pixels_BCHW: Tensor,
        questions: Sequence[str],
        tokenizer: Tokenizer,
        keys_B: Tensor | None = None,
    ) -> list[str]:
        """Greedy answers, each question in its prefix. Raises QuestionTooLong."""
        places = self.config.max_tokens
        return write_answers(
            self, pixels_BCHW, questions, tokenizer, keys_B, before=1, positions=places, longest=places
        )  # fmt: skip

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Two groups: matrices decay; gains and biases do not."""
        return by_shape(self)

    def after_step(self) -> None:
        """Nothing to clamp."""

    def encode(
        self, patches_BND: Tensor, has_image_B: Tensor, prefix_BP: Tensor, real_BP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Image patches and prefix, each seeing all: (states_BMD, seen_BM), M = N + P; a dropped image is not seen."""
        places_P = self.places.weight[: prefix_BP.shape[1]]
        if len(places_P) < prefix_BP.shape[1]:
            raise _too_long(prefix_BP.shape[1], len(places_P))
        x_BMD = torch.cat([patches_BND, self.words(prefix_BP) + places_P], dim=1)
        seen_BM = torch.cat([has_image_B[:, None].expand(-1, patches_BND.shape[1]), real_BP], dim=1)
        for layer in self.encoder:
            x_BMD = layer(x_BMD, seen_BM, self.relative_index_NN)
        return self.encoder_norm(x_BMD), seen_BM

    def decode(
        self,
        memory: Sequence[KeysValues],
        seen_BM: Tensor,
        inputs_BS: Tensor,
        positions_BS: Tensor,
        past: Sequence[KeysValues] = (),
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[KeysValues, ...]]:
        """(hidden_BSD after the last norm, each layer's keys and values of the words); `mask` as in `attend`."""
        if has_values() and (last := int(positions_BS.max())) >= self.config.max_tokens:
            raise _too_long(last + 1, self.config.max_tokens)
        x_BSD, words = self.words(inputs_BS) + self.places(positions_BS), []
        for number, layer in enumerate(self.decoder):
            before = past[number] if past else None
            x_BSD, kept = layer(x_BSD, memory[number], seen_BM, before, mask)
            words.append(kept)
        return self.decoder_norm(x_BSD), tuple(words)

    def logits(self, hidden_BSD: Tensor) -> Tensor:
        """Scores of every word, by the embedding itself."""
        return F.linear(hidden_BSD, self.words.weight)

    def _patches(self, pixels_BCHW: Tensor, keys_B: Tensor | None) -> Tensor:
        map_BND, _ = self.vision.encode(pixels_BCHW, keys_B)
        return self.projection(map_BND) + self.image_places

    def _memory(self, memory_BMD: Tensor) -> tuple[KeysValues, ...]:
        return tuple(layer.memory.read(memory_BMD) for layer in self.decoder)

    def _read(self, patches_BND: Tensor, pairs: int, halves: Cut) -> Tensor:
        """Hidden states where a token is learnt, row after row; the first `pairs` rows have images."""
        has_image_B = torch.arange(len(patches_BND), device=patches_BND.device) < pairs
        memory_BMD, seen_BM = self.encode(
            patches_BND, has_image_B, halves.prefix_BP, halves.prefix_real_BP
        )
        hidden_BSD, _ = self.decode(
            self._memory(memory_BMD), seen_BM, halves.inputs_BS, halves.positions_BS
        )
        return hidden_BSD[halves.learnt_BS]

    def _draw(self, batch: Batch) -> tuple[Tensor, int]:
        """How many tokens of each text are given, and how many rows have images."""
        rows = len(batch.lengths_B)
        if not self.training:
            return batch.prompts_B, rows
        given_B = draw_given(batch.prompts_B, batch.lengths_B)
        return given_B, rows - int(rows * self.config.text_only_share)

    @staticmethod
    def _parts(
        logits_NV: Tensor, labels_N: Tensor, learnt_BS: Tensor, pairs: int, share_B: Tensor
    ) -> dict[str, Tensor]:
        nats_N = F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
        row_N = learnt_BS.nonzero()[:, 0]
        picked = {
            "pairs": row_N < pairs,
            "text_only": row_N >= pairs,
            "prefix_short": share_B[row_N] < 0.5,
            "prefix_long": share_B[row_N] >= 0.5,
        }
        return {
            name: nats_N[rows_N].mean() for name, rows_N in picked.items() if bool(rows_N.any())
        }


def _conv_stage(config: SimvlmConfig) -> VisionSlot:
    if config.vision == "lite0":
        return build_vision("lite0", config.image_px)
    if config.vision == "conv":
        tower = ResNet(
            config.vision_widths, [1] * len(config.vision_widths), stem=config.vision_widths[0]
        )
    else:
        tower = ResNet((256, 512, 1024), DEPTHS[config.vision], stem=64, bottleneck=True)
    return VisionSlot(tower, config.image_px, IMAGENET_MEAN, IMAGENET_STD)


def _prefixes(prompts: Prompts, rows: int, device: Any) -> tuple[Tensor, Tensor]:
    """`<bos>` and each row's prompt, padded on the right: (prefix_BP, given_B)."""
    if prompts is None:
        one_B1 = torch.full((rows, 1), BOS_ID, device=device)
        return one_B1, torch.ones_like(one_B1[:, 0])
    if len(prompts) != rows:
        raise ValueError(f"{len(prompts)} prompts for {rows} images; give each image one.")
    lists = [torch.tensor([BOS_ID, *prompt]) for prompt in prompts]
    given_B = torch.tensor([len(ids) for ids in lists], device=device)
    return nn.utils.rnn.pad_sequence(lists, batch_first=True).to(device), given_B


def _too_long(tokens: int, places: int) -> TextTooLong:
    return TextTooLong(
        f"{tokens} tokens, and the model has {places} positions; raise max_tokens in the family's config, "
        "or ask the decoder for fewer."
    )
