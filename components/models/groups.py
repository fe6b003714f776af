"""Which parameters decay: matrices do; gains, biases and scalars do not, unless a family's paper says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def by_shape(model: nn.Module) -> Sequence[Mapping[str, Any]]:
    """Two groups of all trainable parameters: `matrices`, of two dimensions and more, decay; the `rest` does not."""
    trainable = [param for param in model.parameters() if param.requires_grad]
    matrices = [param for param in trainable if param.ndim >= 2]
    rest = [param for param in trainable if param.ndim < 2]
    return [
        {"name": "matrices", "params": matrices, "lr_scale": 1.0, "weight_decay": True},
        {"name": "rest", "params": rest, "lr_scale": 1.0, "weight_decay": False},
    ]
