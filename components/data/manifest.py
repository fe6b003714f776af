"""One line of a manifest and back: a `Row` as strict JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from components.records import SPLITS, Box, Question, Row, Sample

SHARD_NAME = re.compile(r"[a-z_]+-\d{5}\.tar")


class LineDamaged(ValueError):
    """A manifest line that is not one row."""


def to_line(row: Row) -> str:
    """The row as one line of ASCII JSON without its newline: the sample's fields beside the row's, keys sorted."""
    record = asdict(row)
    sample = record.pop("sample")
    del sample["image"]
    return json.dumps(record | sample, sort_keys=True, allow_nan=False)


def from_line(line: str) -> Row:
    """Read what `to_line` wrote; raise `LineDamaged` for anything else, unknown keys included."""
    try:
        record = json.loads(line, object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise LineDamaged(f"is no JSON object ({error})") from error
    values = _fields(record, _ROW_FIELDS | _SAMPLE_FIELDS)
    sample = Sample(image=b"", **{name: values[name] for name in _SAMPLE_FIELDS})
    return Row(sample=sample, **{name: values[name] for name in _ROW_FIELDS})


def _fields(record: Any, readers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise LineDamaged(f"holds {_short(record)} where an object belongs")
    for problem, names in {
        "lacks": readers.keys() - record.keys(),
        "has the unknown": record.keys() - readers.keys(),
    }.items():
        if names:
            raise LineDamaged(f"{problem} {', '.join(sorted(names))}")
    values = {}
    for name, read in readers.items():
        try:
            values[name] = read(record[name])
        except LineDamaged as error:
            raise LineDamaged(f"{name} {error}") from None
    return values


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key stands twice")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise LineDamaged(f"is {_short(value)}, not a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in _list(value))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise LineDamaged(f"is {_short(value)}, not a list")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise LineDamaged(f"is {_short(value)}, not a whole number from 0")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LineDamaged(f"is {_short(value)}, not a finite number")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise LineDamaged(f"is {_short(value)}, neither true nor false")
    return value


def _split(value: Any) -> str:
    if value not in SPLITS:
        raise LineDamaged(f"is {_short(value)}, not one of {', '.join(SPLITS)}")
    return _text(value)


def _shard(value: Any) -> str:
    # A bare file name of ours, so that no row reads outside its folder.
    if not SHARD_NAME.fullmatch(_text(value)):
        raise LineDamaged(f"is {_short(value)}, not a shard like train-00000.tar")
    return _text(value)


def _boxes(value: Any) -> tuple[Box, ...]:
    return tuple(Box(**_fields(item, _BOX_FIELDS)) for item in _list(value))


def _questions(value: Any) -> tuple[Question, ...]:
    return tuple(Question(**_fields(item, _QUESTION_FIELDS)) for item in _list(value))


_BOX_FIELDS: dict[str, Callable[[Any], Any]] = {
    "label": _text,
    "left_px": _number,
    "top_px": _number,
    "right_px": _number,
    "bottom_px": _number,
    "novel": _truth,
}
_QUESTION_FIELDS: dict[str, Callable[[Any], Any]] = {"text": _text, "answers": _texts}
_ROW_FIELDS: dict[str, Callable[[Any], Any]] = {
    "key": _count,
    "shard": _shard,
    "offset_bytes": _count,
    "size_bytes": _count,
    "sha256": _text,
    "pixels_sha256": _text,
    "width_px": _count,
    "height_px": _count,
}
_SAMPLE_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": _text,
    "captions": _texts,
    "split": _split,
    "concept": _text,
    "label": _text,
    "concept_family": _text,
    "origin": _text,
    "license": _text,
    "group": _text,
    "tags": _texts,
    "boxes": _boxes,
    "questions": _questions,
}
