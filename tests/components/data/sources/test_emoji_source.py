"""Emoji drawings: the sample in the repository, the splits, and what an SVG may not do."""

from __future__ import annotations

import builtins
from collections import Counter, defaultdict
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.data.sources import emoji, emoji_packages, svg
from components.data.sources.drawings import Concept, Drawing, read_drawings, write_drawings
from components.data.sources.emoji_names import families, read_concepts
from components.data.transforms import picture_sha256, read_picture

SQUARE = (0.0, 0.0, 10.0, 10.0)


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return list(read_drawings(emoji.MINI))


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    with Image.open(BytesIO(png)) as picture:
        assert picture.mode == "RGBA"
        return np.asarray(picture)


def named(key: str, *names: str) -> Concept:
    return Concept(key=key, names=names, tags=(), group="", family="")


def test_the_sample_holds_291_concepts_by_seven_sets(drawings: list[Drawing]) -> None:
    assert len({drawing.concept.key for drawing in drawings}) == 291
    assert Counter(drawing.set.name for drawing in drawings) == {
        "noto": 291,
        "twemoji": 291,
        "openmoji": 291,
        "fluent-emoji-flat": 288,
        "noto-v1": 197,
        "emojione": 197,
        "emojione-v1": 151,
    }
    assert emoji.MINI.stat().st_size <= 3_000_000


