"""Words that the official VQA evaluation rewrites before it compares answers (Antol et al. 2015, arXiv:1505.00468)."""

from __future__ import annotations

ARTICLES = frozenset({"a", "an", "the"})

_COUNTED = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(_COUNTED)}

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Characters that are taken away, or become a space between letters; full stops have a rule of their own."""

_STEMS = {
    "n't": "ai are ca could did do does had has have is might must need ought sha should was were wo would",
    "'ve": "could might must should they we what where who would you",
    "'s": "he how somebody someone that there what when where who why",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you",
    "'re": "there they what why you",
    "n't've": "could had might should would",
    "'d've": "he it she somebody someone something there they we who y'all you",
}
"""An ending, and the words that are written with it."""
_OTHERS = {
    "maam": "ma'am",
    "notve": "not've",
    "oclock": "o'clock",
    "twas": "'twas",
    "yall": "y'all",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
}


def _contractions() -> dict[str, str]:
    """Each contraction without one of its apostrophes, or its only one -> with all. Those of "I" are left out: answers
    are in lower case by then."""
    found = dict(_OTHERS)
    for ending, stems in _STEMS.items():
        places = [at for at, sign in enumerate(ending) if sign == "'"]
        for stem in stems.split():
            for at in places:
                found[stem + ending[:at] + ending[at + 1 :]] = stem + ending
    return found


CONTRACTIONS = _contractions()
"""A contraction that lacks an apostrophe -> with it."""
