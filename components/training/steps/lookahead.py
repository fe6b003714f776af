"""Lookahead: slow weights that every few steps go part of the way to the fast ones (Zhang et al. 2019, arXiv:1907.08610)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from components.training.steps.parallel import slice_of

SHARE = 0.5
"""How far the slow weights go, the paper's alpha; VirTex trains with the same."""


class Lookahead:
    """Every `every` steps: slow <- slow + SHARE x (fast - slow), and fast <- slow (algorithm 1 of the paper)."""

    def __init__(self, parameters: Sequence[nn.Parameter], every: int) -> None:
        self._every = every
        self.slow = {value: value.detach().clone() for value in parameters}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Look at the weights after `step` finished steps."""
        if step % self._every == 0:
            slow = [slice_of(value) for value in self.slow.values()]
            fast = [slice_of(value.detach()) for value in self.slow]
            torch._foreach_lerp_(slow, fast, SHARE)
            torch._foreach_copy_(fast, slow)