def test_the_notice_names_every_set_with_its_licence_version_and_count(
    drawings: list[Drawing],
) -> None:
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in (emoji.MINI.parent / "NOTICE.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    told = {name: (int(count), spdx, package) for name, count, _, spdx, package in rows}
    counts = Counter(drawing.set.name for drawing in drawings)
    assert told == {
        each.name: (counts[each.name], each.license, f"{each.package}` {each.version}")
        for each in {drawing.set for drawing in drawings}
    }


def test_every_drawing_of_the_sample_is_safe(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        xmlns = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        svg.refuse_unsafe(f"<svg {xmlns}>{drawing.body}</svg>")


def test_splits_hold_these_counts_and_share_no_concept_family(drawings: list[Drawing]) -> None:
    split_of = [emoji.split(each.set.name, each.concept.family) for each in drawings]
    assert Counter(split_of) == {
        "train": 1027,
        "test": 237,
        "val": 120,
        "val_concept": 185,
        "test_concept": 137,
    }
    homes = defaultdict(set)
    for drawing, split in zip(drawings, split_of, strict=True):
        home = split if split.endswith("_concept") else "known"
        for name in (drawing.concept.family, *drawing.concept.names):
            homes[name].add(home)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_a_family_joins_people_of_one_trade_and_all_that_share_a_name() -> None:
    concepts = [
        named("1", "woman firefighter"),
        named("2", "man firefighter"),
        named("3", "camel", "dromedary"),
        named("4", "ship of the desert", "dromedary", "bactrian"),
        named("5", "two-hump camel", "bactrian"),
        named("6", "woman"),
        named("7", "ant"),
    ]
    first, second, *camels, woman, ant = families(concepts)
    assert first == second == "firefighter"
    assert len(set(camels)) == 1
    assert (woman, ant) == ("person", "ant")


def test_names_are_distinct_and_leave_out_numbered_shortcodes() -> None:
    tables: dict[str, Any] = {
        "meta/groups.json": {"groups": {"3": "animals-nature", "2": "component"}},
        "meta/unicode-names.json": {"1F408": "CAT"},
        "en-gb/data.json": [{"hexcode": "1F408", "label": "moggy"}],
        "en/data.json": [
            {"hexcode": "1F408", "label": "Cat", "group": 3, "tags": ["pet"]},
            {"hexcode": "1F3FB", "label": "light skin", "group": 2},
            {"hexcode": "1F1E6", "label": "letter A"},
            {"hexcode": "1F408-FE0F-200D", "label": "black cat", "group": 3},
        ],
        "en/shortcodes/github.json": {"1F408": ["cat2", "-1", "the_cat_"]},
        "en/shortcodes/iamcal.json": {"1F408": "the-cat"},
        "en/shortcodes/joypixels.json": {},
        "en/shortcodes/emojibase.json": {},
    }
    cat, black_cat = read_concepts(tables.__getitem__)
    assert cat.names == ("cat", "moggy", "the cat")
    assert (cat.key, cat.tags, cat.group) == ("1f408", ("pet",), "animals-nature")
    assert (black_cat.key, black_cat.names) == ("1f408-200d", ("black cat",))


def test_rendering_gives_the_same_bytes_and_the_drawn_colours() -> None:
    body = '<rect x="0" y="0" width="5" height="10" fill="#ff0000"/>'
    png = svg.to_png(body, SQUARE, 96)
    assert png == svg.to_png(body, SQUARE, 96)
    shown = pixels(png)
    assert shown.shape == (96, 96, 4)
    assert shown[48, 10].tolist() == [255, 0, 0, 255]
    assert shown[48, 86, 3] == 0


def test_a_wide_drawing_is_padded_above_and_below_not_stretched() -> None:
    body = '<rect x="0" y="0" width="20" height="10" fill="#00f"/>'
    alpha = pixels(svg.to_png(body, (0, 0, 20, 10), 40))[:, :, 3]
    assert alpha[20].min() == 255
    assert alpha[:9].max() == alpha[31:].max() == 0


@pytest.mark.parametrize(
    "body",
    [
        '<image href="file:///etc/passwd" width="9" height="9"/>',
        '<image href="data:image/png;base64,AAAA"/>',
        "<script>1</script>",
        "<style>@import url(x.css)</style>",
        "<foreignObject/>",
        "<text>font</text>",
        '<use href="other.svg#a"/>',
        '<use xlink:href="http://localhost/a.svg#a"/>',
        '<path d="M0 0" fill="url(http://localhost/#a)"/>',
        '<path d="M0 0" style="fill:url( \'a.svg#b\')"/>',
        '<path d="M0 0" style="fill:u\\72l(a)"/>',
        '<path d="M0 0" onclick="x()"/>',
        '<!DOCTYPE a [<!ENTITY b "c">]><path/>',
        "<![CDATA[x]]>",
        "<?xml-stylesheet href='a.css'?>",
        "<path",
        "<path>&unknown;</path>",
        "</svg><svg>",
        "<g>" + " " * svg.MAX_BYTES + "</g>",
    ],
)
def test_svg_that_is_more_than_a_drawing_is_refused(body: str) -> None:
    with pytest.raises(svg.UnsafeDrawing):
        svg.to_png(body, SQUARE, 16)


def test_without_the_renderer_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_resvg(name: str, *rest: Any) -> Any:
        if name == "resvg_py":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_resvg)
    with pytest.raises(svg.RendererMissing, match=r"\[platform\]"):
        next(emoji.emoji_mini())


def test_without_the_sample_the_error_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(emoji, "MINI", tmp_path / "emoji_mini.json.gz")
    with pytest.raises(emoji.SampleMissing, match="git checkout"):
        emoji.emoji_mini()


def test_without_packages_emoji8_names_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(emoji_packages.PackagesMissing, match="emoji_packages"):
        next(emoji_packages.read_packages(tmp_path))
    (tmp_path / emoji_packages.NAMES.file).write_bytes(b"other bytes")
    with pytest.raises(emoji_packages.PackagesMissing, match="not the pinned one"):
        next(emoji_packages.read_packages(tmp_path, sets=()))


def test_fetching_without_npm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(emoji_packages.PackagesMissing, match=r"Node\.js"):
        emoji_packages.fetch_emoji8(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_fetching_refuses_other_bytes_than_the_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bin" / "npm"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho tampered > {emoji_packages.SETS['noto'].file}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    with pytest.raises(emoji_packages.PackagesMissing, match="other bytes"):
        emoji_packages.fetch_emoji8(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_written_drawings_are_read_back_and_their_bytes_repeat(
    drawings: list[Drawing], tmp_path: Path
) -> None:
    some = drawings[::100]
    write_drawings(tmp_path / "a.gz", some)
    write_drawings(tmp_path / "b.gz", iter(some))
    assert list(read_drawings(tmp_path / "a.gz")) == some
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(
    not (emoji_packages.RAW / emoji_packages.NAMES.file).is_file(),
    reason=f"npm packages are not here; `{emoji_packages.FETCH}` fetches them",
)
def test_packages_give_the_sample_and_all_of_emoji8(drawings: list[Drawing]) -> None:
    whole = list(emoji_packages.read_packages())
    assert len(whole) == 12_329
    assert len({drawing.concept.key for drawing in whole}) == 1_914
    mini = [
        drawing
        for drawing in whole
        if drawing.set.name in emoji.MINI_SETS and drawing.concept.group in emoji.MINI_GROUPS
    ]
    assert mini == drawings
    ids = [sample.id for sample in islice(emoji.emoji8(), 20)]
    assert ids == [f"noto-{drawing.concept.key}" for drawing in whole[:20]]
    drawn = {f"{drawing.set.name}-{drawing.concept.key}" for drawing in whole}
    assert len(drawn) - len(drawn - set(emoji.DRAWN_TWICE)) == len(emoji.DRAWN_TWICE) == 7


@pytest.mark.slow
@pytest.mark.skipif(
    not (emoji_packages.RAW / emoji_packages.NAMES.file).is_file(),
    reason=f"npm packages are not here; `{emoji_packages.FETCH}` fetches them",
)
def test_no_training_drawing_of_emoji8_is_also_a_held_out_one() -> None:
    pictures: dict[str, set[bool]] = {}
    for sample in emoji.emoji8():
        pixels = picture_sha256(read_picture(sample.image))
        pictures.setdefault(pixels, set()).add(sample.split == "train")
    assert len(pictures) > 12_000
    assert all(len(sides) == 1 for sides in pictures.values())


def test_sample_facts_are_those_of_the_drawing() -> None:
    monkey = next(emoji.emoji_mini())
    assert monkey.captions == ("monkey face",)
    assert (monkey.id, monkey.label, monkey.origin) == ("noto-1f435", "monkey face", "noto")
    assert (monkey.split, monkey.license, monkey.group) == ("test", "Apache-2.0", "animals-nature")
