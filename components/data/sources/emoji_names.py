"""Names of emoji concepts from the tables of `emojibase-data`, and the families a split must not divide."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from components.data.sources.drawings import Concept

_SHORTCODES = ("github", "iamcal", "joypixels", "emojibase")
_PEOPLE = frozenset(
    [
        "man",
        "men",
        "woman",
        "women",
        "person",
        "people",
        "boy",
        "boys",
        "girl",
        "girls",
        "child",
        "children",
        "adult",
        "adults",
    ]
)


def read_concepts(read: Callable[[str], Any]) -> list[Concept]:
    """All concepts in Unicode's order, less skin tones and parts that only combine.

    read: gives a JSON file of the package by its path. Names: CLDR (en, en-GB), Unicode, then shortcodes.
    """
    groups = read("meta/groups.json")["groups"]
    british = {row["hexcode"]: row["label"] for row in read("en-gb/data.json")}
    # The package's table, not Python's: `unicodedata` knows other characters in each Python version.
    unicode = read("meta/unicode-names.json")
    shortcodes = [read(f"en/shortcodes/{name}.json") for name in _SHORTCODES]
    concepts = []
    for row in read("en/data.json"):
        group = groups[str(row["group"])] if "group" in row else "component"
        if group == "component":
            continue
        code = row["hexcode"]
        key = code.lower().replace("-fe0f", "")
        names = [row["label"], british.get(code, "")]
        if "-" not in key:
            names.append(unicode.get(code, ""))
        names += _words(codes.get(code, []) for codes in shortcodes)
        concepts.append(
            Concept(
                key=key,
                names=_distinct(names),
                tags=tuple(row.get("tags", ())),
                group=group,
                family="",
            )
        )
    return [
        replace(concept, family=family)
        for concept, family in zip(concepts, families(concepts), strict=True)
    ]


def families(concepts: Sequence[Concept]) -> list[str]:
    """One family for each concept: the label without its words for people, joined with all that share a name.

    So "woman firefighter" never tests what "man firefighter" taught, nor "dog face" (also named "dog") what "dog" did.
    """
    known = [_without_people(concept.names[0]) for concept in concepts]
    first: dict[str, str] = {}
    # Names chain families together (a - b, b - c), so join until nothing moves.
    while True:
        joined = []
        for concept, family in zip(concepts, known, strict=True):
            seen = [first.get(key, family) for key in (f"family {family}", *concept.names)]
            smallest = min(seen)
            for key in (f"family {family}", *concept.names):
                first[key] = smallest
            joined.append(smallest)
        if joined == known:
            return known
        known = joined


def _without_people(label: str) -> str:
    words = re.sub(r"[\W_]+", " ", label).split()
    return " ".join(word for word in words if word not in _PEOPLE) or "person"


def _words(codes: Iterable[str | list[str]]) -> list[str]:
    listed = [code for group in codes for code in ([group] if isinstance(group, str) else group)]
    return [re.sub("[_-]", " ", code) for code in listed if _is_name(code)]


def _is_name(shortcode: str) -> bool:
    """A number at the end tells twins apart ("dog2", "clock1230"), and one alone names nothing ("-1")."""
    return bool(re.search("[a-z]", shortcode) and not re.search(r"[a-z]\d+$", shortcode))


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Lower case, each once; two names are one if their letters and digits are."""
    kept: dict[str, str] = {}
    for name in filter(None, names):
        lower = " ".join(name.lower().split())
        kept.setdefault("".join(filter(str.isalnum, lower)), lower)
    return tuple(kept.values())
