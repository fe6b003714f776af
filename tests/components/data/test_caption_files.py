"""Files of captions: four formats mean the same, and what cannot be meant is refused with its place."""

from __future__ import annotations

import json

import pytest

from components.data.caption_files import (
    LONGEST,
    CaptionFileError,
    read_candidates,
    read_references,
)
from components.data.caption_pairs import IncompleteCaptions, pair

ENTRIES = [
    {"image_id": 10, "caption": "a cat, asleep"},
    {"image_id": 9, "caption": "été\u2028—"},
    {"image_id": "x", "caption": ""},
]
LINES = "\n".join(json.dumps(entry) for entry in ENTRIES)
FORMATS = {
    "results": json.dumps(ENTRIES),
    "annotations": json.dumps({"images": [{"id": 10}], "annotations": ENTRIES}, indent=1),
    "lines": LINES,
    "lines with other ends": LINES.replace("\n", "\r\n\r\n") + "\r\n",
    "one line of COCO": json.dumps({"annotations": ENTRIES}),
    "csv": 'image_id,caption\n10,"a cat, asleep"\n9,été\u2028—\nx,\n',
    "tabs": "caption\tid\r\na cat, asleep\t10\r\nété\u2028—\t9\r\n\r\n\tx\r\n",
    "own captions": LINES.replace("image_id", "id"),
    "with a mark of order": "\ufeff" + LINES,
}


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "captions"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_means_the_same(file, name):
    path = file(FORMATS[name])
    assert read_candidates(path) == {"10": "a cat, asleep", "9": "été\u2028—", "x": ""}
    assert read_references(path)["10"] == ["a cat, asleep"]


def test_references_are_grouped_in_the_files_order(file):
    lines = [{"image_id": 1, "caption": "b"}, {"id": "1", "captions": ["a", "c"]}]
    assert read_references(file(json.dumps(lines))) == {"1": ["b", "a", "c"]}


def test_a_line_break_in_a_quoted_cell_is_part_of_the_caption(file):
    assert read_candidates(file('id,caption\n1,"a\nb"\n')) == {"1": "a\nb"}


