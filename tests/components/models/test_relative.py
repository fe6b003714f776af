"""Products of sparse descriptions are those of the unfolded ones."""

from __future__ import annotations

import torch

from components.models import relative
from components.models.relative import Relative


def _rows(count: int, kept: int, anchors: int, seed: int) -> Relative:
    made = torch.Generator().manual_seed(seed)
    index = [torch.randperm(anchors, generator=made)[:kept].sort().values for _ in range(count)]
    return Relative(torch.randn(count, kept, generator=made), torch.stack(index), anchors)


def test_products_are_those_of_the_unfolded_rows_in_parts_too(monkeypatch) -> None:
    ours, theirs = _rows(7, 4, 20, 0), _rows(5, 3, 20, 1)
    wanted = ours.dense() @ theirs.dense().T
    torch.testing.assert_close(ours.products(theirs), wanted)
    monkeypatch.setattr(relative, "ROWS", 2)
    torch.testing.assert_close(ours.products(theirs), wanted)


def test_rows_without_a_common_anchor_have_the_product_zero() -> None:
    one = Relative(torch.ones(1, 2), torch.tensor([[0, 3]]), 6)
    other = Relative(torch.ones(1, 2), torch.tensor([[1, 5]]), 6)
    assert one.products(other).tolist() == [[0.0]]
