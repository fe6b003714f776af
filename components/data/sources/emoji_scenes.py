"""Made scenes of real drawings: cut-outs of `emoji_mini` on made backgrounds, with exact boxes. For detection.

Drawings keep their sets' parts: training scenes show the training sets, test scenes a set no training scene shows. A
quarter of the classes is novel: they stand in training images too, but their boxes are marked and reach no training.
`test_concept` scenes each hold an object of a concept that no drawing of the training splits shows. A scene is a
function of its index.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.data.sources import emoji, svg
from components.data.sources.counted_names import listed
from components.data.sources.drawings import Concept, read_drawings
from components.data.sources.scene_background import background
from components.records import Box, Sample

SCENES, SIDE_PX, CLASSES = 1_600, 128, 48
MOST_OBJECTS = 4
SMALLEST, LARGEST = 28 / 128, 60 / 128
"""Longer side of an object over the side of the scene."""
MOST_COVERED = 0.15
"""Share of an object's box that a later one may cover."""
SOLID = 40
"""Alpha above which a pixel belongs to the object."""
TRIES = 30
_SPLITS = {9: "test_concept", 10: "val", 11: "test"}
_DRAWN_PX = 96


@dataclass(frozen=True, kw_only=True)
class _Cutout:
    concept: Concept
    license: str
    picture: Image.Image
    """RGBA, cut to its solid pixels."""

    @property
    def label(self) -> str:
        return self.concept.names[0]


@dataclass(frozen=True, kw_only=True)
class _Placed:
    cutout: _Cutout
    box: tuple[int, int, int, int]


def emoji_scenes(
    scenes: int = SCENES, side_px: int = SIDE_PX, classes: int = CLASSES
) -> Iterator[Sample]:
    """Scenes of 1 to 4 objects, three quarters of them for training; needs no network and no npm.

    Raises `emoji.SampleMissing`, `svg.RendererMissing`.
    """
    cutouts = _cutouts(classes)
    return (_scene(index, side_px, cutouts) for index in range(scenes))


def is_novel(label: str) -> bool:
    """Whether training must not know the boxes of this class."""
    return int(_sha1(label), 16) % 4 == 0


def _scene(
    index: int, side_px: int, cutouts: Mapping[str, Mapping[str, Sequence[_Cutout]]]
) -> Sample:
    split = _SPLITS.get(index % 12, "train")
    dice = np.random.Generator(np.random.Philox(key=np.array([0, index], np.uint64)))
    picture = background(dice, side_px)
    placed: list[_Placed] = []
    for number in range(int(dice.integers(1, MOST_OBJECTS + 1))):
        # The first object decides the split's kind: it is the one that is certain to find a place.
        part = "test" if split == "test_concept" and number else split
        of_class = list(cutouts[part].values())
        several = of_class[int(dice.integers(len(of_class)))]
        # One scene in five shows a class again, so that counting has something to count.
        if placed and dice.random() < 0.2:
            several = [placed[-1].cutout]
        cutout = several[int(dice.integers(len(several)))]
        if put := _place(dice, cutout, picture, [each.box for each in placed]):
            placed.append(put)
    return _sample(index, split, picture, placed)


def _sample(index: int, split: str, picture: Image.Image, placed: Sequence[_Placed]) -> Sample:
    drawn = Counter(each.cutout.label for each in placed)
    told, sorted_told = listed(drawn), listed(dict(sorted(drawn.items())))
    concepts = {each.cutout.concept.key for each in placed}
    return Sample(
        id=f"emoji-scene-{index:06d}",
        image=svg.encode_png(picture),
        captions=(told, f"a scene with {told}"),
        split=split,
        concept=sorted_told.replace(",", "").replace(" ", "-"),
        label=sorted_told,
        concept_family="+".join(sorted(concepts)),
        origin="emoji_scenes",
        license=" AND ".join(sorted({each.cutout.license for each in placed})),
        group=f"{len(placed)} objects" if len(placed) > 1 else "1 object",
        boxes=tuple(
            _box(each, novel=_is_held_out(each) or is_novel(each.cutout.label)) for each in placed
        ),
    )


