"""Shards + `BatchSpec` -> batches: the same for one worker or many, and a pure function of the step.

Sampling: each epoch is a permutation of the split made from (seed, epoch), cut into global batches, the rest dropped.
Which text an image gets, and whether it is mirrored, is drawn from counter-based generators (Philox; Salmon et al.
2011) keyed by (seed, step), one for each row of the global batch. So a rank cuts its slice from draws that all ranks
share, and a resumed run continues with the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.data.answers import answer_targets
from components.data.row_boxes import base_classes, boxes_of, in_prompts
from components.data.second_captions import second_captions
from components.data.shards import read_images, read_manifest
from components.data.text import Tokenizer
from components.data.texts import TEXTS
from components.data.transforms import UnreadableImage, decode, mirror, swap_left_right
from components.records import Batch, BatchSpec, Row, Shards


class BatchesRefused(ValueError):
    """A split, batch size or rank that gives no batches; the message says what would."""


@dataclass(frozen=True, kw_only=True)
class SplitImages:
    """One split in memory: its rows, and their pixels in the same order."""

    split: str
    rows: Sequence[Row]
    pixels_NCHW: Tensor
    """uint8, (N, 3, side, side)."""


def load_split(shards: Shards, split: str, side_px: int) -> SplitImages:
    """Read and decode every image of a split, once; none with `side_px` 0, for those that read texts alone.

    Raises `BatchesRefused` for a split without images, `ShardsDamaged`, and `UnreadableImage` naming the sample.
    """
    rows = [row for row in read_manifest(shards) if row.sample.split == split]
    if not rows:
        raise BatchesRefused(
            f'{shards.path} has no images of the split "{split}"; it has {dict(shards.counts)}.'
        )
    pixels_NCHW = np.empty((len(rows), 3, side_px, side_px), dtype=np.uint8)
    for index, image in enumerate(read_images(shards, rows if side_px else [])):
        try:
            pixels_NCHW[index] = decode(image, side_px)
        except UnreadableImage as error:
            raise UnreadableImage(f'Sample "{rows[index].sample.id}": {error}') from error
    return SplitImages(split=split, rows=rows, pixels_NCHW=torch.from_numpy(pixels_NCHW))


class Batches:
    """The training batches of one rank; `batch(step)` gives the same batch whenever it is asked."""

    def __init__(
        self,
        images: SplitImages,
        spec: BatchSpec,
        tokenizer: Tokenizer,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """batch_size: of all ranks together. Raises `BatchesRefused` for numbers that do not fit each other."""
        _refuse_images(images, spec)
        _refuse_numbers(images, batch_size, seed, rank, world)
        self._images, self._spec, self._tokenizer = images, spec, tokenizer
        self._batch_size, self._seed = batch_size, seed
        share = batch_size // world
        self._slice = slice(rank * share, (rank + 1) * share)
        self.steps_per_epoch = len(images.rows) // batch_size
        self._order = lru_cache(maxsize=2)(self._permutation)
        self._text = TEXTS[spec.texts]
        self._classes = base_classes(images.rows) if spec.boxes else []
        named = in_prompts(self._classes, spec.prompts)
        self._names = tokenizer.encode(named, spec.max_tokens)

    def batch(self, step: int) -> Batch:
        """This rank's slice of the global batch of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self._batch_size
        index_B = self._order(epoch)[start : start + self._batch_size]
        randoms = [self._random(step, row) for row in range(self._batch_size)]
        mirrored_B = np.array([random.random() < 0.5 for random in randoms]) & self._spec.flip
        return self._assemble(index_B, mirrored_B, randoms)

    def _random(self, step: int, row: int) -> np.random.Generator:
        # The row stands in the counter's upper half: no row ever draws what another draws.
        key = np.array([self._seed, step], np.uint64)
        return np.random.Generator(
            np.random.Philox(key=key, counter=np.array([0, 0, row, 0], np.uint64))
        )

    def _assemble(
        self,
        index_B: NDArray[np.int64],
        mirrored_B: NDArray[np.bool_],
        randoms: Sequence[np.random.Generator],
    ) -> Batch:
        # Texts and groups are made of the global batch, so that all ranks agree on T and on group numbers.
        spec, mine = self._spec, self._slice
        rows = [self._images.rows[index] for index in index_B]
        drawn = [
            self._draw(row, random, bool(mirrored))
            for row, random, mirrored in zip(rows, randoms, mirrored_B, strict=True)
        ]
        tokens_BT, lengths_B, prompts_B = self._tokenizer.encode_segments(
            [(prompt, text) for prompt, text, _ in drawn], spec.max_tokens
        )
        groups_B = groups(tokens_BT.tolist(), [row.pixels_sha256 for row in rows])
        keys_B = np.array([2 * row.key for row in rows], np.int64) + mirrored_B
        pixels_BCHW = self._images.pixels_NCHW.numpy()[index_B[mine]]
        pixels_BCHW[mirrored_B[mine]] = mirror(pixels_BCHW[mirrored_B[mine]])
        asked: dict[str, Any] = {}
        if spec.second_caption:
            asked |= self._second(index_B, randoms)
        if spec.answers:
            accepted = [answers for *_, answers in drawn[mine]]
            asked["answers_BA"] = answer_targets(accepted, spec.answers)
        if spec.boxes:
            turned = mirrored_B[mine].tolist()
            asked["boxes"] = boxes_of(rows[mine], turned, spec.image_px, self._classes, self._names)
        return Batch(
            pixels_BCHW=torch.from_numpy(pixels_BCHW),
            tokens_BT=tokens_BT[mine],
            lengths_B=lengths_B[mine],
            groups_B=torch.from_numpy(groups_B[mine]),
            keys_B=torch.from_numpy(keys_B[mine]),
            prompts_B=prompts_B[mine],
            **asked,
        )

    def _draw(
        self, row: Row, random: np.random.Generator, mirrored: bool
    ) -> tuple[Sequence[str], Sequence[str], tuple[str, ...]]:
        """Prompt, text and, where answers are scored, the right ones of the question that is the text."""
        if not self._spec.answers:
            return *self._text(row, random, mirrored), ()
        question = row.sample.questions[int(random.integers(len(row.sample.questions)))]
        said = (question.text, *question.answers)
        text, *answers = map(swap_left_right, said) if mirrored else said
        return (), (text,), tuple(answers)

    def _second(
        self, index_B: NDArray[np.int64], randoms: Sequence[np.random.Generator]
    ) -> dict[str, Tensor]:
        captions, same = second_captions(self._images.rows, index_B, randoms)
        tokens_BT, lengths_B = self._tokenizer.encode(captions, self._spec.max_tokens)
        return {
            "second_BT": tokens_BT[self._slice],
            "second_lengths_B": lengths_B[self._slice],
            "second_same_B": torch.tensor(same)[self._slice],
        }

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._images.rows))


