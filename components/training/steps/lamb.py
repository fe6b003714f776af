"""LAMB: Adam whose step in each parameter is as long as the parameter itself (You et al. 2020, arXiv:1904.00962)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from components.training.steps.parallel import is_slice, slice_of


class Lamb(Optimizer):
    """Algorithm 2 of the paper with phi(x) = x, both moments freed of their bias.

    Groups without decay (gains, biases, scales) keep Adam's own length, as in the authors' BERT: an adapted step would
    hardly move what starts at zero. All parameters of a group are stepped by the same few kernels.

    Where each worker holds a slice of a parameter (`parallel.py`) it steps that, by the length of the whole.
    """

    def __init__(
        self,
        groups: Iterable[Mapping[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(
            [dict(group) for group in groups],
            {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0},
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient; `closure` is never called."""
        for group in self.param_groups:
            moved = [value for value in group["params"] if value.grad is not None]
            if moved:
                self._step(moved, group)

    def _step(self, params: list[Tensor], group: Mapping[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        states = [self._state(value) for value in params]
        own = [slice_of(value) for value in params]
        grads = [slice_of(value.grad) for value in params if value.grad is not None]
        first = [slice_of(state["exp_avg"]) for state in states]
        second = [slice_of(state["exp_avg_sq"]) for state in states]
        torch._foreach_add_([state["step"] for state in states], 1)
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        # Parameters that join later (unfrozen ones) have had fewer steps.
        update = list(torch._foreach_div(first, [1 - beta1 ** state["step"] for state in states]))
        floor = torch._foreach_div(second, [1 - beta2 ** state["step"] for state in states])
        torch._foreach_sqrt_(floor)
        torch._foreach_add_(floor, group["eps"])
        torch._foreach_div_(update, floor)
        if group["weight_decay"]:
            torch._foreach_add_(update, own, alpha=group["weight_decay"])
            torch._foreach_mul_(update, _trust(own, update, [is_slice(value) for value in params]))
        torch._foreach_add_(own, update, alpha=-group["lr"])

    def _state(self, value: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[value]
        if not state:
            # On the parameter's device: a step asks it nothing.
            state["step"] = torch.zeros((), dtype=torch.float32, device=value.device)
            state["exp_avg"] = torch.zeros_like(value)
            state["exp_avg_sq"] = torch.zeros_like(value)
        return state


def _trust(params: list[Tensor], update: list[Tensor], cut: list[bool]) -> list[Tensor]:
    """Length of each parameter over that of its step; 1 where either is 0. cut: which of them are slices."""
    lengths = torch.stack([*torch._foreach_norm(params), *torch._foreach_norm(update)])
    if any(cut):
        whole = lengths.square()
        dist.all_reduce(whole)
        lengths = torch.where(torch.tensor(2 * cut, device=whole.device), whole.sqrt(), lengths)
    own, its = lengths.chunk(2)
    known = (own > 0) & (its > 0)
    return list(torch.where(known, own / its.where(known, 1), 1).unbind())
