"""Openly licensed emoji drawings with their names: `emoji_mini` from the repository, `emoji8` from npm packages.

Several sets draw one concept, like several photographers: a model can be asked about new drawings of known concepts
(`test`) and about concepts it never saw (`test_concept`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.data.sources import emoji_packages, svg
from components.data.sources.drawings import Drawing, read_drawings
from components.records import Sample

MINI = Path(__file__).parents[3] / "data" / "samples" / "emoji_mini.json.gz"
MINI_GROUPS = ("animals-nature", "food-drink")
# The gradient set is left out of the small sample: it is half of the bytes and repeats fluent-emoji-flat.
MINI_SETS = tuple(name for name in emoji_packages.SETS if name != "fluent-emoji")
SIDE_PX = 96
DRAWN_TWICE = (
    "emojione-1f3cf", "fluent-emoji-flat-25fc", "noto-v1-1f3cf", "openmoji-1f1e8-1f1f5",
    "openmoji-1f1f2-1f1eb", "twemoji-1f1e8-1f1f5", "twemoji-1f1f2-1f1eb",
)  # fmt: skip
"""Training drawings that are, pixel by pixel, the same set's drawing of a concept in `test_concept`: a cricket game that
is a cricket, two flags that are France's, a square that is a button. emoji8 leaves them out."""


class SampleMissing(FileNotFoundError):
    """The drawings that come with the repository are not where the code is."""


def emoji_mini(side_px: int = SIDE_PX) -> Iterator[Sample]:
    """291 animals, plants and foods by seven sets, from the file in the repository; needs no network and no npm.

    Raises `SampleMissing`, `svg.RendererMissing`.
    """
    if not MINI.is_file():
        raise SampleMissing(
            f"{MINI} is missing; it comes with the repository: `git checkout -- data/samples`."
        )
    return samples(read_drawings(MINI), side_px)


def emoji8(side_px: int = SIDE_PX) -> Iterator[Sample]:
    """All 1,914 concepts by eight sets, from packages that `emoji_packages.fetch_emoji8` brought: 12,322 drawings.

    Raises `emoji_packages.PackagesMissing`, which names the command, and `svg.RendererMissing`.
    """
    drawn = samples(emoji_packages.read_packages(), side_px)
    return (sample for sample in drawn if sample.id not in DRAWN_TWICE)


def samples(drawings: Iterable[Drawing], side_px: int = SIDE_PX) -> Iterator[Sample]:
    """Render each drawing at `side_px` pixels a side, and give it its split."""
    for drawing in drawings:
        concept = drawing.concept
        yield Sample(
            id=f"{drawing.set.name}-{concept.key}",
            image=svg.to_png(drawing.body, drawing.view_box, side_px),
            captions=concept.names,
            split=split(drawing.set.name, concept.family),
            concept=concept.key,
            label=concept.names[0],
            concept_family=concept.family,
            origin=drawing.set.name,
            license=drawing.set.license,
            group=concept.group,
            tags=concept.tags,
        )


def split(set_name: str, family: str) -> str:
    """A tenth of the families is held out for each concept split; of the rest one set tests and one validates."""
    percent = int(hashlib.sha1(family.encode(), usedforsecurity=False).hexdigest(), 16) % 100
    if percent < 20:
        return "test_concept" if percent < 10 else "val_concept"
    return {"noto": "test", "emojione-v1": "val"}.get(set_name, "train")
