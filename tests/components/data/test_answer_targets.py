"""What is learnt of several people's answers, and of a list of right ones."""

from __future__ import annotations

import pytest

from components.data.answers import answer_targets, best, rightness
from components.metrics import vqa
from components.records import ANNOTATORS


@pytest.mark.parametrize(("count", "target"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_of_ten_people_each_counts_three_tenths_and_no_answer_more_than_1(count, target) -> None:
    accepted = ["red"] * count + ["blue"] * (ANNOTATORS - count)
    assert rightness(accepted)["red"] == pytest.approx(target)


def test_a_target_is_the_accuracy_that_the_answer_would_be_measured_with() -> None:
    accepted = ["red"] * 2 + ["pink"] + ["blue"] * 3 + ["green"] * 4
    for answer, target in rightness(accepted).items():
        assert target == pytest.approx(vqa.right(answer, accepted))


def test_answers_of_a_list_are_all_right_and_others_are_0() -> None:
    targets_BA = answer_targets([("two", "2"), ("red",)], ["2", "red", "three"])
    assert targets_BA.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_no_single_person_speaks_for_ten() -> None:
    """Neither in the targets nor as the one answer that a writing family learns."""
    accepted = ("odd", *["two"] * 5, *["three"] * 4)
    assert best(accepted) == "two"
    (row_A,) = answer_targets([accepted], ["odd", "two", "three"]).tolist()
    assert row_A == pytest.approx([0.3, 1.0, 1.0])


def test_the_best_of_a_list_is_its_first() -> None:
    assert best(("ring", "a ring", "a ring")) == "ring"
