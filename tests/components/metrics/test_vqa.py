"""VQA accuracy against cases worked by hand from the official rules."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from components.metrics import vqa
from components.metrics.metric import MetricInputError
from components.metrics.vqa import normalise, right
from components.metrics.vqa_words import CONTRACTIONS


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("A red ball", "red ball"),
        ("the An a", ""),
        ("Two", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("3.5.", "3.5"),
        ("1,000", "1000"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("red, white and blue", "red white and blue"),
        ("red,white", "red white"),
        ("isnt", "isn't"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("theyd've", "they'd've"),
        ("5 oclock", "5 o'clock"),
        ("it's", "it's"),
        ("  on\ttop\nof it ", "on top of it"),
        ("(left)", "left"),
        ("what?!", "what"),
    ],
)
def test_answers_are_normalised_as_officially(answer: str, wanted: str) -> None:
    assert normalise(answer) == wanted


def test_a_normalised_answer_stays_as_it_is_and_no_right_contraction_is_rewritten() -> None:
    for wanted in ("2 door car isn't it", "on top of it", "3.5", "y'all'd've"):
        assert normalise(wanted) == wanted
    assert not set(CONTRACTIONS) & set(CONTRACTIONS.values())
    assert CONTRACTIONS["cant"] == "can't"
    assert CONTRACTIONS["wont"] == "won't"
    assert CONTRACTIONS["whats"] == "what's"
    assert "lets" not in CONTRACTIONS
    assert "well" not in CONTRACTIONS
    assert "were" not in CONTRACTIONS


@pytest.mark.parametrize(
    ("same", "wanted"),
    # Of ten people `same` said it. Left out once each: same times (same - 1) / 3, the others same / 3, at most 1.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_accuracy_by_hand_for_each_number_of_people_who_agree(same: int, wanted: float) -> None:
    people = ["Yes"] * same + ["no"] * (10 - same)
    assert right("yes.", people) == pytest.approx(wanted)
    assert right("yes.", people[::-1]) == pytest.approx(wanted)


def test_accuracy_is_the_mean_over_all_subsets_of_nine() -> None:
    people = ["two", "2", "three", "a two", "2 dogs", "3", "two!", "four", "2", "none"]
    for answer in ("2", "three", "zero", "five", "two dogs"):
        known = [normalise(other) for other in people]
        subsets = [
            min(list(nine).count(normalise(answer)) / 3, 1) for nine in combinations(known, 9)
        ]
        assert right(answer, people) == pytest.approx(sum(subsets) / 10)


def test_fewer_than_ten_answers_are_a_list_of_right_ones() -> None:
    assert right("One", ["one", "1"]) == right("1", ["one"]) == 1.0
    assert right("two", ["one", "1"]) == 0.0
    assert right("at top left", ["at the top left", "top left"]) == 1.0
    assert right("x", ["x"] + ["y"] * 8) == 1.0
    assert right("x", ["x"] + ["y"] * 9) == pytest.approx(0.3)


def test_saying_nothing_is_never_right() -> None:
    assert right("", [""]) == right("the", ["a"] * 10) == 0.0


def test_the_score_is_the_mean_over_questions_and_weights_repeat_them() -> None:
    stats = vqa.statistics(["1", "red", "no"], [["one"], ["blue"], ["no"] * 2 + ["yes"] * 8])
    assert vqa.per_image(stats).tolist() == pytest.approx([1.0, 0.0, 0.6])
    assert vqa.score(stats) == pytest.approx(1.6 / 3)
    assert vqa.score(stats, np.array([1, 2, 0])) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("candidates", "references", "says"),
    [
        ([], [], "at least one"),
        (["a"], [], "1 answers to 0 questions"),
        (["a", "b"], [["a"], []], r"Question 1 has the accepted answers \[\]"),
        (["a"], ["red"], "Question 0 has the accepted answers 'red'"),
    ],
)
def test_input_it_is_not_defined_for_is_refused(candidates, references, says) -> None:
    with pytest.raises(MetricInputError, match=says):
        vqa.statistics(candidates, references)
