"""Share of captions that equal a reference."""

from __future__ import annotations

from components.metrics import exact_match
from components.metrics.tokenise import tokenise


def share(candidates, references):
    return exact_match.score(
        exact_match.statistics(
            [tokenise(text) for text in candidates],
            [[tokenise(text) for text in several] for several in references],
        )
    )


def test_case_and_filtered_punctuation_do_not_matter():
    assert share(["a RED circle"], [["A blue one.", "A red circle."]]) == 1.0


def test_any_reference_counts_and_near_misses_do_not():
    references = [["a cat", "a dog"]] * 4
    assert share(["a dog", "a cat", "a dogs", "dog a"], references) == 0.5


def test_saying_nothing_earns_nothing():
    assert share(["."], [["!", "a dog"]]) == 0.0
