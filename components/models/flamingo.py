"""Flamingo: a frozen language model that looks at frozen vision and learns from examples in its prompt
(Alayrac et al. 2022, arXiv:2204.14198; open_flamingo, arXiv:2308.01390, where the paper is silent).

Besides the letters of `records.py`: M documents, S images of a document, P positions of a map, R latents of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from components.abilities import LanguageModel, Shots, Views
from components.models.flamingo_config import FlamingoConfig
from components.models.gated import openness
from components.models.gated_reader import GatedReader, Written
from components.models.interleave import (
    NO_LABEL,
    Documents,
    alike_rows,
    behind_shots,
    interleave,
    padded_left,
    require_room,
)
from components.models.parts import NO_PARTS, Part
from components.models.prompts import write_answers
from components.objectives.language import mean_log_likelihood, token_cross_entropy
from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.text import Tokenizer


class Flamingo(GatedReader):
    """Learns to go on with interleaved documents; only the resampler, the gated layers and two tokens change.

    To decoders, the end of a chunk is `<eos>`.
    """

    Config: ClassVar[type[FlamingoConfig]] = FlamingoConfig
    PARTS: ClassVar[Mapping[str, type]] = {"lm": LanguageModel, "vision": nn.Module}
    TOKENIZER: ClassVar[str | None] = "lm"
    TEXT_ONLY_SHOTS: ClassVar[int] = 2
    """Demonstrations without images that stand before a query for which there are none: the paper's "0-shot"."""

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
        latents_BMRD = self._latents(pixels_BCHW, keys_B)[:, None]
        rows = latents_BMRD.shape[0]  # len() would be a number in a graph too
        if prompts is None:
            alike = alike_rows(self._query(None, 0), rows, self.marks, latents_BMRD.device)
            return self._prefill(alike, latents_BMRD)
        return self._prefill_texts([self._query(prompts, row) for row in range(rows)], latents_BMRD)

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
        return self._prefill_texts(texts, latents_NRD[rows_MS.clamp(min=0)])

    def step(self, state: Written, tokens_N: Tensor) -> tuple[Written, Tensor]:
        """Append one token to every text: (state, hidden_ND)."""
        with self._looking(state.media):
            hidden_ND, past = self.lm.step(self._embed(tokens_N), state.past)
        return Written(past, state.media), hidden_ND

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

    def _prefill_texts(
        self, texts: Sequence[Sequence[int]], latents_MSRD: Tensor
    ) -> tuple[Written, Tensor, Tensor]:
        """`<bos>` and texts, padded on the left so that each row's next word follows the last column."""
        return self._prefill(padded_left(texts, self.marks, latents_MSRD.device), latents_MSRD)

    def _prefill(
        self, prompt: tuple[Tensor, Tensor, Tensor], latents_MSRD: Tensor
    ) -> tuple[Written, Tensor, Tensor]:
        """A prompt as `padded_left` has it, and its images."""
        tokens_MT, times_MT, mask_MT = prompt
        require_room(self.lm, tokens_MT.shape[1])
        hidden_MTD, past = self._read(tokens_MT, times_MT, latents_MSRD, mask_MT)
        rows = torch.arange(tokens_MT.shape[0], device=tokens_MT.device)
        last_MRD = latents_MSRD[rows, times_MT[:, -1] - 1]
        media = tuple(layer.attention.read(last_MRD) for layer in self.gated)
        return Written(past, media), self.logits(hidden_MTD[:, -1]), hidden_MTD * mask_MT[..., None]

    def _query(self, prompts: Sequence[Sequence[int]] | None, row: int) -> list[int]:
        return [self.marks.image, *(prompts[row] if prompts else ())]
