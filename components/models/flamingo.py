"""Flamingo: a frozen language model that looks at frozen vision and learns from examples in its prompt
(Alayrac et al. 2022, arXiv:2204.14198; open_flamingo, arXiv:2308.01390, where the paper is silent).

Besides the letters of `records.py`: M documents, S images of a document, P positions of a map, R latents of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from components.abilities import LanguageModel, Shots, Views
from components.config import Config, ConfigError
from components.models.backbones import frozen_vision
from components.models.blocks import KeysValues
from components.models.interleave import (
    NO_LABEL,
    Documents,
    Marks,
    behind_shots,
    interleave,
    padded_left,
    require_room,
)
from components.models.parts import NO_PARTS, Part, handed
from components.models.prompts import write_answers
from components.models.resampler import (
    Activation,
    GatedCrossAttention,
    Resampler,
    Written,
    looked_from,
    looking,
    openness,
)
from components.objectives.language import mean_log_likelihood, token_cross_entropy
from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class FlamingoConfig(Config):
    """What joins the two frozen models; the defaults are the tiny preset."""

    image_px: int = 64
    """Side of the square input image, in pixels; what the tower was trained on."""
    max_tokens: int = 24
    """Longest caption, with `<bos>` and `<eos>`."""
    texts: str = "captions"
    """Which texts it learns from: a name in `components/data/texts.py`."""
    flip: bool = False
    """Train on mirrored images too, with left and right swapped in their captions."""
    images_per_document: int = 2
    """Rows of a batch that make one document; 1 trains on pairs alone."""
    ahead: float = 0.5
    """Share of documents of several images whose texts stand before their images and see the next one, in [0, 1]."""
    latents: int = 8
    """Vectors that the resampler makes of an image."""
    resampler_layers: int = 2
    frames: int = 1
    """Most frames of one image (a video); each has a time embedding."""
    places: bool = True
    """A learned vector for each position of the tower's map; the paper leaves places to the tower."""
    every: int = 1
    """A gated layer stands before each LM block whose number, from 1, is a multiple of this (the paper's m)."""
    heads: int = 4
    """Attention heads of the resampler."""
    gated_heads: int = 4
    """Attention heads of the gated layers."""
    head_width: int = 32
    """Width of one head, everywhere."""
    gate_lr_scale: float = 15.0
    """Learning rate of the gates over that of the rest. While they are shut nothing behind them learns; the paper has 1
    and half a million steps."""
    activation: Activation = "relu2"
    """Between the two layers of a block: the paper's squared ReLU, or open_flamingo's GELU."""

    def __post_init__(self) -> None:
        if not 0 <= self.ahead <= 1:
            raise ConfigError(f"ahead={self.ahead} is a share in [0, 1]; the paper has 0.5.")
        for name in ("images_per_document", "latents", "resampler_layers", "frames", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")

    @classmethod
    def small(cls) -> Self:
        """open_flamingo's sizes, for a CLIP ViT and an LM of some hundred million parameters; every fourth block."""
        return cls(
            image_px=224, max_tokens=64, latents=64, resampler_layers=6, every=4, heads=8,
            gated_heads=8, head_width=64, places=False, gate_lr_scale=1.0, activation="gelu",
            images_per_document=5,
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Flamingo-3B's: beside Chinchilla 1.4B (24 blocks, width 2048) and NFNet-F6 (map width 1536), every block."""
        return cls(
            image_px=320, max_tokens=64, latents=64, resampler_layers=6, frames=8, every=1,
            heads=16, gated_heads=16, head_width=128, places=False, gate_lr_scale=1.0, images_per_document=5,
        )  # fmt: skip


class Flamingo(nn.Module):
    """Learns to go on with interleaved documents; only the resampler, the gated layers and two tokens change.

    The two tokens are numbers V and V + 1, past the LM's vocabulary: `<image>` and `<|endofchunk|>`. To decoders, the
    end of a chunk is `<eos>`.
    """

    Config: ClassVar[type[FlamingoConfig]] = FlamingoConfig
    PARTS: ClassVar[Mapping[str, type]] = {"lm": LanguageModel, "vision": nn.Module}
    TOKENIZER: ClassVar[str | None] = "lm"
    TEXT_ONLY_SHOTS: ClassVar[int] = 2
    """Demonstrations without images that stand before a query for which there are none: the paper's "0-shot"."""

    def __init__(self, config: FlamingoConfig, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Raises ConfigError for parts that are missing, and for an LM too short or with too few blocks."""
        super().__init__()
        self.config = config
        self.lm: LanguageModel = handed(parts, "lm", LanguageModel, "Flamingo")
        self.vision = frozen_vision(handed(parts, "vision", nn.Module, "Flamingo"), config.image_px)
        self.resampler = Resampler(
            self.vision.map_width, latents=config.latents, layers=config.resampler_layers,
            frames=config.frames, heads=config.heads, head_width=config.head_width,
            activation=config.activation, places=self.vision.map_tokens if config.places else 0,
        )  # fmt: skip
        self.gated = nn.ModuleList(
            GatedCrossAttention(
                self.lm.width, self.vision.map_width, config.gated_heads, config.head_width,
                config.activation,
            )
            for _ in looked_from(self.lm.blocks, config.every)
        )  # fmt: skip
        self.rows = nn.Parameter(torch.randn(2, self.lm.width) * 0.02)
        words = self.lm.vocab_size
        self.marks = Marks(
            bos=self.lm.bos_id, eos=self.lm.eos_id, pad=self.lm.pad_id, image=words, chunk=words + 1
        )
        require_room(self.lm, config.images_per_document * config.max_tokens + 2)

    def train(self, mode: bool = True) -> Flamingo:
        """The LM stays in eval mode: what is frozen drops nothing."""
        super().train(mode)
        self.lm.eval()
        return self

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(
            image_px=config.image_px, max_tokens=config.max_tokens, flip=config.flip, texts=config.texts
        )  # fmt: skip

    def initialise(self, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Start the two tokens at the size that words have; the parts came as they are."""
        with torch.no_grad():
            words_VD = self.lm.embed(torch.arange(self.lm.vocab_size, device=self.rows.device))
            self.rows.normal_(std=float(words_VD.std()))

    def loss(self, batch: Batch) -> Loss:
        """Mean of minus log p of each word that is not given and each end of a chunk, in nats.

        The part `gate` is the mean of |tanh| of all gates: 0 as long as the LM is alone.
        """
        return self.view_loss(self.views(batch), batch)

    def views(
        self, batch: Batch, wanted: Collection[str] = (), like: Views | None = None
    ) -> dict[str, Tensor]:
        """Logits of each token that is learnt, `tokens`, each image's `latents`, and the documents as they were drawn."""
        documents = self._documents(batch) if like is None else Documents.of(like)
        latents_BRD = self._latents(batch.pixels_BCHW, batch.keys_B)
        # Where a document has fewer images, row 0's, which no token sees.
        latents_MSRD = latents_BRD[documents.rows_MS.clamp(min=0)]
        hidden_MTD, _ = self._read(documents.tokens_MT, documents.times_MT, latents_MSRD)
        learnt_MT = documents.labels_MT[:, 1:] != NO_LABEL
        return {
            "tokens": self._all_logits(hidden_MTD[:, :-1][learnt_MT]),
            "tokens_at": learnt_MT,
            "latents": latents_BRD,
            **vars(documents),
        }

    @torch.no_grad()
    def context_views(self, batch: Batch, shots_BK: Tensor) -> dict[str, Tensor]:
        """`context`: as `tokens` of documents of one image, each row behind the rows that are its demonstrations.

        Raises ConfigError where so many demonstrations do not fit the language model.
        """
        rows, images = len(shots_BK), shots_BK.shape[1] + 1
        longest = max(self.config.max_tokens, batch.tokens_BT.shape[1])
        require_room(self.lm, images * longest + 2)
        own_B1 = torch.arange(rows, device=shots_BK.device)[:, None]
        order_MS = torch.cat([shots_BK, own_B1], dim=1)
        read = batch.rows(order_MS.flatten())
        documents = interleave(
            read.tokens_BT, read.lengths_B, read.prompts_B, self.marks, images=images,
            ahead=[False] * rows,
        )  # fmt: skip
        latents_BRD = self._latents(batch.pixels_BCHW, batch.keys_B)
        hidden_MTD, _ = self._read(documents.tokens_MT, documents.times_MT, latents_BRD[order_MS])
        # Of the last image alone, the row's own.
        last_MT = documents.times_MT[:, 1:] == images
        own_MT = (documents.labels_MT[:, 1:] != NO_LABEL) & last_MT
        return {"context": self._all_logits(hidden_MTD[:, :-1][own_MT])}

    def view_loss(self, views: Views, batch: Batch) -> Loss:
        """As `loss`."""
        learnt_MT = views["tokens_at"]
        total = token_cross_entropy(views["tokens"], views["labels_MT"][:, 1:][learnt_MT])
        parts = {"words": total.detach(), "gate": openness(self.gated).detach()}
        return Loss(total, parts, learnt_MT.sum())

    def prefill(
        self,
        pixels_BCHW: Tensor,
        keys_B: Tensor | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Written, Tensor, Tensor]:
        """Read `<bos> <image>` and each prompt: (state, logits_BV of the next word, hidden_BTD)."""
        latents_BRD = self._latents(pixels_BCHW, keys_B)
        return self._prefill(
            [self._query(prompts, row) for row in range(len(pixels_BCHW))], latents_BRD[:, None]
        )

    def prefill_shots(
        self,
        shots: Sequence[Shots],
        pixels_BCHW: Tensor,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Written, Tensor, Tensor]:
        """As `prefill`, behind `<image> text <|endofchunk|>` of each demonstration; one without an image is text alone."""
        queries = [self._query(prompts, row) for row in range(len(pixels_BCHW))]
        texts, shown, rows_MS = behind_shots(shots, queries, self.marks, pixels_BCHW.device)
        # One key for all: what a tower remembers is told apart by pixels, and demonstrations come again.
        stacked = torch.stack([*pixels_BCHW, *shown])
        latents_NRD = self._latents(stacked, torch.zeros(len(stacked), dtype=torch.long))
        return self._prefill(texts, latents_NRD[rows_MS.clamp(min=0)])

    def step(self, state: Written, tokens_N: Tensor) -> tuple[Written, Tensor]:
        """Append one token to every row: (state, hidden_ND)."""
        with self._looking(state.media):
            hidden_N1D, past = self.lm.run(self._embed(tokens_N[:, None]), past=state.past)
        return Written(past, state.media), hidden_N1D[:, -1]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) of the word that follows each state: a chunk may end as a document does, and nobody writes an image."""
        logits_NV = self._all_logits(hidden_ND)
        words_NV = logits_NV[:, : self.lm.vocab_size].clone()
        ends = (logits_NV[:, self.marks.eos], logits_NV[:, self.marks.chunk])
        words_NV[:, self.marks.eos] = torch.logaddexp(*ends)
        return words_NV

    def match(
        self,
        pixels_BCHW: Tensor,
        tokens_BT: Tensor,
        lengths_B: Tensor,
        keys_B: Tensor | None = None,
    ) -> Tensor:
        """(B,) mean log p, in nats, of each text's words and its end, given its image; at most 0."""
        ones = torch.ones_like(lengths_B)
        pairs = interleave(
            tokens_BT, lengths_B, ones, self.marks, images=1, ahead=[False] * len(tokens_BT)
        )
        latents_BRD = self._latents(pixels_BCHW, keys_B)
        hidden_BTD, _ = self._read(pairs.tokens_MT, pairs.times_MT, latents_BRD[:, None])
        labels_BT = pairs.labels_MT[:, 1:]
        # Every document ends in <eos>, which says nothing of the pair.
        counted_BT = (labels_BT != NO_LABEL) & (labels_BT != self.marks.eos)
        logits_NV = self._all_logits(hidden_BTD[:, :-1][counted_BT])
        return mean_log_likelihood(logits_NV, labels_BT[counted_BT], counted_BT)

    def answer(
        self,
        pixels_BCHW: Tensor,
        questions: Sequence[str],
        tokenizer: Tokenizer,
        keys_B: Tensor | None = None,
    ) -> list[str]:
        """Greedy answers, at most as long as a caption. Raises QuestionTooLong."""
        return write_answers(
            self, pixels_BCHW, questions, tokenizer, keys_B,
            before=1 + len(self._query(None, 0)), positions=self.lm.max_positions,
            longest=self.config.max_tokens,
        )  # fmt: skip

    def similarity_features(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, D) of the frozen tower: what demonstrations similar to an image are chosen by (RICES)."""
        return self.vision.encode(pixels_BCHW, torch.zeros(len(pixels_BCHW), dtype=torch.long))[1]

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Only the matrices of the gated layers decay (the paper's 0.1); resampler, vectors and tokens do not."""
        gated = [param for param in self.gated.parameters() if param.ndim >= 2]
        vectors = [param for param in self.gated.parameters() if param.ndim == 1]
        gates = [param for param in self.gated.parameters() if param.ndim == 0]
        spared, rate = (
            [*vectors, *self.resampler.parameters(), self.rows],
            self.config.gate_lr_scale,
        )
        return [
            {"name": "gated", "params": gated, "lr_scale": 1.0, "weight_decay": True},
            {"name": "gates", "params": gates, "lr_scale": rate, "weight_decay": False},
            {"name": "spared", "params": spared, "lr_scale": 1.0, "weight_decay": False},
        ]

    def after_step(self) -> None:
        """Nothing to clamp."""

    def _documents(self, batch: Batch) -> Documents:
        images = self.config.images_per_document
        count = -(-len(batch.tokens_BT) // images)
        # The loop seeds torch before each step, so a resumed run draws the same.
        draws = torch.rand(count).tolist() if self.training and images > 1 else [1.0] * count
        return interleave(
            batch.tokens_BT, batch.lengths_B, batch.prompts_B, self.marks, images=images,
            ahead=[draw < self.config.ahead for draw in draws],
        )  # fmt: skip

    def _latents(self, pixels_BCHW: Tensor, keys_B: Tensor | None) -> Tensor:
        map_BPD, _ = self.vision.encode(pixels_BCHW, keys_B)
        return self.resampler(map_BPD[:, None])

    def _read(
        self,
        tokens_MT: Tensor,
        times_MT: Tensor,
        latents_MSRD: Tensor,
        mask_MT: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Documents with their images -> (hidden_MTD, the LM's cache)."""
        media_MND = latents_MSRD.flatten(1, 2)
        images, each = latents_MSRD.shape[1:3]
        times_N = torch.arange(1, images + 1, device=times_MT.device).repeat_interleave(each)
        sees_MTN = times_MT[..., None] == times_N
        media = tuple(layer.attention.read(media_MND) for layer in self.gated)
        with self._looking(media, sees_MTN):
            return self.lm.run(self._embed(tokens_MT), mask_BT=mask_MT)

    def _looking(
        self, media: Sequence[KeysValues], sees_MTN: Tensor | None = None
    ) -> AbstractContextManager[None]:
        return looking(looked_from(self.lm.blocks, self.config.every), self.gated, media, sees_MTN)

    def _prefill(
        self, texts: Sequence[Sequence[int]], latents_MSRD: Tensor
    ) -> tuple[Written, Tensor, Tensor]:
        """`<bos>` and texts, padded on the left so that each row's next word follows the last column."""
        require_room(self.lm, max(map(len, texts)) + 1)
        tokens_MT, times_MT, mask_MT = padded_left(texts, self.marks, latents_MSRD.device)
        hidden_MTD, past = self._read(tokens_MT, times_MT, latents_MSRD, mask_MT)
        rows = torch.arange(len(texts), device=tokens_MT.device)
        last_MRD = latents_MSRD[rows, times_MT[:, -1] - 1]
        media = tuple(layer.attention.read(last_MRD) for layer in self.gated)
        return Written(past, media), self.logits(hidden_MTD[:, -1]), hidden_MTD * mask_MT[..., None]

    def _query(self, prompts: Sequence[Sequence[int]] | None, row: int) -> list[int]:
        return [self.marks.image, *(prompts[row] if prompts else ())]

    def _embed(self, tokens_MT: Tensor) -> Tensor:
        """The LM's words, and our two tokens in their places."""
        ours_MT = tokens_MT - self.lm.vocab_size
        words_MTD = self.lm.embed(tokens_MT.clamp(max=self.lm.vocab_size - 1))
        rows_MTD = self.rows[ours_MT.clamp(min=0)].to(words_MTD.dtype)
        return torch.where((ours_MT >= 0)[..., None], rows_MTD, words_MTD)

    def _all_logits(self, hidden_MTD: Tensor) -> Tensor:
        """(…, V + 2): the LM's own, then those of `<image>` and `<|endofchunk|>`."""
        words_MTV = self.lm.logits(hidden_MTD)
        return torch.cat([words_MTV, nn.functional.linear(hidden_MTD, self.rows)], dim=-1)
