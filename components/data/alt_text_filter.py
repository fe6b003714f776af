"""Alt-texts of the web, filtered as little as ALIGN did (Jia et al. 2021, arXiv:2102.05918, section 3).

The paper's rules and numbers are the defaults; a small source scales the counts. What breaks several rules is counted
under each, so that no count depends on an order of rules or of candidates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from components.config import ConfigError
from components.data.text import normalise

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One image with one alt-text, as it was found."""

    id: str
    text: str
    picture: str
    """Names the image's pixels: candidates with equal pictures show the same image."""
    width_px: int
    height_px: int
    explicit: bool = False
    """Its source flags it as pornographic."""
    look: int | None = None
    """`looks.difference_hash` of the image; None takes no part in the search for near-duplicates."""


@dataclass(frozen=True, kw_only=True)
class FilterLimits:
    """The thresholds; the defaults are the paper's, for 1.8 billion pairs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    side_px_above: int = 200
    """The shorter side must be longer than this."""
    aspect_below: float = 3.0
    """Longer side over shorter side must be less than this."""
    texts_per_image_max: int = 1000
    """Different alt-texts an image may have."""
    images_per_text_max: int = 10
    """Different images an alt-text may have: more, and it is boilerplate ("1920x1080", "alt_img")."""
    common_ngrams: int = 100_000_000
    """How many of the most frequent words and word pairs are common; those as frequent as the last of them are too."""
    ngram_words: int = 2
    """2: a rare pair of words drops a text, as in the paper; 1: only a rare word, for sources where most pairs occur once."""
    words_min: int = 3
    words_max: int = 20
    look_bits_max: int = 8
    """Of the 256 bits of two looks, how many may differ for a near-duplicate."""

    def __post_init__(self) -> None:
        for name in ("texts_per_image_max", "images_per_text_max", "common_ngrams", "words_min"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)} lets nothing pass; give 1 or more."
                )
        if self.words_max < self.words_min:
            raise ConfigError(
                f"words_max={self.words_max} is below words_min={self.words_min}; the paper has 3 to 20."
            )
        if self.ngram_words not in (1, 2):
            raise ConfigError(f"ngram_words={self.ngram_words}; give 1 (words) or 2 (pairs too).")
        # Written so that NaN is refused too.
        if not self.aspect_below > 1:
            raise ConfigError(
                f"aspect_below={self.aspect_below} lets nothing pass; the paper has 3."
            )


def words(text: str) -> list[str]:
    """The unigrams of an alt-text, in lower case.

    >>> words("Star_32pt, a Dog's ear!")
    ['star_32pt', 'a', "dog's", 'ear']
    """
    return _WORD.findall(normalise(text))


def filter_pairs(
    samples: Iterable[Candidate],
    limits: FilterLimits,
    *,
    test_looks: Collection[int] = (),
) -> tuple[list[Candidate], dict[str, int]]:
    """The candidates that break no rule, in the order they came; and how many broke each rule.

    test_looks: looks of all evaluation images; a near-duplicate of one must not be trained on.
    Counts are of all candidates given, kept or not, so that the result does not depend on their order.
    """
    candidates = list(samples)
    rules = _rules(_Counted.over(candidates, limits), limits, test_looks)
    kept, counts = [], dict.fromkeys(rules, 0)
    for candidate in candidates:
        broken = [name for name, breaks in rules.items() if breaks(candidate)]
        for name in broken:
            counts[name] += 1
        if not broken:
            kept.append(candidate)
    return kept, counts


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """What the first pass counts."""

    texts_of_picture: Mapping[str, int]
    pictures_of_text: Mapping[str, int]
    common: Collection[Any]

    @classmethod
    def over(cls, candidates: Iterable[Candidate], limits: FilterLimits) -> _Counted:
        pairs = {(candidate.picture, normalise(candidate.text)) for candidate in candidates}
        frequency: Counter[Any] = Counter()
        for candidate in candidates:
            frequency.update(_ngrams(candidate.text, limits.ngram_words))
        least = sorted(frequency.values(), reverse=True)[: limits.common_ngrams][-1:] or [0]
        return cls(
            texts_of_picture=Counter(picture for picture, _ in pairs),
            pictures_of_text=Counter(text for _, text in pairs),
            common={ngram for ngram, count in frequency.items() if count >= least[0]},
        )


def _rules(
    counted: _Counted, limits: FilterLimits, test_looks: Collection[int]
) -> dict[str, Callable[[Candidate], bool]]:
    """Each rule's name, and whether a candidate breaks it."""

    def near_a_test_image(one: Candidate) -> bool:
        look = one.look
        return look is not None and any(
            (look ^ other).bit_count() <= limits.look_bits_max for other in test_looks
        )

    def has_a_rare_ngram(one: Candidate) -> bool:
        return not all(gram in counted.common for gram in _ngrams(one.text, limits.ngram_words))

    return {
        "image_explicit": lambda one: one.explicit,
        "image_small": lambda one: min(one.width_px, one.height_px) <= limits.side_px_above,
        "image_aspect": lambda one: _aspect(one) >= limits.aspect_below,
        "image_many_texts": lambda one: (
            counted.texts_of_picture[one.picture] > limits.texts_per_image_max
        ),
        "image_near_test": near_a_test_image,
        "text_shared": lambda one: (
            counted.pictures_of_text[normalise(one.text)] > limits.images_per_text_max
        ),
        "text_rare": has_a_rare_ngram,
        "text_short": lambda one: len(words(one.text)) < limits.words_min,
        "text_long": lambda one: len(words(one.text)) > limits.words_max,
    }


def _aspect(one: Candidate) -> float:
    return max(one.width_px, one.height_px) / max(min(one.width_px, one.height_px), 1)


def _ngrams(text: str, longest: int) -> list[Any]:
    unigrams = words(text)
    return unigrams if longest == 1 else [*unigrams, *pairwise(unigrams)]
