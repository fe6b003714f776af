"""OpenClipart: noisy texts filtered and counted, twins joined, no picture that tests near one that trains."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image

from components.data.alt_text_filter import FilterLimits
from components.data.shards import write_shards
from components.data.sources import openclipart
from components.data.sources.counted import Counted
from components.data.sources.openclipart import split
from components.data.sources.openclipart_about import PUBLIC_DOMAIN, read_about
from components.data.sources.packages import PackagesMissing
from components.data.transforms import picture_sha256
from components.records import Sample

ABOUT = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 20010904//EN" "http://127.0.0.1/svg10.dtd">
<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="http://web.resource.org/cc/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<metadata><rdf:RDF><cc:Work rdf:about=""><dc:title>{}</dc:title><dc:description>{}</dc:description>
<dc:subject><rdf:Bag><rdf:li>bird</rdf:li><rdf:li> </rdf:li><rdf:li>bird</rdf:li></rdf:Bag></dc:subject>
<dc:publisher><cc:Agent><dc:title>the library</dc:title></cc:Agent></dc:publisher>
<dc:creator><cc:Agent><dc:title>Mo</dc:title></cc:Agent></dc:creator>
<cc:license rdf:resource="{}"/></cc:Work></rdf:RDF></metadata></svg>"""
DOMAIN = "http://web.resource.org/cc/PublicDomain"

Read = Callable[..., tuple[dict[str, Sample], Counter[str]]]


def noise(seed: int, side_px: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)


class Collection:
    """A small tree like the packages'."""

    def __init__(self, root: Path) -> None:
        self.pictures, self.texts = root / "png", root / "svg"

    def add(
        self, place: str, title: str, description: str = "", *, pixels: np.ndarray | None = None
    ) -> None:
        pixels = noise(zlib.crc32(place.encode())) if pixels is None else pixels
        for folder in (self.pictures, self.texts):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.pictures / f"{place}.png")
        text = ABOUT.format(escape(title), escape(description), DOMAIN)
        (self.texts / f"{place}.svg").write_text(text, encoding="utf-8")

    def read(self, **limits: int) -> tuple[dict[str, Sample], Counter[str]]:
        counts: Counter[str] = Counter()
        found = openclipart.samples(
            self.pictures,
            self.texts,
            96,
            counts,
            limits=FilterLimits(**{"side_px_above": 31, "words_min": 1, "ngram_words": 1} | limits),
        )
        return {each.id: each for each in found}, counts


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path)


def test_title_and_description_are_captions_and_the_rest_is_told(collection: Collection) -> None:
    collection.add("animals/birds/big_owl", "Owl  on a branch", "A grey owl")
    collection.add("animals/birds/hen", "hen", "HEN")
    found, counts = collection.read()
    owl = found["animals/birds/big_owl"]
    assert owl.captions == ("Owl on a branch", "A grey owl")
    assert (owl.origin, owl.license, owl.tags) == ("Mo", PUBLIC_DOMAIN, ("bird",))
    assert (owl.concept, owl.label, owl.concept_family) == (
        "animals/birds",
        "birds",
        "animals/birds",
    )
    assert found["animals/birds/hen"].captions == ("hen",)
    assert (counts["files"], counts["pairs kept"], counts["images kept"]) == (2, 3, 2)


