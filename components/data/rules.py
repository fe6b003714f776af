"""What counts as broken data: limits a person may set, and the rules on images and captions they make.

A rule is about one column of `facts.py`; `expectations.py` has it tried by Great Expectations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from components.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What counts as broken, and which share of the images or captions may be; 0 allows none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    needed_splits: tuple[str, ...] = ("train", "test")
    side_px_min: int = 16
    """Shorter side of an image, in pixels."""
    small_share: float = 0.0
    words_max: int = 40
    many_words_share: float = 0.01
    characters_max: int = 1000

    # What follows only warns.
    aspect_max: float = 3.0
    """Longer side over shorter side."""
    aspect_share: float = 0.0
    words_min: int = 2
    few_words_share: float = 0.5
    copies_share: float = 0.02
    """Images that repeat another of their split, pixels and captions."""
    renamed_share: float = 0.0
    """Images whose pixels stand under other captions too."""
    machine_share: float = 0.05
    """Captions with tokens like "dog2" or "star_32"."""
    boilerplate_share: float = 0.0
    """Captions with addresses, markup or catalogue phrases."""
    shared_share: float = 0.05
    """Captions that name more than one concept."""
    concepts_max: int = 10
    """Concepts that a caption may name before it says nothing."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            # Written so that NaN is refused too.
            if field.name.endswith("_share") and not 0 <= value <= 1:
                raise ConfigError(f"{field.name}={value} is no share; give 0 to 1.")
            if field.name.endswith(("_min", "_max")) and not value >= 1:
                raise ConfigError(f"{field.name}={value} is too small; give 1 or more.")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The values of one column lie between two numbers, but for a share of them."""

    name: str
    says: str
    """What is expected, as a sentence."""
    column: str
    at_least: float | None = None
    at_most: float | None = None
    share: float = 0.0
    warns: bool = False
    """Not to hold is a warning, and ends no night."""


def image_rules(limits: Limits) -> list[Rule]:
    """Rules on the columns of `facts.image_facts`."""
    return [
        Rule(
            name="image_large_enough",
            says=f"An image is at least {limits.side_px_min} px wide and high.",
            column="shorter_side_px",
            at_least=limits.side_px_min,
            share=limits.small_share,
        ),
        Rule(
            name="caption_given",
            says="An image has a caption.",
            column="captions",
            at_least=1,
        ),
        Rule(
            name="no_pixel_leak",
            says="No image stands in train and, pixel by pixel, in another split.",
            column="twins_across",
            at_most=0,
        ),
        Rule(
            name="no_family_leak",
            says="No family of concepts stands in train and in a split of unseen concepts.",
            column="family_leaks",
            at_most=0,
        ),
        Rule(
            name="image_no_strip",
            says=f"The longer side of an image is at most {limits.aspect_max:g} times the shorter.",
            column="aspect",
            at_most=limits.aspect_max,
            share=limits.aspect_share,
            warns=True,
        ),
        Rule(
            name="no_copies",
            says="No image repeats the pixels and captions of another of its split.",
            column="twins_here",
            at_most=0,
            share=limits.copies_share,
            warns=True,
        ),
        Rule(
            name="one_naming",
            says="Equal pixels have equal captions.",
            column="namings",
            at_most=1,
            share=limits.renamed_share,
            warns=True,
        ),
    ]


def caption_rules(limits: Limits) -> list[Rule]:
    """Rules on the columns of `facts.caption_facts`."""
    return [
        Rule(
            name="caption_not_empty",
            says="A caption holds a letter or a digit.",
            column="letters",
            at_least=1,
        ),
        Rule(
            name="caption_short_enough",
            says=f"A caption has at most {limits.words_max} words.",
            column="words",
            at_most=limits.words_max,
            share=limits.many_words_share,
        ),
        Rule(
            name="caption_bounded",
            says=f"A caption has at most {limits.characters_max} characters.",
            column="characters",
            at_most=limits.characters_max,
        ),
        Rule(
            name="caption_long_enough",
            says=f"A caption has at least {limits.words_min} words.",
            column="words",
            at_least=limits.words_min,
            share=limits.few_words_share,
            warns=True,
        ),
        Rule(
            name="caption_plain",
            says="A caption is free of control characters and of marks of a failed decoding.",
            column="odd_characters",
            at_most=0,
            warns=True,
        ),
        Rule(
            name="no_machine_tokens",
            says='A caption is free of tokens such as "dog2" and "star_32".',
            column="machine_tokens",
            at_most=0,
            share=limits.machine_share,
            warns=True,
        ),
        Rule(
            name="no_boilerplate",
            says="A caption is free of addresses, markup and catalogue phrases.",
            column="boilerplate",
            at_most=0,
            share=limits.boilerplate_share,
            warns=True,
        ),
        Rule(
            name="one_concept",
            says="A caption names one concept.",
            column="concepts",
            at_most=1,
            share=limits.shared_share,
            warns=True,
        ),
        Rule(
            name="says_something",
            says=f"A caption names at most {limits.concepts_max} concepts.",
            column="concepts",
            at_most=limits.concepts_max,
            warns=True,
        ),
    ]