BAD = {
    "empty": ("", ["is empty", "COCO results"]),
    "blank": (" \n\t", ["is empty"]),
    "no UTF-8": (b'[{"image_id": 1,\n "caption": "\xe9"}]', ["byte 30 (line 2)", "0xe9", "UTF-8"]),
    "UTF-16": (LINES.encode("utf-16"), ["byte 0", "0xff", "UTF-8"]),
    "half a character": (
        '[{"image_id": 1, "caption": "ab\\ud800"}]',
        ["entry 1", "\\ud800", "place 2"],
    ),
    "half a character in a name": (
        '[{"image_id": "\\udfff", "caption": ""}]',
        ["entry 1", "udfff"],
    ),
    "cut off": (json.dumps(ENTRIES)[:-4], ["line 1, column", "no JSON"]),
    "a broken line": (LINES + '\n{"image_id": 4, "capt', ["line 4", "no JSON"]),
    "a list of texts": ('["a cat"]', ["entry 1", "no image_id", '"a cat"']),
    "a number": ("17", ["neither JSON nor a CSV header"]),
    "prose": ("a cat sits here\n", ["line 1", "neither JSON nor a CSV header", "a cat sits"]),
    "another object": ('{"captions": {}}', ['without "annotations"', "COCO"]),
    "annotations of another kind": ('{"annotations": {"1": 2}}', ['"annotations" are no list']),
    "nothing in it": ("[]", ["holds no caption"]),
    "only a header": ("image_id,caption\n", ["holds no caption"]),
    "no caption": ('[{"image_id": 1}]', ["entry 1", "no caption"]),
    "no captions": ('[{"image_id": 1, "captions": []}]', ["entry 1", "no caption"]),
    "caption of another kind": (
        '{"annotations": [{"image_id": 1, "caption": ["a"]}]}',
        ["entry 1 of annotations", '["a"]', "no text"],
    ),
    "null": ('{"image_id": 1, "caption": null}', ["line 1", "null"]),
    "true for a name": ('[{"image_id": true, "caption": "a"}]', ["image_id is true"]),
    "a fraction for a name": ('[{"image_id": 1.5, "caption": "a"}]', ["image_id is 1.5"]),
    "NaN for a name": ('[{"image_id": NaN, "caption": "a"}]', ["image_id is NaN"]),
    "no name": ('[{"image_id": " ", "caption": "a"}]', ["image_id", "whole number or a text"]),
    "an unquoted comma": ("id,caption\n1,a cat, asleep\n", ["line 2", "3 cells", "quotes"]),
    "an open quote": ('id,caption\n1,"a cat\n', ["no CSV", "line"]),
    "a column twice": ("id,caption,caption\n1,a,b\n", ["line 1", "CSV header"]),
    "too long": (
        json.dumps([{"image_id": 1, "caption": "a " * 5_000_000}]),
        ["entry 1", "10,000,000 characters", f"{LONGEST:,}"],
    ),
    "too long in CSV": (
        "id,caption\n1," + "a " * 5_000_000,
        ["line 2", "no CSV", "limit", "quote missing"],
    ),
    "an annotation's own id": (
        '{"annotations": [{"id": 1, "caption": "a"}]}',
        ["entry 1 of annotations", "no image_id"],
    ),
    "bottomless": ("[" * 100_000, ["line 1", "nested brackets", "What works"]),
    "a number without end": (
        '[{"image_id": ' + "9" * 5000 + "}]",
        ["line 1", "of digits", "What works"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_file_and_place(file, name):
    content, said = BAD[name]
    path = file(content)
    with pytest.raises(CaptionFileError) as refused:
        read_references(path)
    for word in (str(path), *said):
        assert word in str(refused.value), refused.value
    assert len(str(refused.value)) < 800


def test_a_second_candidate_of_an_image_is_refused_with_both_places(file):
    lines = [{"image_id": 7, "caption": "a"}, {"image_id": "7", "caption": "a"}]
    with pytest.raises(CaptionFileError, match=r"entry 2 is a second caption of image 7.* entry 1"):
        read_candidates(file(json.dumps(lines)))


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(CaptionFileError, match=f"{path} cannot be read"):
            read_candidates(path)


def test_the_longest_caption_is_read(file):
    longest = "a" * LONGEST
    assert read_candidates(file(json.dumps([{"id": 1, "caption": longest}]))) == {"1": longest}


def test_images_stand_in_the_order_of_their_numbers_whatever_the_files():
    candidates = {"10": "a", "b": "c", "9": "b"}
    pairs = pair(candidates, {"b": ["x"], "9": ["y", "z"], "10": ["w"]})
    assert (pairs.ids, pairs.candidates) == (("9", "10", "b"), ("b", "a", "c"))
    assert pairs.references == (("y", "z"), ("w",), ("x",)) and pairs.coverage == 1.0


def test_an_image_with_one_side_only_is_refused_by_name_unless_allowed():
    candidates, references = {"1": "a", "2": "b"}, {"1": ["a"], "3": ["c"]}
    with pytest.raises(IncompleteCaptions) as refused:
        pair(candidates, references)
    assert "1 image (3) without a candidate; 1 image (2) without a reference" in str(refused.value)
    pairs = pair(candidates, references, allow_missing=True)
    assert (pairs.ids, pairs.coverage) == (("1",), 0.5)
    assert (pairs.without_candidate, pairs.without_reference) == (("3",), ("2",))


def test_files_of_other_images_are_refused_even_if_allowed():
    many = {str(number): "a" for number in range(30)}
    with pytest.raises(IncompleteCaptions, match="and 20 more") as refused:
        pair(many, {"x": ["a"]}, allow_missing=True)
    assert "same images" in str(refused.value)
