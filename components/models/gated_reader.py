"""A frozen language model that reads texts with images in them, through gated layers: what Flamingo learns and writes by.

Letters as in `flamingo.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from components.abilities import LanguageModel
from components.models.backbones import frozen_vision
from components.models.blocks import KeysValues
from components.models.flamingo_config import FlamingoConfig
from components.models.gated import GatedCrossAttention, looked_from, looking
from components.models.interleave import Marks, require_room
from components.models.parts import NO_PARTS, Part, handed
from components.models.resampler import Resampler
from components.models.text_cache import taken


@dataclass(frozen=True)
class Written:
    """The texts so far in the LM's cache, and the image of each row as each gated layer's keys and values.

    What is written after the prompt holds no `<image>`, so it all looks at the prompt's last one.
    """

    past: Any
    media: tuple[KeysValues, ...]

    def reorder(self, index_N: Tensor) -> Written:
        """Text i becomes what text index_N[i] was."""
        past, row_R = self.past.moved(index_N)
        return Written(past, taken(self.media, row_R))


class GatedReader(nn.Module):
    """The frozen tower and resampler, the frozen language model and its gated layers, and two tokens of its own.

    The two tokens are numbers V and V + 1, past the LM's vocabulary: `<image>` and `<|endofchunk|>`.
    """

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

    def train(self, mode: bool = True) -> Self:
        """The LM stays in eval mode: what is frozen drops nothing."""
        super().train(mode)
        self.lm.eval()
        return self

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
