"""Word -> the WordNet synsets METEOR gives it: its own and those of its base form.

Two words are synonyms if they share one, whatever their part of speech. The rules are WordNet's detachment rules
(morphy, WordNet 3.0), tried in one order for all parts of speech; the first that makes a known word ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

DETACHMENTS = (
    ("s", ""),
    ("men", "man"),
    ("ies", "y"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
    ("er", ""),
    ("est", ""),
    ("er", "e"),
    ("est", "e"),
)
SHORTEST = 3
"""Characters of the shortest word that is taken apart."""


def detached(word: str) -> Iterator[str]:
    """What the word may be an inflection of, in the order to try."""
    if len(word) < SHORTEST or word.endswith("ss"):
        return
    for ending, base in DETACHMENTS:
        if word.endswith(ending):
            yield word[: len(word) - len(ending)] + base


def resolve(
    word: str, synsets: Mapping[str, Sequence[int]], exceptions: Mapping[str, Sequence[str]]
) -> list[int]:
    """The word's synsets: its own first, then those of its base forms that it has not itself.

    exceptions: inflected -> base forms ("men" -> "man"); a word that has any is not taken apart.
    """
    bases = exceptions.get(word)
    if bases is None:
        bases = [base for base in detached(word) if base in synsets][:1]
    found = dict.fromkeys(synsets.get(word, ()))
    for base in bases:
        found.update(dict.fromkeys(synsets.get(base, ())))
    return list(found)


def parse_synsets(text: str) -> dict[str, list[int]]:
    """Word -> synsets, from lines that alternate between a word and its synsets' numbers."""
    lines = text.splitlines()
    return {
        word: [int(number) for number in numbers.split()]
        for word, numbers in zip(lines[::2], lines[1::2], strict=True)
    }


def parse_exceptions(text: str) -> dict[str, list[str]]:
    """Inflected form -> base forms, from lines that alternate between a base and its inflected forms."""
    lines = text.splitlines()
    bases: dict[str, list[str]] = {}
    for base, inflected in zip(lines[::2], lines[1::2], strict=True):
        for form in inflected.split():
            bases.setdefault(form, []).append(base)
    return bases
