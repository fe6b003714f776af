"""OpenClipart: drawings in the public domain under the texts their authors left, noisy as alt-texts of the web are.

Pixels come from one Debian package, texts from another. Both go through ALIGN's filter, and every rule's count stands
beside the shards. Run it to fetch what the source reads: `python -m components.data.sources.openclipart`.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from components.data.alt_text_filter import Candidate, FilterLimits, filter_pairs
from components.data.facts import BOILERPLATE
from components.data.looks import difference_hash
from components.data.sources import debian_packages
from components.data.sources.counted import Counted
from components.data.sources.debian_packages import Package, files_below
from components.data.sources.openclipart_about import About, read_about
from components.data.sources.squares import is_blank, square
from components.data.sources.svg import UnsafeDrawing
from components.data.text import normalise
from components.data.transforms import (
    TooManyPixels,
    UnreadableImage,
    decode,
    picture_sha256,
    read_picture,
    read_rgba,
)
from components.records import Sample

RAW = Path(__file__).parents[3] / "data" / "raw" / "openclipart"
FETCH = "python -m components.data.sources.openclipart"
# fmt: off
PICTURES = Package(name="openclipart-png", version="1:0.18+dfsg-19", sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02")
TEXTS = Package(name="openclipart-svg", version="1:0.18+dfsg-19", sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5")
# fmt: on
SIDE_PX = 96
LOOK_PX = 64
LEFT_OUT = ("shapes/stars/", "special/")
"""1,378 generated stars under one text; gradients, patterns and templates."""
LIMITS = FilterLimits(side_px_above=31, words_min=1, ngram_words=1)
"""The paper's, with what four thousand pairs need: small icons and single words stay, most pairs of words occur once."""
_FAILED = re.compile(r"hash\(0x|^\W*$", re.IGNORECASE)
"""Texts that a programme left in place of words."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One file with its picture at its small size."""

    place: str
    """Path below the collection, without its ending."""
    about: About
    texts: tuple[str, ...]
    image: bytes
    picture: str
    """sha256 of the small picture's pixels: twins share it."""
    width_px: int
    """Of the picture as it came, and so is the height."""
    height_px: int

    @property
    def directory(self) -> str:
        """Where it lies: what it shows, in a word."""
        return self.place.rpartition("/")[0] or "clipart"

    @property
    def family(self) -> str:
        """The first two folders: what a split of unseen concepts must not divide."""
        return "/".join(self.directory.split("/")[:2])


def openclipart(side_px: int = SIDE_PX) -> Counted:
    """Pictures with one or more texts that pass the filter, as RGBA of `side_px` a side.

    Raises `PackagesMissing`, which names the command that fetches them.
    """
    counts: Counter[str] = Counter()

    def read() -> Iterator[Sample]:
        pictures = debian_packages.unpacked(PICTURES, RAW, FETCH) / "usr/share/openclipart/png"
        texts = debian_packages.unpacked(TEXTS, RAW, FETCH) / "usr/share/openclipart/svg"
        yield from samples(pictures, texts, side_px, counts)

    return Counted(read(), counts)


def samples(
    pictures: Path,
    texts: Path,
    side_px: int,
    counts: Counter[str],
    *,
    limits: FilterLimits = LIMITS,
) -> Iterator[Sample]:
    """One sample a picture, twins joined under all their texts; what is left out is counted by its reason."""
    clips = list(_clips(pictures, texts, side_px, counts))
    homes: dict[str, Clip] = {}
    for clip in clips:
        homes.setdefault(clip.picture, clip)  # twins live where the first of them does
    splits = {picture: split(home.family, picture) for picture, home in homes.items()}
    held_out = {_look(home.image) for home in homes.values() if splits[home.picture] != "train"}
    kept, broken = filter_pairs(_candidates(clips, splits), limits, test_looks=held_out)
    counts.update({f"pairs that break {rule}": count for rule, count in broken.items()})
    counts["pairs kept"] = len(kept)
    counts["files kept"] = len({pair.id for pair in kept})
    said: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for pair in kept:
        said[pair.picture].setdefault(normalise(pair.text), pair.text)
    for picture, texts_of_picture in said.items():
        counts["images kept"] += 1
        yield _sample(homes[picture], tuple(texts_of_picture.values()), splits[picture])