def test_each_kind_of_file_that_is_left_out_is_counted(collection: Collection) -> None:
    collection.add("food/pear", "a pear")
    collection.add("food/mail", "me@example.org", "see http://example.org")
    collection.add("food/hash", "HASH(0x856da84)", "")
    collection.add("food/untold", "")
    collection.add("shapes/stars/star_1", "a star")
    collection.add("special/gradient", "a gradient")
    collection.add("food/white", "snow", pixels=np.full((40, 40, 3), 255, np.uint8))
    collection.add("food/damaged", "half a picture")
    (collection.pictures / "food/damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    collection.add("food/absent", "nothing to see")
    (collection.pictures / "food/absent.png").unlink()
    collection.add("food/entity", "x")
    (collection.texts / "food/entity.svg").write_text('<!DOCTYPE svg [<!ENTITY a "b">]><svg/>')
    found, counts = collection.read()
    assert list(found) == ["food/pear"]
    left_out = {name: count for name, count in counts.items() if not name.startswith("pairs")}
    assert left_out == {
        "files": 10,
        "files of left-out folders": 2,
        "files whose metadata is refused": 1,
        "files without a usable text": 3,
        "texts that speak of the catalogue": 3,
        "files without a picture": 1,
        "pictures that cannot be read": 1,
        "pictures blank on white": 1,
        "files kept": 1,
        "images kept": 1,
    }


def test_a_decompression_bomb_is_dropped_by_its_header(collection: Collection) -> None:
    collection.add("food/pear", "a pear")
    collection.add("food/bomb", "a bomb")
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (collection.pictures / "food/bomb.png").write_bytes(bomb)
    found, counts = collection.read()
    assert list(found) == ["food/pear"]
    assert counts["pictures of too many pixels"] == 1


def test_a_text_under_many_pictures_is_boilerplate_and_the_other_text_stays(
    collection: Collection,
) -> None:
    for number in range(11):
        collection.add(f"office/{number:02d}", "Etiquette", "a red pen" if number == 3 else "")
    found, counts = collection.read()
    assert {name: each.captions for name, each in found.items()} == {"office/03": ("a red pen",)}
    assert counts["pairs that break text_shared"] == 11


def test_the_rules_measure_the_picture_as_it_came_not_as_it_is_kept(collection: Collection) -> None:
    collection.add("office/icon", "an icon", pixels=noise(1, 31))
    collection.add("office/strip", "a strip", pixels=np.tile(noise(2, 40), (1, 3, 1)))
    collection.add("office/pen", "a pen", pixels=noise(3, 32))
    found, counts = collection.read()
    assert list(found) == ["office/pen"]
    assert counts["pairs that break image_small"] == counts["pairs that break image_aspect"] == 1


def test_twins_are_one_picture_under_all_their_texts_in_the_first_ones_split(
    collection: Collection,
) -> None:
    collection.add("animals/owl", "an owl", pixels=noise(7))
    collection.add("unsorted/duplicates/owl2", "a night bird", pixels=noise(7))
    found, counts = collection.read()
    owl = found["animals/owl"]
    assert owl.captions == ("an owl", "a night bird")
    assert (owl.concept_family, counts["files kept"], counts["images kept"]) == ("animals", 2, 1)


def test_no_training_picture_is_a_near_duplicate_of_one_that_is_held_out(
    collection: Collection,
) -> None:
    family = next(name for name in map(str, range(99)) if split(name, "0").endswith("_concept"))
    trains = next(
        number
        for number in range(99)
        if split("animals", picture_sha256(Image.fromarray(slightly(noise(5), number)))) == "train"
    )
    collection.add(f"{family}/seen_in_tests", "held out", pixels=noise(5))
    collection.add("animals/near", "nearly that", pixels=slightly(noise(5), trains))
    collection.add("animals/other", "another", pixels=noise(6))
    found, counts = collection.read()
    assert set(found) == {f"{family}/seen_in_tests", "animals/other"}
    assert counts["pairs that break image_near_test"] == 1


def slightly(pixels: np.ndarray, seed: int) -> np.ndarray:
    """The same picture but for one pixel."""
    changed = pixels.copy()
    changed[40, 40] = seed
    return changed


def test_splits_hold_out_families_and_then_pictures() -> None:
    pictures = [f"{number:064x}" for number in range(1000)]
    known = Counter(split("animals/birds", picture) for picture in pictures)
    assert set(known) == {"train", "val", "test"}
    assert (known["test"], known["val"]) == (100, 100)
    families = Counter(split(f"family {number}", pictures[50]) for number in range(1000))
    assert families["test_concept"] == pytest.approx(100, abs=30)
    assert families["val_concept"] == pytest.approx(100, abs=30)


@pytest.mark.parametrize(
    ("license", "known"),
    [
        (DOMAIN, PUBLIC_DOMAIN),
        ("http://creativecommons.org/licenses/GPL/2.0/", "GPL-2.0-only"),
        ("", PUBLIC_DOMAIN),
        ("http://127.0.0.1/other", "http://127.0.0.1/other"),
    ],
)
def test_a_licence_is_the_files_own_or_the_packages(license: str, known: str) -> None:
    assert read_about(ABOUT.format("x", "", license).encode()).license == known


def test_a_file_without_metadata_says_nothing() -> None:
    about = read_about(b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    assert (about.title, about.description, about.keywords, about.license) == (
        "",
        "",
        (),
        PUBLIC_DOMAIN,
    )


def test_without_the_packages_the_command_that_fetches_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openclipart, "RAW", tmp_path)
    with pytest.raises(
        PackagesMissing, match=r"python -m components\.data\.sources\.openclipart.*sha256 f07f"
    ):
        next(openclipart.openclipart())


def test_counts_are_whole_once_the_shards_are_written(
    collection: Collection, tmp_path: Path
) -> None:
    collection.add("food/pear", "a pear")
    counts: Counter[str] = Counter()
    counted = Counted(
        openclipart.samples(collection.pictures, collection.texts, 96, counts), counts
    )
    shards = write_shards(counted, tmp_path / "shards")
    assert counted.counts["images kept"] == sum(shards.counts.values()) == 1
