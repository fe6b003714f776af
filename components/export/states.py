"""A decoder's state as a flat list of tensors, which is all that a graph can take and give, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def leaves(state: Any) -> list[Tensor]:
    """The tensors of a state, in a fixed order; the rest of it (numbers, None) stays in its structure."""
    found: list[Tensor] = []

    def keep(leaf: Tensor) -> Tensor:
        found.append(leaf)
        return leaf

    _walk(state, keep)
    return found


def with_leaves(state: Any, tensors: Sequence[Tensor]) -> Any:
    """The same structure holding other tensors, as many as `leaves` gave."""
    waiting: Iterator[Tensor] = iter(tensors)
    return _walk(state, lambda leaf: next(waiting))


def _walk(state: Any, visit: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(state, Tensor):
        return visit(state)
    if is_dataclass(state) and not isinstance(state, type):
        return replace(
            state, **{each.name: _walk(getattr(state, each.name), visit) for each in fields(state)}
        )
    if isinstance(state, tuple):
        walked = [_walk(each, visit) for each in state]
        return type(state)(*walked) if hasattr(state, "_fields") else tuple(walked)
    return state
