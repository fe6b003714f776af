"""What every text metric must do, tested once over all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from components.metrics import bleu, cider, exact_match, rouge, rouge_n
from components.metrics.meteor import meteor
from components.metrics.metric import MetricInputError


class Text(NamedTuple):
    statistics: Callable[..., Any]
    score: Callable[..., Any]
    per_image: Callable[..., Any]
    high: float


TEXT = {
    "bleu": Text(bleu.statistics, bleu.score, bleu.per_image, 1.0),
    "rouge": Text(rouge.statistics, rouge.score, rouge.per_image, 1.0),
    "rouge_n": Text(rouge_n.statistics, rouge_n.score, rouge_n.per_image, 1.0),
    "cider_d": Text(cider.statistics, cider.score, cider.per_image, 10.0),
    "cider": Text(
        cider.statistics,
        partial(cider.score, variant="cider"),
        partial(cider.per_image, variant="cider"),
        10.0,
    ),
    "exact_match": Text(exact_match.statistics, exact_match.score, exact_match.per_image, 1.0),
}


@pytest.fixture(params=sorted([*TEXT, "meteor"]))
def metric(request, meteor_resources) -> Text:
    if request.param == "meteor":
        counted = partial(meteor.statistics, resources=meteor_resources)
        return Text(counted, meteor.score, meteor.per_image, 1.0)
    return TEXT[request.param]


def rows(stats, chosen):
    """The statistics of these images only; fields that are not one row an image stay."""
    taken = {
        name: value[chosen] if isinstance(value, np.ndarray) else value
        for name, value in vars(stats).items()
    }
    return type(stats)(**taken)


def test_repeating_a_reference_is_best_and_nothing_is_outside_the_range(metric, golden):
    perfect = [max(several, key=len) for several in golden.references]
    only = [[caption] for caption in perfect]
    best = np.asarray(metric.score(metric.statistics(perfect, only)))
    here = np.asarray(metric.score(metric.statistics(golden.candidates, golden.references)))
    assert (best >= here).all()
    each = metric.per_image(metric.statistics(golden.candidates, golden.references))
    assert np.isfinite(each).all() and each.min() >= 0 and each.max() <= metric.high + 1e-9


def test_an_empty_candidate_scores_exactly_nothing(metric, golden):
    stats = metric.statistics([[]] * len(golden.references), golden.references)
    assert not np.any(metric.per_image(stats)) and not np.any(metric.score(stats))


def test_empty_references_give_no_nan(metric):
    for candidate in ([], ["a"]):
        stats = metric.statistics([candidate, ["b"]], [[[]], [[], []]])
        assert np.isfinite(metric.per_image(stats)).all() and np.isfinite(metric.score(stats)).all()


def test_the_order_of_images_does_not_matter(metric, golden):
    order = np.random.default_rng(0).permutation(len(golden.candidates))
    here = metric.statistics(golden.candidates, golden.references)
    there = metric.statistics(
        [golden.candidates[index] for index in order], [golden.references[index] for index in order]
    )
    assert metric.per_image(there) == pytest.approx(metric.per_image(here)[order], abs=1e-12)
    assert metric.score(there) == pytest.approx(metric.score(here), abs=1e-12)


def test_the_order_of_references_does_not_matter(metric, golden):
    there = metric.statistics(golden.candidates, [several[::-1] for several in golden.references])
    here = metric.statistics(golden.candidates, golden.references)
    assert metric.per_image(there) == pytest.approx(metric.per_image(here), abs=1e-12)


def test_weights_of_one_are_no_weights(metric, golden):
    stats = metric.statistics(golden.candidates, golden.references)
    assert metric.score(stats, np.ones(len(golden.candidates))) == metric.score(stats)


def test_whole_weights_equal_repeating_rows(metric, golden):
    stats = metric.statistics(golden.candidates, golden.references)
    drawn = np.random.default_rng(1).integers(len(golden.candidates), size=len(golden.candidates))
    counts = np.bincount(drawn, minlength=len(golden.candidates))
    assert metric.score(stats, counts) == pytest.approx(metric.score(rows(stats, drawn)), abs=1e-12)


@pytest.mark.parametrize("name", ["bleu", "rouge", "rouge_n", "exact_match"])
def test_whole_weights_equal_repeating_images(name, golden):
    """Of CIDEr only rows of statistics can be repeated: repeated images would count in its frequencies."""
    metric = TEXT[name]
    drawn = np.random.default_rng(2).integers(len(golden.candidates), size=60)
    repeated = metric.statistics(
        [golden.candidates[index] for index in drawn], [golden.references[index] for index in drawn]
    )
    counts = np.bincount(drawn, minlength=len(golden.candidates))
    whole = metric.statistics(golden.candidates, golden.references)
    assert metric.score(whole, counts) == pytest.approx(metric.score(repeated), abs=1e-12)


@pytest.mark.parametrize("weights", [[1.0], [np.nan, 1], [-1, 2], [0, 0], [np.inf, 1]], ids=str)
def test_weights_that_mean_nothing_are_refused(metric, weights):
    stats = metric.statistics([["a"], ["b"]], [[["a"]], [["b"]]])
    with pytest.raises(MetricInputError, match="weights"):
        metric.score(stats, np.array(weights))


@pytest.mark.parametrize(
    ("candidates", "references", "says"),
    [
        ([], [], "No image"),
        ([["a"]], [], "1 candidates but references of 0"),
        ([["a"], ["b"]], [[["a"]], []], "Image 1 has no reference"),
        (["a dog"], [[["a"]]], "tokenise"),
        ([["a"]], [["a dog"]], "tokenise"),
    ],
)
def test_input_it_is_not_defined_for_is_refused_by_name(metric, candidates, references, says):
    with pytest.raises(MetricInputError, match=says):
        metric.statistics(candidates, references)