def groups(tokens: Sequence[Sequence[int]], pixels: Sequence[str]) -> NDArray[np.int64]:
    """Number the rows of a batch, int64 (B,): rows linked by equal tokens or equal pixels share their first row's number.

    Links chain: a picture under two captions joins all rows of both.

    >>> groups([[7], [8], [7], [9]], ["a", "b", "c", "b"]).tolist()
    [0, 1, 0, 1]
    """
    parent = list(range(len(tokens)))

    def root(row: int) -> int:
        while parent[row] != row:
            row = parent[row]
        return row

    first: dict[Hashable, int] = {}
    for row, (text, picture) in enumerate(zip(tokens, pixels, strict=True)):
        for link in (("text", *text), ("pixels", picture)):
            one, other = sorted((root(row), root(first.setdefault(link, row))))
            parent[other] = one
    return np.array([root(row) for row in range(len(tokens))], np.int64)


def _refuse_images(images: SplitImages, spec: BatchSpec) -> None:
    side_px = images.pixels_NCHW.shape[-1]
    if side_px != spec.image_px:
        raise BatchesRefused(
            f"The images were loaded with {side_px} px, the model eats {spec.image_px} px; "
            f"give load_split side_px={spec.image_px}."
        )
    for row in images.rows:
        if not row.sample.captions:
            raise BatchesRefused(
                f'Sample "{row.sample.id}" has no caption; leave it out of its source.'
            )
        if spec.answers and not row.sample.questions:
            raise BatchesRefused(
                f'Sample "{row.sample.id}" has no question; answers are learnt from a source with questions.'
            )


def _refuse_numbers(images: SplitImages, batch_size: int, seed: int, rank: int, world: int) -> None:
    count = len(images.rows)
    if not 1 <= batch_size <= count:
        raise BatchesRefused(
            f'batch_size={batch_size} gives no batch of the {count} images of "{images.split}"; give 1 to {count}.'
        )
    if world < 1 or batch_size % world or not 0 <= rank < world:
        raise BatchesRefused(
            f"batch_size={batch_size} has no slice for rank={rank} of world={world}; "
            "give a multiple of world, and a rank from 0 below world."
        )
    if not 0 <= seed < 2**63:
        raise BatchesRefused(f"seed={seed} is not in 0..2^63-1.")
