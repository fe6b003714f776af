"""Multinomial logistic regression with an L2 penalty: a linear probe, taken to its one optimum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on standardised features."""

    weight_DC: Tensor
    bias_C: Tensor
    mean_D: Tensor
    scale_D: Tensor

    def scores(self, features_ND: Tensor) -> Tensor:
        """(N, C) log-odds."""
        standard_ND = (features_ND - self.mean_D) / self.scale_D
        return standard_ND @ self.weight_DC + self.bias_C


def fit_probe(
    features_ND: Tensor,
    labels_N: Tensor,
    classes: int,
    *,
    c: float,
    start: LinearProbe | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
) -> LinearProbe:
    """Minimise c * sum of cross-entropies + |W|^2 / 2 by full-batch L-BFGS, in which there is no chance.

    Features are standardised first; the bias is not penalised. c: above 0; a larger one fits more closely.
    start: another c's probe of the same images; the problem is convex, so this changes only how long it takes.
    max_iterations, tolerance: it ends after so many, or where no entry of the gradient of the mean is larger.
    """
    mean_D = features_ND.mean(dim=0)
    scale_D = features_ND.std(dim=0, correction=0).clamp(min=1e-6)
    x_ND = (features_ND - mean_D) / scale_D
    weight_DC = start.weight_DC.clone() if start else x_ND.new_zeros(x_ND.shape[1], classes)
    bias_C = start.bias_C.clone() if start else x_ND.new_zeros(classes)
    solver = torch.optim.LBFGS(
        [weight_DC.requires_grad_(), bias_C.requires_grad_()],
        max_iter=max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=1e-4 * tolerance,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        # Divided by c and by N, so that steps have one size for every c and every number of images.
        penalty = weight_DC.square().sum() / (2 * c * len(x_ND))
        total = cross_entropy(x_ND @ weight_DC + bias_C, labels_N) + penalty
        total.backward()
        return total

    solver.step(objective)
    return LinearProbe(weight_DC.detach(), bias_C.detach(), mean_D, scale_D)
