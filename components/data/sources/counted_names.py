"""Names with their number, as a caption says them: "a fox, two cherries and a camel"."""

from __future__ import annotations

from collections.abc import Mapping

NUMBERS = ("no", "one", "two", "three", "four")
_OWN_PLURAL = {
    "deer": "deer", "fish": "fish", "ox": "oxen", "mouse": "mice", "wolf": "wolves",
    "potato": "potatoes", "tomato": "tomatoes", "shrimp": "shrimp",
}  # fmt: skip
_UNCOUNTED = frozenset(
    ["bacon", "bread", "candy", "custard", "oden", "popcorn", "sake", "spaghetti", "sushi"]
)
"""Said without an article, and of two as of one."""


def listed(counts: Mapping[str, int]) -> str:
    """All names in their order, counted.

    >>> listed({"fox": 1, "cherries": 2, "camel": 1})
    'a fox, two cherries and a camel'
    """
    *before, last = [counted(name, count) for name, count in counts.items()]
    return f"{', '.join(before)} and {last}" if before else last


def counted(name: str, count: int) -> str:
    """A name with its article or number, up to four.

    >>> counted("ewe", 1), counted("wolf", 2), counted("peanuts", 1)
    ('an ewe', 'two wolves', 'peanuts')
    """
    if count > 1:
        return f"{NUMBERS[count]} {plural(name)}"
    if name in _UNCOUNTED or is_plural(name):
        return name
    # By letter, and "a unicorn": the one word here that is said otherwise.
    return f"{'an' if name[0] in 'aeiou' and not name.startswith('uni') else 'a'} {name}"


def is_plural(name: str) -> bool:
    """Whether the name already means several, as cherries do and an octopus does not."""
    return name.endswith("s") and not name.endswith(("us", "ss", "is"))


def plural(name: str) -> str:
    """The name of several."""
    if name in _UNCOUNTED or is_plural(name):
        return name
    if name in _OWN_PLURAL:
        return _OWN_PLURAL[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"
