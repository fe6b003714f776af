"""The records that travel between the parts of Diptych, and the shape letters they use.

Every record is frozen and small enough to print; tensors live only in `Batch` and `Loss`. Shape letters, everywhere:
B batch · C channels · H height · W width · T tokens · D shared width · V vocabulary · K beams · N, M rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "val", "test", "val_concept", "test_concept")
"""`test` holds known concepts in new images; the `_concept` splits hold concepts training never saw."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """One object of an image: its class name and its corners in pixels, x right, y down."""

    label: str
    left_px: float
    top_px: float
    right_px: float
    bottom_px: float
    novel: bool = False
    """A class training must not know: its boxes reach no batch, its pixels may."""


ANNOTATORS = 10
"""People who answered each question of VQA v2; so many answers, or more, are a count of people and no list."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about an image and its accepted answers."""

    text: str
    answers: tuple[str, ...]
    """Right ones, best first; or, `ANNOTATORS` or more, what so many people said, in any order."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with all that is said of it; what a source yields and nothing more."""

    id: str
    image: bytes
    """An encoded image (PNG, JPEG or WebP)."""
    captions: tuple[str, ...]
    split: str
    concept: str
    """What the image shows, as a key: images of one concept share it. Zero-shot classes are concepts."""
    label: str
    """The concept's name for a person and for prompts."""
    concept_family: str
    """Concepts that must stay in one split (man, woman and person firefighter)."""
    origin: str
    """The drawing set, photographer or generator within the source."""
    license: str
    group: str = ""
    tags: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a manifest: a sample without its pixels, and where these lie."""

    key: int
    """Row number in the whole manifest, from 0: the image's number in batches and caches."""
    sample: Sample
    """With `image` empty."""
    shard: str
    """File name of the tar shard that holds the image."""
    offset_bytes: int
    size_bytes: int
    sha256: str
    """Of the encoded image."""
    pixels_sha256: str
    """Of the decoded pixels on white, so that two encodings of one picture are equal; empty if unreadable."""
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class Shards:
    """A prepared revision of a source: a folder of tar shards and a manifest, named by a digest."""

    path: Path
    digest: str
    """sha256 over the manifest, which itself holds each image's sha256."""
    counts: Mapping[str, int]
    """Images per split."""


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A fixed state of a source: what DVC names it by, and the shards made from it."""

    source: str
    rev: str
    """The git commit read, or "workspace"."""
    dvc_digest: str
    shards: Shards


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One expectation that did not hold."""

    expectation: str
    detail: str
    count: int
    examples: tuple[str, ...]
    """Ids of at most ten samples."""


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """What Great Expectations said of a manifest."""

    shards_digest: str
    passed: bool
    checked: int
    """How many expectations were tried."""
    failures: tuple[Failure, ...]
    """Those that end a night."""
    warnings: tuple[Failure, ...]
    page: Path
    """Our own script-free HTML report."""


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """What a family eats, so that data code needs no branch on its name."""

    image_px: int
    """Side of the square images; 0 for a family that reads texts alone, whose pixels are then (B, 3, 0, 0)."""
    max_tokens: int
    """Longest text, with its `<bos>` and `<eos>`."""
    flip: bool = False
    """Half of the training images are mirrored, with "left" and "right" swapped in their captions."""
    texts: str = "captions"
    """Which text an image comes with: a name in `components/data/texts.py`."""
    second_caption: bool = False
    """Each row brings a second caption: of its own image, or with probability one half of another one."""
    boxes: bool = False
    """Each row brings the boxes of its image."""
    prompts: tuple[str, ...] = ("{}",)
    """Templates that a class's name stands in, `{}` in its place, where boxes have names."""
    answers: tuple[str, ...] = ()
    """Answers that questions are scored over; a row's question is then its text, and its answers soft targets."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The boxes of a batch's images, and the names of the classes they may be of."""

    corners_BO4: Tensor
    """float32: left, top, right, bottom in pixels of the batch's images; rows with fewer boxes hold zeros."""
    classes_BO: Tensor
    """int64: number of the class; -1 where there is no box."""
    class_tokens_CT: Tensor
    """int64: the names of the classes that training knows, as token rows: one for each prompt, a class's side by side."""
    class_lengths_C: Tensor
    """int64: tokens of each name without padding."""

    def to(self, device: Any) -> Boxes:
        """The same boxes on another device."""
        return Boxes(**{name: value.to(device) for name, value in vars(self).items()})

    def rows(self, which: slice | Tensor) -> Boxes:
        """The boxes of some of the images; the classes are those of all."""
        return replace(self, corners_BO4=self.corners_BO4[which], classes_BO=self.classes_BO[which])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a model learns from in one step."""

    pixels_BCHW: Tensor
    """uint8, RGB on white; the vision slot owns normalisation."""
    tokens_BT: Tensor
    """int64: `<bos> w … <eos>` then `<pad>`; T is the longest of this batch, not the limit."""
    lengths_B: Tensor
    """int64: tokens of each row without padding."""
    groups_B: Tensor
    """int64: rows with equal captions or images share a number and are no negatives of each other."""
    keys_B: Tensor
    """int64: `2 * Row.key + mirrored`, equal only for equal pixels; frozen towers cache by it."""
    prompts_B: Tensor
    """int64: how many leading tokens of each row are given and not learnt; `<bos>` alone makes 1."""
    second_BT: Tensor | None = None
    """int64, where asked for: another caption as `<bos> w … <eos>` and padding."""
    second_lengths_B: Tensor | None = None
    second_same_B: Tensor | None = None
    """bool: the second caption is of the same image."""
    answers_BA: Tensor | None = None
    """float32, where asked for: how right each known answer is, in [0, 1]."""
    boxes: Boxes | None = None

    def to(self, device: Any) -> Batch:
        """The same batch on another device."""
        there = {name: value for name, value in vars(self).items() if value is not None}
        return Batch(**{name: value.to(device) for name, value in there.items()})

    def split(self, parts: int) -> list[Batch]:
        """The same rows in order, in `parts` batches of equal size; texts keep their padding. ValueError if it does not divide."""
        share, left = divmod(len(self.tokens_BT), parts)
        if left or not share:
            raise ValueError(f"{len(self.tokens_BT)} rows cannot be cut into {parts} equal parts.")
        return [self.rows(slice(part * share, (part + 1) * share)) for part in range(parts)]

    def rows(self, which: slice | Tensor) -> Batch:
        """Some of the rows, by place; texts keep their padding."""
        there = {name: value for name, value in vars(self).items() if value is not None}
        return Batch(
            **{
                name: value.rows(which) if name == "boxes" else value[which]
                for name, value in there.items()
            }
        )


@dataclass(frozen=True)
class Loss:
    """A training loss: the scalar that is minimised, and its named parts for the log."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    items: Tensor | None = None
    """How many things `total` is the mean of (tokens, mostly), a scalar; None where it is a mean over rows.

    Micro-batches and workers weigh by it, so that a step is exactly that of the whole batch.
    """


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights on disk that alone rebuild their model."""

    path: Path
    """A folder; its marker `MANIFEST.json` was written last."""
    digest: str
    """sha256 of the marker, which holds the sha256 of every file."""
    family: str
    step: int
    seed: int
    shards_digest: str


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions written for a split: one JSON line an image, kept so that metrics can be computed again."""

    path: Path
    key: str
    """Digest of (checkpoint, shards, split, decoding)."""
    count: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """Measured numbers of one checkpoint on one split.

    A plain name (`cider_d`) is the model's; `image_blind/cider_d` is the same model on shuffled images, and
    `nearest_pixels/…`, `most_frequent/…`, `chance/…` are the trivial baselines.
    """

    checkpoint_digest: str
    shards_digest: str
    split: str
    count: int
    values: Mapping[str, float]
    captions: Captions | None = None
    certificate: str = ""
    """Id of the parity certificate of the metrics' code; empty where there is no golden corpus."""
    scorer: str = ""
    """What gave the CLIPScores: kind, name and digest of a model, and the words before each caption; empty where none did."""
