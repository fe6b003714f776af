"""A frozen model that a student learns from: what it sees of the student's batches, read in its own way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from components.abilities import Contrasts, DistilsContext, Embeds, Views
from components.data.text import Tokenizer
from components.models.parts import Part
from components.objectives.distillation import others
from components.records import Batch, BatchSpec

CONTEXT = "context"
"""The view of a teacher that is shown other rows of the batch before each row."""


class Teacher:
    """Embeds where it can, else passes over a batch as its student does; neither trained nor saved."""

    def __init__(self, part: Part, tokenizer: Tokenizer, shots: int = 0) -> None:
        """tokenizer: the student's, whose token ids come. shots: demonstrations before each row of the view `context`."""
        model: Any = part.module.requires_grad_(False).eval()
        self._model = model
        self._device: torch.device | None = None
        self._spec: BatchSpec = model.batch_spec()
        self._theirs, self._ours = part.tokenizer, tokenizer
        self._shots = shots
        self.embeds = isinstance(self._model, Embeds)

    def views(self, batch: Batch, ours: Views, wanted: Collection[str]) -> dict[str, Tensor]:
        """What it sees of a batch. wanted: the views that are compared."""
        if not self.embeds:
            plain = {view for view in wanted if view != CONTEXT}
            seen = self.passed(batch, ours, plain) if plain else {}
            return seen | (self.in_context(batch) if CONTEXT in wanted else {})
        return {
            "image": self.embed_images(batch.pixels_BCHW, batch.keys_B),
            "text": self.embed_texts(batch.tokens_BT, batch.lengths_B),
            **self.scale(),
        }

    @torch.no_grad()
    def passed(
        self, batch: Batch, ours: Views | None, wanted: Collection[str]
    ) -> dict[str, Tensor]:
        """The views of a pass like the student's, whose draws it takes over where there are any."""
        seen: dict[str, Tensor] = self._beside(batch.keys_B).views(self._read(batch), wanted, ours)
        return seen

    @torch.no_grad()
    def in_context(self, batch: Batch) -> dict[str, Tensor]:
        """The view of each row behind others of the batch; none of a model that takes no demonstrations."""
        if not isinstance(self._model, DistilsContext):
            return {}
        model = self._beside(batch.keys_B)
        seen: dict[str, Tensor] = model.context_views(
            self._read(batch), others(batch.groups_B, self._shots)
        )
        return seen

    @torch.no_grad()
    def embed_images(self, pixels_BCHW: Tensor, keys_B: Tensor) -> Tensor:
        """The student's images -> (B, D), each row of length 1."""
        model = self._beside(pixels_BCHW)
        image_BD: Tensor = model.embed_images(self._as_read_here(pixels_BCHW), keys_B)
        return image_BD

    @torch.no_grad()
    def embed_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The student's token ids -> (B, D), each row of length 1."""
        model = self._beside(tokens_BT)
        text_BD: Tensor = model.embed_texts(*self.in_own_words(tokens_BT, lengths_B))
        return text_BD

    @torch.no_grad()
    def scale(self) -> dict[str, Tensor]:
        """What it multiplies cosines by, as the view `scale`, if it learnt that."""
        return {"scale": self._model.cosine_scale()} if isinstance(self._model, Contrasts) else {}

    def in_own_words(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The student's texts as tokens and lengths of the teacher's tokenizer, no longer than it reads."""
        longest = int(lengths_B.max())
        same = self._theirs is None or self._theirs.digest == self._ours.digest
        if same and longest <= self._spec.max_tokens:
            return tokens_BT, lengths_B
        assert self._theirs is not None
        texts = [self._ours.decode(row) for row in tokens_BT.tolist()]
        own_BT, own_lengths_B = self._theirs.encode(texts, self._spec.max_tokens)
        return own_BT.to(tokens_BT.device), own_lengths_B.to(lengths_B.device)

    def _beside(self, asked: Tensor) -> Any:
        """The model, on the device of what it is asked about: a student in slices (FSDP2) reaches its own only later."""
        if asked.device != self._device:
            self._model, self._device = self._model.to(asked.device), asked.device
        return self._model

    def _read(self, batch: Batch) -> Batch:
        return replace(batch, pixels_BCHW=self._as_read_here(batch.pixels_BCHW))

    def _as_read_here(self, pixels_BCHW: Tensor) -> Tensor:
        side_px = self._spec.image_px
        if side_px in (0, pixels_BCHW.shape[-1]):
            return pixels_BCHW
        resized = F.interpolate(
            pixels_BCHW.float(), size=(side_px, side_px), mode="bilinear", antialias=True
        )
        return resized.round().clamp(0, 255).to(torch.uint8)
