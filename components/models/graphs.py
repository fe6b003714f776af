"""What a model does otherwise while a graph is made of it (`components/export/`): a graph has shapes, and no values."""

from __future__ import annotations

import torch
from torch import Tensor


def has_values() -> bool:
    """Whether tensors hold numbers that code may look at, so that a text too long or without its end is refused."""
    return not torch.compiler.is_exporting()


def to_longest(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Tokens without the columns past the longest text, which say nothing; in a graph all columns."""
    return tokens_BT[:, : int(lengths_B.max())] if has_values() else tokens_BT