def _place(
    dice: np.random.Generator,
    cutout: _Cutout,
    picture: Image.Image,
    taken: Sequence[tuple[int, int, int, int]],
) -> _Placed | None:
    """Paste a cut-out where it covers little of what is there; None if no place was found."""
    side_px = picture.width
    longer = side_px * (SMALLEST + (LARGEST - SMALLEST) * float(dice.random()))
    scale = longer / max(cutout.picture.size)
    size = (
        max(round(cutout.picture.width * scale), 1),
        max(round(cutout.picture.height * scale), 1),
    )
    small = cutout.picture.resize(size, Image.Resampling.BICUBIC)
    solid = _solid(small)
    if solid is None:
        return None
    for _ in range(TRIES):
        left, top = (int(dice.integers(0, side_px - length + 1)) for length in size)
        box = (solid[0] + left, solid[1] + top, solid[2] + left, solid[3] + top)
        if all(_covered(other, box) < MOST_COVERED for other in taken):
            picture.paste(small, (left, top), small)
            return _Placed(cutout=cutout, box=box)
    return None


def _covered(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """How much of the smaller box lies in the other, in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(width, 0) * max(height, 0) / min(areas)


def _solid(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the pixels that are not clear; None if all are."""
    alpha: NDArray[np.uint8] = np.asarray(picture.getchannel("A"))
    rows, columns = (np.flatnonzero((alpha > SOLID).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _cutouts(classes: int) -> dict[str, dict[str, list[_Cutout]]]:
    """Split -> label -> cut-outs: classes by hash, among concepts of one word that every split can show."""
    if not emoji.MINI.is_file():
        raise emoji.SampleMissing(
            f"{emoji.MINI} is missing; it comes with the repository: `git checkout -- data/samples`."
        )
    drawings = defaultdict(list)
    for drawing in read_drawings(emoji.MINI):
        # One word: a "cat face" would be a cat too, and a box has one right class.
        if drawing.concept.names[0].isalpha():
            drawings[drawing.concept.names[0]].append(drawing)
    parts = {
        label: Counter(emoji.split(each.set.name, each.concept.family) for each in several)
        for label, several in drawings.items()
    }
    known = [
        label
        for label, count in parts.items()
        if count["train"] >= 5 and count["val"] and count["test"]
    ]
    chosen = set(sorted(known, key=_sha1)[:classes])
    chosen |= {label for label, count in parts.items() if count["test_concept"] >= 5}
    found: dict[str, dict[str, list[_Cutout]]] = defaultdict(lambda: defaultdict(list))
    for label in sorted(chosen):
        for each in drawings[label]:
            split = emoji.split(each.set.name, each.concept.family)
            # Held-out concepts in the test set's hand too: what is new about them is what they show.
            if split != "test_concept" or each.set.name == "noto":
                rendered = svg.to_png(each.body, each.view_box, _DRAWN_PX)
                found[split][label].append(_cut(each.concept, each.set.license, rendered))
    return found


def _cut(concept: Concept, license: str, rendered: bytes) -> _Cutout:
    with Image.open(BytesIO(rendered), formats=["PNG"]) as opened:
        picture = opened.convert("RGBA")
    return _Cutout(concept=concept, license=license, picture=picture.crop(_solid(picture)))


def _is_held_out(placed: _Placed) -> bool:
    return emoji.split("noto", placed.cutout.concept.family) == "test_concept"


def _box(placed: _Placed, *, novel: bool) -> Box:
    left, top, right, bottom = map(float, placed.box)
    return Box(
        label=placed.cutout.label,
        left_px=left, top_px=top, right_px=right, bottom_px=bottom, novel=novel,
    )  # fmt: skip


def _sha1(label: str) -> str:
    return hashlib.sha1(label.encode(), usedforsecurity=False).hexdigest()
