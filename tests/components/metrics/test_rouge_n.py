"""ROUGE-1 and ROUGE-2 against numbers worked by hand."""

from __future__ import annotations

import pytest

from components.metrics import rouge_n
from components.metrics.tokenise import tokenise


def each(candidate, *references):
    words = [tokenise(text) for text in references]
    return rouge_n.per_image(rouge_n.statistics([tokenise(candidate)], [words]))[0].tolist()


def test_one_reference_by_hand():
    # 5 words against 6, 4 shared (the, cat, on, mat); pairs: 4 against 5, shared "the cat".
    one, two = each("the cat sat on mat", "the cat lay on a mat")
    assert one == pytest.approx(2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6))
    assert two == pytest.approx(2 * (1 / 4) * (1 / 5) / (1 / 4 + 1 / 5))


def test_a_repeated_word_counts_as_often_as_in_both():
    # "the the the" against "the cat the": 2 shared of 3 and 3; pairs "the the" twice against none.
    assert each("the the the", "the cat the") == pytest.approx([2 / 3, 0.0])


def test_precision_and_recall_may_come_from_different_references():
    # Against the first: P 2/2, R 2/6; against the second: P 1/2, R 1/1. Best of each: P 1, R 1.
    one, two = each("red bus", "a red bus on the road", "bus")
    assert one == pytest.approx(1.0)
    assert two == pytest.approx(2 * 1 * (1 / 5) / (1 + 1 / 5))


def test_too_short_for_a_pair_scores_no_pairs():
    assert each("cat", "cat") == [1.0, 0.0]
    assert each("", "cat") == [0.0, 0.0]
    assert each("cat", "") == [0.0, 0.0]


def test_corpus_is_the_mean_of_images():
    stats = rouge_n.statistics([["a"], ["b"]], [[["a"]], [["c"]]])
    assert rouge_n.score(stats) == (0.5, 0.0)
    assert rouge_n.score(stats, [3, 1]) == (0.75, 0.0)
