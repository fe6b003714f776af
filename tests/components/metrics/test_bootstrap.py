"""Bootstrap intervals: against the theory of a mean, and the draws themselves."""

from __future__ import annotations

import numpy as np
import pytest

from components.metrics.bootstrap import draws, intervals
from components.metrics.metric import MetricInputError


def test_the_interval_of_a_mean_is_that_of_the_theory():
    values = np.random.default_rng(3).normal(5, 2, size=2000)
    found = intervals(lambda w: {"mean": float(w @ values / w.sum())}, 2000, resamples=2000)
    half = 1.96 * values.std() / len(values) ** 0.5
    low, high = found["mean"]
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_draws_count_images_and_follow_from_the_seed():
    first, second, other = (list(draws(50, 20, seed)) for seed in (1, 1, 2))
    assert all(weights.sum() == 50 for weights in first)
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_images_that_are_all_alike_leave_no_doubt():
    assert intervals(lambda w: {"x": float(w.sum())}, 7, resamples=10)["x"] == (7.0, 7.0)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"resamples": 0}, {"level": 1.0}, {"level": 0}])
def test_what_gives_no_interval_is_refused(wrong):
    with pytest.raises(MetricInputError):
        intervals(lambda w: {"x": 0.0}, **{"images": 5, **wrong})
