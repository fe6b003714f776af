"""The probe's optimum is the one scikit-learn finds, whatever it starts from."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from components.objectives.linear_probe import fit_probe

CLASSES = 4


@pytest.fixture(scope="module")
def examples() -> tuple[torch.Tensor, torch.Tensor]:
    """60 points of 5 dimensions in four blurred clusters, of very different scales."""
    made = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % CLASSES
    centres = torch.randn(CLASSES, 5, generator=made, dtype=torch.float64)
    noise = torch.randn(60, 5, generator=made, dtype=torch.float64)
    return (centres[labels] + noise) * torch.tensor([1e-3, 1.0, 10.0, 100.0, 1e4]) + 7.0, labels


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_its_probabilities_are_those_of_scikit_learn(examples, c: float) -> None:
    features, labels = examples
    standard = (features - features.mean(0)) / features.std(0, correction=0)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(standard, labels)
    wanted = torch.from_numpy(theirs.predict_proba(standard))
    probe = fit_probe(features, labels, CLASSES, c=c, max_iterations=2000, tolerance=1e-10)
    found = probe.scores(features).softmax(dim=1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        probe.weight_DC.T, torch.from_numpy(theirs.coef_), atol=1e-3, rtol=1e-3
    )


def test_at_the_optimum_the_gradient_vanishes(examples) -> None:
    features, labels = examples
    probe = fit_probe(features, labels, CLASSES, c=0.5, max_iterations=2000, tolerance=1e-9)
    weight, bias = (part.clone().requires_grad_() for part in (probe.weight_DC, probe.bias_C))
    standard = (features - probe.mean_D) / probe.scale_D
    errors = cross_entropy(standard @ weight + bias, labels, reduction="sum")
    (0.5 * errors + weight.square().sum() / 2).backward()
    assert weight.grad.abs().max() < 1e-5
    assert bias.grad.abs().max() < 1e-5


def test_the_start_changes_nothing_but_the_time(examples) -> None:
    features, labels = examples
    settings = {"max_iterations": 2000, "tolerance": 1e-10}
    far = fit_probe(features, labels, CLASSES, c=100.0, **settings)
    warm = fit_probe(features, labels, CLASSES, c=0.1, start=far, **settings)
    cold = fit_probe(features, labels, CLASSES, c=0.1, **settings)
    assert not torch.allclose(far.weight_DC, cold.weight_DC, atol=1e-2)
    torch.testing.assert_close(warm.weight_DC, cold.weight_DC, atol=1e-6, rtol=1e-5)


def test_it_is_the_same_every_time(examples) -> None:
    features, labels = examples
    one, other = (fit_probe(features.float(), labels, CLASSES, c=1.0) for _ in range(2))
    assert torch.equal(one.weight_DC, other.weight_DC)
    assert one.weight_DC.dtype == torch.float32


def test_a_feature_that_never_changes_adds_nothing(examples) -> None:
    features, labels = examples
    with_constant = torch.cat([features, torch.full((60, 1), 3.0, dtype=torch.float64)], dim=1)
    probe = fit_probe(with_constant, labels, CLASSES, c=1.0, max_iterations=500)
    assert torch.isfinite(probe.scores(with_constant)).all()
    torch.testing.assert_close(probe.weight_DC[-1], torch.zeros(CLASSES, dtype=torch.float64))


def test_a_stronger_penalty_makes_smaller_weights(examples) -> None:
    features, labels = examples
    lengths = [
        fit_probe(features, labels, CLASSES, c=c).weight_DC.norm().item() for c in (0.01, 1.0, 100)
    ]
    assert lengths == sorted(lengths)
    assert lengths[2] > 5 * lengths[0]
