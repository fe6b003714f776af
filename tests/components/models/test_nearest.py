"""Block by block the largest are those of the whole matrix, whatever order they come in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.models.nearest import Nearest, largest


def _found(values_BN: torch.Tensor, k: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    nearest = Nearest(k)
    for values_BC in values_BN.split(block, dim=1):
        nearest.see(values_BC)
    return nearest.found()


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**16), rows=st.integers(1, 4), columns=st.integers(1, 60),
    k=st.integers(1, 12), block=st.integers(1, 20), levels=st.integers(1, 30),
)  # fmt: skip
def test_blocks_change_nothing_and_of_equal_values_the_first_are_kept(
    seed: int, rows: int, columns: int, k: int, block: int, levels: int
) -> None:
    made = torch.Generator().manual_seed(seed)
    values_BN = torch.randint(-3, levels, (rows, columns), generator=made).float()
    values, index = _found(values_BN, k, block)
    # By hand: larger values first, then the first columns.
    order = values_BN.sort(dim=1, descending=True, stable=True).indices[:, : min(k, columns)]
    wanted = order.sort(dim=1).values
    assert torch.equal(index, wanted)
    assert torch.equal(values, values_BN.gather(1, wanted))


@pytest.mark.parametrize("rising", [True, False])
def test_columns_that_come_in_order_are_chosen_like_any(rising: bool) -> None:
    values_BN = torch.arange(500.0).expand(3, -1).contiguous()
    values_BN = values_BN if rising else values_BN.flip(1)
    assert torch.equal(_found(values_BN, 7, 32)[1], largest(values_BN, 7)[1])


def test_rows_that_differ_in_what_waits_keep_their_own() -> None:
    """One row is beaten by every column and another by none."""
    values_BN = torch.stack([torch.arange(90.0), torch.arange(90.0).flip(0), torch.zeros(90)])
    values, index = _found(values_BN, 4, 10)
    assert index.tolist() == [[86, 87, 88, 89], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert values[2].tolist() == [0.0] * 4


@pytest.mark.parametrize("column", [0, 25])
def test_a_value_that_is_not_a_number_is_refused_by_name(column: int) -> None:
    values_BN = torch.rand(2, 40)
    values_BN[1, column] = torch.nan
    with pytest.raises(ValueError, match="not numbers"):
        _found(values_BN, 3, 10)
