"""METEOR's data for English: found in an installed package, compiled once into arrays that are mapped from disk.

The package is `pycocoevalcap` 1.2, of which two data files are read: a gzip file and members of a jar. Nothing of it is
imported or run, and no Java is needed. Licences: METEOR's data LGPL-2.1, WordNet 3.0's its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.metrics.meteor import lexicon, paraphrases, stems
from components.metrics.meteor.lexicon import Lexicon
from components.metrics.meteor.normalise import Prefixes
from components.metrics.meteor.paraphrases import Paraphrases


@dataclass(frozen=True)
class Resources:
    """All METEOR knows of English."""

    name: str
    """"meteor", or "meteor_ems": exact, stem and synonym matches alone, another metric."""
    digest: str
    """Of the data, so that scores can name them."""
    prefixes: Prefixes
    function_words: frozenset[str]
    lexicon: Lexicon
    paraphrases: Paraphrases
    stem: Callable[[str], str]


def from_parts(
    function_words: Sequence[str],
    prefixes: Sequence[str],
    synsets: Mapping[str, Sequence[int]],
    pairs: Sequence[tuple[str, str]],
    digest: str,
) -> Resources:
    """A small METEOR made in memory. synsets: all of each word, those of its base form included."""
    words = dict.fromkeys(
        [*synsets, *(word for pair in pairs for text in pair for word in text.split())]
    )
    stem = stems.stemmer()
    known = lexicon.build(list(words), synsets, synsets, stem)
    row = dict(zip(words, known.rows(list(words)).tolist(), strict=True))
    return Resources(
        name="meteor",
        digest=digest,
        prefixes=Prefixes.parse(prefixes),
        function_words=frozenset(function_words),
        lexicon=known,
        paraphrases=paraphrases.from_phrases(pairs, row),
        stem=stem,
    )
