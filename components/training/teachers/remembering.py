"""A teacher that is asked once about each image, each text and each text beside its image, and then quoted.

Embeddings are kept as float16; of each word's distribution the likeliest 64 and one bin for the rest. What is used is
what is kept, the first time too, so that a run that goes on sees the same numbers as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.abilities import Views
from components.objectives.distillation import keep_likeliest
from components.records import Batch
from components.training.teachers.teacher import Teacher
from components.training.teachers.teacher_cache import Said, TeacherCache, name_of
from components.training.teachers.terms import COLUMNS


class Remembering:
    """Has the views of a `Teacher`, from its memory where it can.

    `tokens` are then no logits but probabilities (N, K) at the temperature, and `tokens_columns` their words.
    """

    def __init__(self, teacher: Teacher, cache: TeacherCache, temperature: float) -> None:
        self._teacher, self._cache, self._temperature = teacher, cache, temperature

    def views(self, batch: Batch, ours: Views, wanted: Collection[str]) -> dict[str, Tensor]:
        """As `Teacher.views`; embeddings are of length 1 as far as float16 tells."""
        # The precision of the training must not decide what is kept.
        with torch.autocast(batch.keys_B.device.type, enabled=False):
            return self._embedded(batch) if self._teacher.embeds else self._words(batch, wanted)

    def write(self) -> None:
        """Put what is new in its memory on disk."""
        self._cache.write()

    def _embedded(self, batch: Batch) -> dict[str, Tensor]:
        def see(rows: list[int]) -> Sequence[Said]:
            return _each(self._teacher.embed_images(batch.pixels_BCHW[rows], batch.keys_B[rows]))

        def read(rows: list[int]) -> Sequence[Said]:
            lengths_B = batch.lengths_B[rows]
            tokens_BT = batch.tokens_BT[rows, : int(lengths_B.max())]
            return _each(self._teacher.embed_texts(tokens_BT, lengths_B))

        images = [name_of(key) for key in batch.keys_B.tolist()]
        texts = [name_of(*ids) for ids in _texts(batch)]
        device = batch.keys_B.device
        return {
            "image": _joined(self._cache.recall("image", images, see), "rows").float().to(device),
            "text": _joined(self._cache.recall("text", texts, read), "rows").float().to(device),
            **self._teacher.scale(),
        }

    def _words(self, batch: Batch, wanted: Collection[str]) -> dict[str, Tensor]:
        def read(rows: list[int]) -> Sequence[Said]:
            some = batch.rows(torch.tensor(rows, device=batch.keys_B.device))
            seen = self._teacher.passed(some, None, wanted)
            return _each_text(seen, self._temperature)

        keys, prompts = batch.keys_B.tolist(), batch.prompts_B.tolist()
        names = [
            name_of(key, prompt, *ids)
            for key, prompt, ids in zip(keys, prompts, _texts(batch), strict=True)
        ]
        said = self._cache.recall("words", names, read)
        views = {
            part: _padded(said, part) if part.endswith("_at") else _joined(said, part)
            for part in said[0]
        }
        return {name: view.to(batch.keys_B.device) for name, view in views.items()}


def _texts(batch: Batch) -> list[list[int]]:
    """Token ids without padding."""
    lengths = batch.lengths_B.tolist()
    return [row[:length] for row, length in zip(batch.tokens_BT.tolist(), lengths, strict=True)]


def _each(rows_BD: Tensor) -> list[Said]:
    """Copies, so that a row that stays does not keep its batch in memory."""
    return [{"rows": row_1D.copy()} for row_1D in rows_BD.half().cpu().numpy()[:, None]]


def _each_text(seen: Views, temperature: float) -> list[Said]:
    """Every direction's kept distributions, cut into texts."""
    directions = [name for name in seen if name.startswith("tokens") and f"{name}_at" in seen]
    said: list[Said] = [{} for _ in seen[f"{directions[0]}_at"]]
    for name in directions:
        at_BT = seen[f"{name}_at"].cpu()
        ends = at_BT.sum(dim=1).cumsum(0)[:-1]
        p_NK, index_NK = keep_likeliest(seen[name], temperature)
        for part, rows in ((name, p_NK), (name + COLUMNS, index_NK)):
            cut = rows.cpu().tensor_split(ends)
            for each, own in zip(said, cut, strict=True):
                each[part] = own.numpy().copy()
        for each, at_T in zip(said, at_BT.numpy(), strict=True):
            each[f"{name}_at"] = at_T.copy()
    return said


def _joined(said: Sequence[Said], part: str) -> Tensor:
    return torch.from_numpy(np.concatenate([each[part] for each in said]))


def _padded(said: Sequence[Said], part: str) -> Tensor:
    width = max(len(each[part]) for each in said)
    rows: list[Any] = [np.pad(each[part], (0, width - len(each[part]))) for each in said]
    return torch.from_numpy(np.stack(rows))