def split(family: str, picture: str) -> str:
    """A tenth of the families is held out for each concept split; of the rest a tenth of the pictures tests or validates."""
    percent = int(hashlib.sha1(family.encode(), usedforsecurity=False).hexdigest(), 16) % 100
    if percent < 20:
        return "test_concept" if percent < 10 else "val_concept"
    percent = int(picture, 16) % 100
    if percent < 20:
        return "test" if percent < 10 else "val"
    return "train"


def _clips(pictures: Path, texts: Path, side_px: int, counts: Counter[str]) -> Iterator[Clip]:
    for path in files_below(texts, ".svg"):
        place = path.relative_to(texts).with_suffix("").as_posix()
        counts["files"] += 1
        if place.startswith(LEFT_OUT):
            counts["files of left-out folders"] += 1
            continue
        try:
            about = read_about(path.read_bytes())
        except UnsafeDrawing:
            counts["files whose metadata is refused"] += 1
            continue
        said = _usable((about.title, about.description), counts)
        if not said:
            counts["files without a usable text"] += 1
            continue
        image = _picture(pictures, f"{place}.png", side_px, counts)
        if image is not None:
            yield _clip(place, about, said, *image)


def _clip(
    place: str, about: About, texts: tuple[str, ...], image: bytes, size: tuple[int, int]
) -> Clip:
    return Clip(
        place=place,
        about=about,
        texts=texts,
        image=image,
        picture=picture_sha256(read_picture(image)),
        width_px=size[0],
        height_px=size[1],
    )


def _usable(texts: Iterable[str], counts: Counter[str]) -> tuple[str, ...]:
    kept: dict[str, str] = {}
    for text in filter(None, texts):
        if _FAILED.search(text) or BOILERPLATE.search(text):
            counts["texts that speak of the catalogue"] += 1
        else:
            kept.setdefault(normalise(text), text)
    return tuple(kept.values())


def _picture(
    pictures: Path, name: str, side_px: int, counts: Counter[str]
) -> tuple[bytes, tuple[int, int]] | None:
    path = pictures / name
    if not path.is_file() or not path.resolve().is_relative_to(pictures.resolve()):
        counts["files without a picture"] += 1
        return None
    try:
        with warnings.catch_warnings():
            # Ours is the lower limit, and an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = read_rgba(path.read_bytes())
    except TooManyPixels:
        counts["pictures of too many pixels"] += 1
        return None
    except UnreadableImage:
        counts["pictures that cannot be read"] += 1
        return None
    image = square(picture, side_px)
    if is_blank(image):
        counts["pictures blank on white"] += 1
        return None
    return image, picture.size


def _candidates(clips: Sequence[Clip], splits: Mapping[str, str]) -> Iterator[Candidate]:
    for clip in clips:
        trains = splits[clip.picture] == "train"
        for text in clip.texts:
            yield Candidate(
                id=clip.place,
                text=text,
                picture=clip.picture,
                width_px=clip.width_px,
                height_px=clip.height_px,
                # What is held out is no near-duplicate of itself.
                look=_look(clip.image) if trains else None,
            )


def _look(image: bytes) -> int:
    return difference_hash(decode(image, LOOK_PX))


def _sample(clip: Clip, captions: tuple[str, ...], split: str) -> Sample:
    return Sample(
        id=clip.place,
        image=clip.image,
        captions=captions,
        split=split,
        concept=clip.directory,
        label=clip.directory.rpartition("/")[2].replace("_", " "),
        concept_family=clip.family,
        origin=clip.about.author or "unknown",
        license=clip.about.license,
        group=clip.directory.partition("/")[0],
        tags=clip.about.keywords,
    )


if __name__ == "__main__":
    debian_packages.fetch((PICTURES, TEXTS), RAW)
