"""The classifier of a detector that reads names: what a frozen teacher's text tower says of each class."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor
from torch.nn import functional as F

from components.abilities import Embeds


class ClassNames:
    """Embeds classes as CLIP's zero-shot classifier does (Radford et al. 2021, 3.1.4), and remembers the last ones."""

    def __init__(self, teacher: Embeds, prompts: int) -> None:
        """prompts: how many rows each class has, side by side."""
        self._teacher = teacher
        self._prompts = prompts
        self._kept: dict[Hashable, Tensor] = {}

    def embed(self, tokens_CT: Tensor, lengths_C: Tensor) -> Tensor:
        """(C, D), rows of length 1: the normalised mean over a class's prompts of normalised embeddings.

        Raises ValueError for rows that are no multiple of the prompts.
        """
        if len(tokens_CT) % self._prompts:
            raise ValueError(
                f"{len(tokens_CT)} rows of names, and every class has {self._prompts} prompts; "
                "encode `in_prompts(labels, batch_spec().prompts)`."
            )
        asked = (tokens_CT.device, tuple(tokens_CT.shape), *tokens_CT.flatten().tolist())
        if asked not in self._kept:
            # One vocabulary at a time is in use: a training's, then an evaluation's. An inference tensor could not
            # serve a training later.
            with torch.inference_mode(False), torch.no_grad():
                self._kept = {asked: self._embed(tokens_CT, lengths_C)}
        return self._kept[asked]

    def _embed(self, tokens_CT: Tensor, lengths_C: Tensor) -> Tensor:
        text_ND = F.normalize(self._teacher.embed_texts(tokens_CT, lengths_C), dim=-1)
        return F.normalize(text_ND.unflatten(0, (-1, self._prompts)).mean(dim=1), dim=-1)
