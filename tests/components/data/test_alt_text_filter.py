"""ALIGN's noise filter: every rule on its planted example, at its edge, and in any order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from components.config import ConfigError
from components.data.alt_text_filter import Candidate, FilterLimits, filter_pairs, words

LIMITS = FilterLimits(
    side_px_above=20, texts_per_image_max=3, images_per_text_max=4, common_ngrams=40, words_max=8,
    look_bits_max=2,
)  # fmt: skip
TEST_LOOK = 0b1111_0000

_COLOURS = ("red", "blue", "green", "old", "big")
_THINGS = ("house", "boat", "tree", "horse", "clock")


def _candidate(name: str, text: str, **changes) -> Candidate:
    made = Candidate(id=name, text=text, picture=name, width_px=40, height_px=60, look=1 << 200)
    return replace(made, **changes)


def _good() -> list[Candidate]:
    """25 texts, each of three images: 41 words and pairs of words, none of them rarer than three."""
    return [
        _candidate(f"{colour} {thing} {copy}", f"a {colour} {thing}")
        for colour in _COLOURS
        for thing in _THINGS
        for copy in range(3)
    ]


PLANTED = {
    "image_explicit": [_candidate("flagged", "a red house", explicit=True)],
    "image_small": [_candidate("small", "a red house", width_px=20, height_px=30)],
    "image_aspect": [_candidate("banner", "a red house", width_px=120, height_px=40)],
    "image_many_texts": [
        _candidate(f"again {number}", f"a {colour} boat", picture="one picture")
        for number, colour in enumerate(_COLOURS[:4])
    ],
    "image_near_test": [_candidate("leak", "a red house", look=TEST_LOOK ^ 0b101)],
    "text_shared": [_candidate(f"stock {number}", "a tree a house") for number in range(5)],
    "text_rare": [_candidate("machine", "a red star_32pt05step house")],
    "text_short": [_candidate("short", "a house")],
    "text_long": [_candidate("long", "a red house " * 3)],
}


def _ids(candidates: list[Candidate]) -> set[str]:
    return {candidate.id for candidate in candidates}


def test_what_breaks_no_rule_is_kept_in_its_order() -> None:
    kept, counts = filter_pairs(_good(), LIMITS, test_looks=[TEST_LOOK])
    assert kept == _good()
    assert set(counts) == set(PLANTED)
    assert not any(counts.values())


@pytest.mark.parametrize("rule", PLANTED)
def test_each_rule_removes_exactly_its_planted_example_and_counts_it(rule: str) -> None:
    # With so many common ones nothing is rare: the planted texts bring words and pairs of their own.
    limits = replace(LIMITS, common_ngrams=40 if rule == "text_rare" else 10_000)
    kept, counts = filter_pairs([*_good(), *PLANTED[rule]], limits, test_looks=[TEST_LOOK])
    assert _ids(kept) == _ids(_good())
    assert counts == {name: len(PLANTED[rule]) * (name == rule) for name in PLANTED}


def test_the_filter_does_not_depend_on_the_order() -> None:
    everything = [*_good(), *(one for planted in PLANTED.values() for one in planted)]
    wanted_kept, wanted_counts = filter_pairs(everything, LIMITS, test_looks=[TEST_LOOK])
    assert all(wanted_counts.values())
    for seed in range(5):
        mixed = random.Random(seed).sample(everything, len(everything))
        kept, counts = filter_pairs(mixed, LIMITS, test_looks=[TEST_LOOK])
        assert counts == wanted_counts
        assert _ids(kept) == _ids(wanted_kept)


@pytest.mark.parametrize(
    "edge",
    [
        {"width_px": 21},
        {"width_px": 40, "height_px": 119},
        {"look": TEST_LOOK ^ 0b111},
        {"look": None},
        {"text": "a red house a red house a red"},
    ],
)
def test_the_edge_of_a_rule_is_kept(edge: dict) -> None:
    limits = replace(LIMITS, common_ngrams=10_000)
    kept, _ = filter_pairs(
        [*_good(), _candidate("edge", **{"text": "a red house", **edge})],
        limits,
        test_looks=[TEST_LOOK],
    )
    assert "edge" in _ids(kept)


def test_a_text_repeated_on_one_picture_is_not_shared_and_case_makes_no_other_text() -> None:
    limits = replace(LIMITS, common_ngrams=10_000)
    same = [_candidate(f"copy {number}", "A Tree  a house", picture="p") for number in range(9)]
    _, counts = filter_pairs([*_good(), *same], limits)
    assert counts["text_shared"] == counts["image_many_texts"] == 0
    apart = [_candidate(f"copy {number}", "A Tree  a house") for number in range(3)]
    _, counts = filter_pairs([*_good(), *PLANTED["text_shared"], *apart], limits)
    assert counts["text_shared"] == 8


def test_a_pair_of_common_words_may_be_rare_unless_only_words_are_looked_at() -> None:
    strange = _candidate("strange", "red a house")
    limits = LIMITS
    assert filter_pairs([*_good(), strange], limits)[1]["text_rare"] == 1
    assert filter_pairs([*_good(), strange], replace(limits, ngram_words=1))[1]["text_rare"] == 0


def test_what_breaks_two_rules_is_counted_under_both() -> None:
    both = _candidate("both", "a house", width_px=1)
    _, counts = filter_pairs([*_good(), both], replace(LIMITS, common_ngrams=10_000))
    assert counts["image_small"] == counts["text_short"] == counts["image_aspect"] == 1


def test_no_candidates_give_none() -> None:
    kept, counts = filter_pairs([], LIMITS)
    assert kept == []
    assert not any(counts.values())


def test_words_hold_no_punctuation_but_inside() -> None:
    assert words("Sun-flower, (l'Aube) #3 — a_b") == ["sun-flower", "l'aube", "3", "a_b"]


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"words_min": 0}, "1 or more"),
        ({"words_max": 2}, "below words_min"),
        ({"ngram_words": 3}, "1 .words. or 2"),
        ({"aspect_below": float("nan")}, "the paper has 3"),
    ],
)
def test_limits_that_let_nothing_pass_are_refused(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        FilterLimits(**wrong)
