"""Files of captions -> captions by image: COCO results, COCO annotations, JSON lines and CSV, told apart by content.

Nothing is repaired: what cannot be meant as it stands is refused with the file and the place in it. Not for scoring.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST = 20_000
"""Characters of the longest caption that is read; a longer one is a file gone wrong, and would take minutes to align."""
IDS = ("image_id", "id")
"""What an image may be called by, the first that is there."""
SHAPES = (
    'What works: COCO results [{"image_id": 1, "caption": "…"}], COCO annotations {"annotations": '
    '[{"image_id": 1, "caption": "…"}]}, the same objects as JSON lines, or CSV with the columns image_id and caption.'
)


class CaptionFileError(ValueError):
    """A file of captions that cannot be read as it stands; the message names the file and the place."""


@dataclass(frozen=True)
class Entry:
    """One caption of a file."""

    image_id: str
    caption: str
    place: str
    """For a person: `line 3`, `entry 3 of annotations`."""


def read_candidates(path: Path) -> dict[str, str]:
    """Image -> its one caption. An empty caption is one; numbers and texts that are spelt alike name one image.

    Raises CaptionFileError, for a second caption of an image too.
    """
    found: dict[str, Entry] = {}
    for entry in read_entries(path):
        if entry.image_id in found:
            raise CaptionFileError(
                f"{path}: {entry.place} is a second caption of image {entry.image_id}, after "
                f"{found[entry.image_id].place}. Give one candidate an image."
            )
        found[entry.image_id] = entry
    return {image: entry.caption for image, entry in found.items()}


def read_references(path: Path) -> dict[str, list[str]]:
    """Image -> its captions, in the file's order. Raises CaptionFileError."""
    found: dict[str, list[str]] = {}
    for entry in read_entries(path):
        found.setdefault(entry.image_id, []).append(entry.caption)
    return found


def read_entries(path: Path) -> list[Entry]:
    """Every caption of a file. Raises CaptionFileError if there is none."""
    text = _decoded(path)
    entries = []
    for place, found in _objects(path, text):
        image = _image_id(path, place, found)
        for caption in _captions(path, place, found):
            entries.append(Entry(image, _caption(path, place, caption), place))
    if not entries:
        raise CaptionFileError(f"{path} holds no caption. {SHAPES}")
    return entries


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CaptionFileError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CaptionFileError(
            f"{path}: byte {error.start} (line {line}) is 0x{data[error.start]:02x}, which is no UTF-8. "
            "Save the file as UTF-8."
        ) from error


def _objects(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Each object that should hold a caption, with its place."""
    start = text.lstrip()[:1]
    if not start:
        raise CaptionFileError(f"{path} is empty. {SHAPES}")
    if start == "{" and _is_line(text.lstrip().partition("\n")[0]):
        return _lines(path, text)
    if start in ("[", "{"):
        return _members(path, _parsed(path, text, "", first_line=1))
    return _rows(path, text)


def _is_line(first: str) -> bool:
    """Whether the first line is an object by itself, and not a whole COCO file."""
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        return False
    named = {*IDS, "caption"}
    return isinstance(found, dict) and "annotations" not in found and not named.isdisjoint(found)


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parsed(path, line, f"line {number}", first_line=number)


def _members(path: Path, whole: Any) -> Iterator[tuple[str, Any]]:
    members, within = whole, ""
    if isinstance(whole, dict):
        members, within = whole.get("annotations"), " of annotations"
    if not isinstance(members, list):
        raise CaptionFileError(
            f'{path} is a JSON object whose "annotations" are no list. {SHAPES}'
            if isinstance(whole, dict) and "annotations" in whole
            else f'{path} is a JSON object without "annotations". {SHAPES}'
        )
    for number, found in enumerate(members, start=1):
        place = f"entry {number}{within}"
        # The id of a COCO annotation is its own, and numbers an image by chance.
        if within and isinstance(found, dict) and IDS[0] not in found:
            raise CaptionFileError(f"{path}: {place} has no image_id: {_shown(found)}. {SHAPES}")
        yield place, found


def _parsed(path: Path, text: str, place: str, *, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = place or f"line {error.lineno}"
        raise CaptionFileError(
            f"{path}: {at}, column {error.colno}: no JSON ({error.msg}). {SHAPES}"
        ) from error
    except (ValueError, RecursionError) as error:
        is_number = isinstance(error, ValueError)
        endless = "a number of thousands of digits" if is_number else "thousands of nested brackets"
        raise CaptionFileError(
            f"{path}: {place or f'line {first_line}'}: {endless}. {SHAPES}"
        ) from error


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    head = text.lstrip().partition("\n")[0]
    mark = next((mark for mark in ",\t;" if mark in head), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        written = (cells for cells in reader if cells)
        names = _header(path, next(written))
        for cells in written:
            place = f"line {reader.line_num}"
            if len(cells) != len(names):
                raise CaptionFileError(
                    f"{path}: {place} has {len(cells)} cells for the {len(names)} columns {', '.join(names)}. "
                    'A caption with a comma stands in quotes: 7,"a cat, asleep".'
                )
            yield place, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise CaptionFileError(
            f"{path}: line {reader.line_num}: no CSV ({error}). Is a quote missing?"
        ) from error


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    if not set(IDS) & set(names) or "caption" not in names or len(set(names)) < len(names):
        shown = ", ".join(names)[:80]
        raise CaptionFileError(
            f"{path}: line 1 is neither JSON nor a CSV header ({shown!r}). {SHAPES}"
        )
    return names


def _image_id(path: Path, place: str, found: Any) -> str:
    name = next((name for name in IDS if isinstance(found, dict) and name in found), None)
    if name is None:
        raise CaptionFileError(f"{path}: {place} has no image_id: {_shown(found)}. {SHAPES}")
    image = found[name]
    # True would be image 1, and 1.0 image "1.0".
    if isinstance(image, bool) or not isinstance(image, int | str) or not str(image).strip():
        raise CaptionFileError(
            f"{path}: {place}: {name} is {_shown(image)}; it should be a whole number or a text."
        )
    _refuse_surrogates(path, f"{place}: {name}", str(image))
    return str(image).strip()


def _captions(path: Path, place: str, found: Any) -> Sequence[Any]:
    """The caption of an object, or its several `captions`."""
    if isinstance(found, dict) and "caption" in found:
        return [found["caption"]]
    several = found.get("captions") if isinstance(found, dict) else None
    if not isinstance(several, list) or not several:
        raise CaptionFileError(f"{path}: {place} has no caption: {_shown(found)}. {SHAPES}")
    return several


def _caption(path: Path, place: str, caption: Any) -> str:
    if not isinstance(caption, str):
        raise CaptionFileError(f"{path}: {place}: the caption is {_shown(caption)}, and no text.")
    if len(caption) > LONGEST:
        raise CaptionFileError(
            f"{path}: {place}: a caption of {len(caption):,} characters; the longest that is read has {LONGEST:,}. "
            "Is a line break or a quote missing?"
        )
    _refuse_surrogates(path, f"{place}: the caption", caption)
    return caption


def _refuse_surrogates(path: Path, what: str, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CaptionFileError(
            f"{path}: {what} holds half a character (\\u{ord(text[error.start]):04x}) at place {error.start}, which no "
            "file can hold as UTF-8. Write the whole character, or leave it out."
        ) from error


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:80]
