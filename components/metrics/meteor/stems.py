"""Word -> stem, as METEOR's English stemmer does it (Porter 2 as of Snowball before 3.0).

The door of snowballstemmer, extra `metrics`. Its 3.x changed the stems of 28 words of COCO captions, so it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

LONGEST = 100
"""Characters; a longer word is its own stem. The longest English word METEOR's data hold has 42."""

REMEMBERED = 1 << 16
"""Words whose stems are kept: what is in no lexicon, mostly misspelt, comes back in every block of captions."""


class StemmerMissing(RuntimeError):
    """METEOR needs a stemmer of another version than the one that is installed, or any at all."""


def stemmer() -> Callable[[str], str]:
    """The function from a lower-case word to its stem. Raises StemmerMissing."""
    try:
        installed = version("snowballstemmer")
    except PackageNotFoundError:
        installed = "nothing"
    if not installed.startswith("2."):
        raise StemmerMissing(
            f"METEOR needs snowballstemmer 2 and {installed} is installed; "
            'pip install -c constraints.txt -e ".[metrics]"'
        )
    # The module itself: `snowballstemmer.stemmer()` takes PyStemmer's other stems where that is installed.
    from snowballstemmer.english_stemmer import EnglishStemmer

    stem: Callable[[str], str] = EnglishStemmer().stemWord
    return lru_cache(REMEMBERED)(lambda word: stem(word) if len(word) <= LONGEST else word)
