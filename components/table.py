"""A table of things chosen by name, which refuses an unknown name with the nearest known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class UnknownName(KeyError):
    """A name that no table holds; the message offers the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


def nearest(name: str, known: Iterable[str]) -> str:
    """A guess at what was meant, as a sentence after a space; empty if nothing is near.

    >>> nearest("clipp", ["align", "clip"])
    ' Did you mean "clip"?'
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f' Did you mean "{near[0]}"?' if near else ""


class Table(Mapping[str, T]):
    """Names of one kind; an unknown one is refused with the nearest known."""

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        raise UnknownName(
            f'No {self.kind} "{name}".{nearest(name, self._entries)} Known: {", ".join(sorted(self._entries))}. '
            f"A new {self.kind} is one file and one line in components/catalog.py."
        )

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
