"""Stamps: captions as people wrote them, photographs of known concepts for testing, SVG files made plain."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data.sources import stamps, svg_documents
from components.data.sources.packages import PackagesMissing
from components.data.sources.svg import UnsafeDrawing
from components.records import Sample

FOX = {"fox": ["1f98a", "fox", "fox"]}
DRAWN = '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}"><rect width="9" height="9" fill="red"/></svg>'


def stamp(
    root: Path, place: str, *lines: str, size: tuple[int, int] = (40, 20), colour: str = "blue"
) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.new("RGBA", size, colour).save(path)
    else:
        path.write_text(DRAWN.format("9pt", "9pt"))
    if lines:
        path.with_suffix(".txt").write_text("\n".join(lines), encoding="utf-8")


def read(root: Path) -> tuple[dict[str, Sample], Counter[str]]:
    counts: Counter[str] = Counter()
    found = {each.id: each for each in stamps.samples(root, 96, FOX, counts)}
    return found, counts


def test_a_stamp_has_its_first_line_and_the_english_spellings_that_differ(tmp_path: Path) -> None:
    stamp(
        tmp_path,
        "food/grapes.png",
        "A cluster  of grapes.",
        "de.utf8=Eine Weintraube.",
        "en_AU.utf8=a cluster of grapes.",
        "en_GB.utf8=A bunch of grapes.",
        "english.utf8=no",
    )
    found, _ = read(tmp_path)
    assert found["food/grapes.png"].captions == ("A cluster of grapes.", "A bunch of grapes.")
    assert found["food/grapes.png"].label == "cluster of grapes"


def test_what_is_left_out_is_counted_by_its_reason(tmp_path: Path) -> None:
    stamp(tmp_path, "animals/owl.png", "An owl.")
    stamp(tmp_path, "animals/owl_mirror.png", "An owl.")
    stamp(tmp_path, "animals/owl_flip.svg", "An owl.")
    stamp(tmp_path, "symbols/a.png", "The letter A.")
    stamp(tmp_path, "town/gate.png")
    stamp(tmp_path, "town/blank.png", "", "de.utf8=Ein Tor.")
    stamp(tmp_path, "town/snow.png", "Snow.", colour="white")
    stamp(tmp_path, "town/half.png", "A half.")
    (tmp_path / "town/half.png").write_bytes((tmp_path / "town/gate.png").read_bytes()[:60])
    found, counts = read(tmp_path)
    assert list(found) == ["animals/owl.png"]
    assert counts == {
        "images": 8,
        "kept": 1,
        "mirrored": 2,
        "in symbols": 1,
        "without a caption": 2,
        "unrenderable": 1,
        "blank on white": 1,
    }


def test_photographs_of_emoji_concepts_test_and_their_drawings_never_train(tmp_path: Path) -> None:
    stamp(tmp_path, "animals/fox.png", "A FOX!")
    stamp(tmp_path, "animals/fox.svg", "The fox.")
    found, _ = read(tmp_path)
    photograph, drawing = found["animals/fox.png"], found["animals/fox.svg"]
    assert (photograph.split, drawing.split) == ("test", "val")
    assert photograph.concept == drawing.concept == "1f98a"


def test_a_caption_stands_in_one_split_wherever_its_stamps_lie(tmp_path: Path) -> None:
    for number in range(60):
        stamp(tmp_path, f"town/gate{number}.png", f"A gate {number}.")
        stamp(tmp_path, f"food/{number}.svg", f"the gate {number}")
    found, _ = read(tmp_path)
    splits: dict[str, set[str]] = {}
    for each in found.values():
        splits.setdefault(each.label, set()).add(each.split)
    assert all(len(kinds) == 1 for kinds in splits.values())
    assert {"train"} in splits.values()
    assert {"test_concept"} in splits.values()
    assert {"val_concept"} in splits.values()


def test_a_wide_stamp_is_padded_with_clear_pixels_not_cropped(tmp_path: Path) -> None:
    stamp(tmp_path, "town/bridge.png", "A bridge.", size=(200, 100))
    found, _ = read(tmp_path)
    with Image.open(BytesIO(found["town/bridge.png"].image)) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (96, 96, 4)
    assert pixels[48, 1].tolist() == [0, 0, 255, 255]
    assert pixels[2, 48, 3] == pixels[93, 48, 3] == 0


def test_a_link_that_leads_out_of_the_stamps_is_not_followed(tmp_path: Path) -> None:
    stamp(tmp_path, "outside/owl.png", "An owl.")
    (tmp_path / "stamps").mkdir()
    (tmp_path / "stamps/owl.png").symlink_to(tmp_path / "outside/owl.png")
    assert read(tmp_path / "stamps")[0] == {}


def test_without_the_package_the_command_that_fetches_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "RAW", tmp_path)
    with pytest.raises(PackagesMissing, match=r"python -m components\.data\.sources\.stamps"):
        next(stamps.stamps())


@pytest.mark.parametrize("unit", ["", "px", "pt", "mm", "cm", "in", "pc"])
def test_a_size_in_any_unit_gives_the_whole_drawing(unit: str) -> None:
    document = DRAWN.format(f"18{unit}", f"18{unit}").encode()
    with Image.open(BytesIO(svg_documents.document_to_png(document, 90))) as picture:
        alpha = np.asarray(picture)[..., 3]
    px = {"pt": 4 / 3, "pc": 16, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96}.get(unit, 1)
    assert (alpha > 128).sum() == pytest.approx(90 * 90 / (4 * px * px), rel=0.03, abs=2)


def test_an_editors_own_elements_are_left_out() -> None:
    document = (
        b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://127.0.0.1/svg11.dtd">'
        b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:i="urn:editor" viewBox="0 0 10 10" i:tool="pen">'
        b'<metadata><x/></metadata><i:view/><!-- note --><g i:label="l"><circle cx="5" cy="5" r="5"/></g></svg>'
    )
    with Image.open(BytesIO(svg_documents.document_to_png(document, 32))) as picture:
        assert picture.getpixel((16, 16)) == (0, 0, 0, 255)


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<image href="file:///etc/passwd"/>',
        '<use href="http://127.0.0.1/x.svg#a"/>',
        '<rect width="9" height="9" fill="url(http://127.0.0.1/x#a)"/>',
        '<rect width="9" height="9" onload="alert(1)"/>',
        '<style>@import "http://127.0.0.1/x.css";</style>',
        "<text>words</text>",
        "<g>",
    ],
)
def test_what_could_reach_outside_is_refused(inside: str) -> None:
    document = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{inside}</svg>'
    with pytest.raises(UnsafeDrawing):
        svg_documents.document_to_png(document.encode(), 32)


@pytest.mark.parametrize(
    "document",
    [
        b'<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>',
        b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        '<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>'.encode("utf-16"),
        b'<?xml version="1.0" encoding="cp037"?>'
        + '<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>'.encode("cp037"),
        b"<html/>",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b'<svg xmlns="http://www.w3.org/2000/svg" width="-3" height="0"/>',
        b"",
        b"<svg>" + b" " * svg_documents.MAX_BYTES + b"</svg>",
    ],
    ids=[
        "entities",
        "external",
        "utf-16",
        "ebcdic",
        "html",
        "no size",
        "negative",
        "empty",
        "large",
    ],
)
def test_a_file_that_is_no_plain_drawing_is_refused(document: bytes) -> None:
    with pytest.raises(UnsafeDrawing):
        svg_documents.document_to_png(document, 32)
