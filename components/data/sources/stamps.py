"""Tux Paint's stamps: photographs and drawings with captions that people wrote, from a Debian package.

A source no emoji set drew: where a stamp shows a concept that emoji have too, its photograph is a test image, so a
model can be asked about known concepts in a foreign hand. Run it to fetch what the source reads:
`python -m components.data.sources.stamps`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.data.sources import debian_packages
from components.data.sources.counted import Counted
from components.data.sources.debian_packages import Package, files_below
from components.data.sources.squares import is_blank, square_png
from components.data.sources.svg import UnsafeDrawing
from components.data.sources.svg_documents import document_to_png
from components.data.text import normalise
from components.data.transforms import UnreadableImage
from components.records import Sample

DATA = Path(__file__).parents[3] / "data"
RAW = DATA / "raw" / "stamps"
SHARED = DATA / "samples" / "stamp_concepts.json"
"""Captions of stamps that are an emoji's label: its letters -> [key, label, family] of that concept."""
FETCH = "python -m components.data.sources.stamps"
# fmt: off
PACKAGE = Package(name="tuxpaint-stamps-default", version="2022.06.04-1", sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34")
# fmt: on
SIDE_PX = 96
LICENSE = "GPL-2.0-or-later"
LEFT_OUT = ("symbols",)
"""Letters, coins and notes: pictures of text."""
_MIRRORED = re.compile(r"_(mirror|flip)$")
_ENGLISH = re.compile(r"en_[A-Z]{2}\.utf8=(.*)")


def stamps(side_px: int = SIDE_PX) -> Counted:
    """About 760 stamps with one to three English captions each, as RGBA of `side_px` a side.

    Raises `PackagesMissing`, which names the command that fetches them, and `svg.RendererMissing`.
    """
    counts: Counter[str] = Counter()

    def read() -> Iterator[Sample]:
        folder = debian_packages.unpacked(PACKAGE, RAW, FETCH)
        shared = json.loads(SHARED.read_text(encoding="utf-8"))
        yield from samples(folder / "usr/share/tuxpaint/stamps", side_px, shared, counts)

    return Counted(read(), counts)


def samples(
    root: Path, side_px: int, shared: Mapping[str, list[str]], counts: Counter[str]
) -> Iterator[Sample]:
    """Every stamp below `root` by its path; what is left out is counted by its reason."""
    for path in files_below(root, ".png", ".svg"):
        place = path.relative_to(root)
        counts["images"] += 1
        captions = read_captions(path.with_suffix(".txt"))
        if reason := _unfit(place, captions):
            counts[reason] += 1
            continue
        try:
            image = _draw(path, side_px)
        except (UnreadableImage, UnsafeDrawing):
            counts["unrenderable"] += 1
            continue
        if is_blank(image):
            counts["blank on white"] += 1
            continue
        counts["kept"] += 1
        yield _sample(place, image, captions, shared)


def read_captions(path: Path) -> tuple[str, ...]:
    """The English captions of a stamp: the first line, and those of other spellings that differ from it."""
    if not path.is_file():
        return ()
    first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    said = [first, *(found[1] for line in lines if (found := _ENGLISH.fullmatch(line)))]
    # Two that differ in capitals or spaces alone are one.
    kept: dict[str, str] = {}
    for caption in (" ".join(each.split()) for each in said):
        if caption:
            kept.setdefault(normalise(caption), caption)
    return tuple(kept.values())


def plain(caption: str) -> str:
    """What a caption names, without article and punctuation.

    >>> plain("A monarch butterfly.")
    'monarch butterfly'
    """
    words = " ".join(re.sub(r"[^\w\s'’-]|_", " ", normalise(caption)).split())
    return re.sub(r"^(a|an|the|some) (?=.)", "", words)


def letters(name: str) -> str:
    """Letters and digits of a name: equal for "T-shirt" and "t shirt"."""
    return "".join(filter(str.isalnum, normalise(name)))


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What a stamp shows."""

    concept: str
    label: str
    family: str
    split: str


def _shown(place: Path, captions: tuple[str, ...], shared: Mapping[str, list[str]]) -> _Shown:
    for caption in captions:
        if found := shared.get(letters(plain(caption))):
            key, label, family = found
            # Drawings of a concept whose photographs test are no training images; they validate.
            split = "test" if place.suffix == ".png" else "val"
            return _Shown(concept=key, label=label, family=family, split=split)
    # Twenty captions stand at several stamps: by its caption each is in one split alone.
    name = plain(captions[0]) or normalise(captions[0])
    percent = int(hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest(), 16) % 100
    held_out = "test_concept" if percent < 10 else "val_concept"
    split = held_out if percent < 20 else "train"
    return _Shown(concept=f"stamp {name}", label=name, family=f"stamp {name}", split=split)


def _sample(
    place: Path, image: bytes, captions: tuple[str, ...], shared: Mapping[str, list[str]]
) -> Sample:
    shown = _shown(place, captions, shared)
    return Sample(
        id=place.as_posix(),
        image=image,
        captions=captions,
        split=shown.split,
        concept=shown.concept,
        label=shown.label,
        concept_family=shown.family,
        origin="tuxpaint-png" if place.suffix == ".png" else "tuxpaint-svg",
        license=LICENSE,
        group=place.parent.as_posix(),
    )


def _unfit(place: Path, captions: tuple[str, ...]) -> str:
    if place.parts[0] in LEFT_OUT:
        return f"in {place.parts[0]}"
    if _MIRRORED.search(place.stem):
        return "mirrored"
    return "" if captions else "without a caption"


def _draw(path: Path, side_px: int) -> bytes:
    draw = square_png if path.suffix == ".png" else document_to_png
    return draw(path.read_bytes(), side_px)


if __name__ == "__main__":
    debian_packages.fetch((PACKAGE,), RAW)
