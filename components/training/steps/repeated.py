"""A model's repeated blocks: computed again in the backward pass to save memory, and compiled one by one.

Both change how a block is called and nothing it is made of: names in checkpoints stay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from components.training.plan import TrainingPlan


def prepared(module: nn.Module, plan: TrainingPlan) -> nn.Module:
    """The module, called as the plan asks. Before anything is wrapped around it for several workers."""
    blocks = repeated_blocks(module)
    if plan.activation_checkpointing:
        for block in blocks:
            # Batch norms would count their rows a second time.
            if not any(isinstance(each, _NormBase) for each in block.modules()):
                block.forward = _computed_again(block.forward)
    if plan.compile:
        # Blocks of one class share one compilation, and what depends on a batch's lengths stays outside of them.
        for block in blocks or [module]:
            block.compile()
    return module


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The members of each outermost ModuleList that holds two or more modules of one class, themselves made of modules."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for each in module.modules():
        if each not in inside and isinstance(each, nn.ModuleList) and _are_blocks(each):
            found += list(each)
            inside |= set(each.modules())
    return found


def _are_blocks(members: nn.ModuleList) -> bool:
    kinds = {type(each) for each in members}
    return len(members) > 1 and len(kinds) == 1 and all(list(each.children()) for each in members)


def _computed_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Activation checkpointing (Chen et al. 2016, arXiv:1604.06174) where a gradient will be asked for.

    Blocks of transformers append to their cache both times. The second time causal attention reads the first keys alone,
    so gradients are equal; the test over all families holds this.
    """

    @functools.wraps(forward)
    def run(*args: Any, **settings: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **settings)
        return checkpoint(forward, *args, use_reentrant=False, **settings)

    return run
