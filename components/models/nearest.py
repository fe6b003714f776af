"""The largest values of each row of a matrix that is too wide to be held: it is seen block by block of its columns.

B rows, C columns of a block, K values kept of a row, W places for values of a row that wait to be chosen from.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Nearest:
    """The k largest of each row of all blocks, exactly; of equal ones the first.

    Blocks past the first k columns are only compared with the k-th largest so far, and what beats it waits until some row
    has k of them: of N columns in any order that is some k·ln(N/k) a row, and a dozen selections for a million.
    """

    def __init__(self, k: int) -> None:
        self._k, self._seen, self._width = k, 0, 0

    def see(self, values_BC: Tensor) -> None:
        """Take the next columns, no more at once than the first time. Raises ValueError for a value that is not a number."""
        rows, width = values_BC.shape
        start, self._seen = self._seen, self._seen + width
        if not start:
            self._width = width
            self._values_BK = values_BC[:, :0]
            self._columns_BK = torch.empty(rows, 0, dtype=torch.int64, device=values_BC.device)
        assert width <= self._width, "what waits has room for a block of the first one's width"
        if start < self._k:
            columns_C = torch.arange(start, self._seen, device=values_BC.device)
            self._choose(values_BC, columns_C.expand(rows, -1))
            if self._seen >= self._k:
                self._make_room()
            return
        # Not what is larger: a value that is no number would be passed over.
        row, column = _places((values_BC <= self._least_B1).logical_not_())
        count_B = row.bincount(minlength=rows)
        # _places goes row by row, so that what waits stays in order of columns.
        before_B = count_B.cumsum(dim=0) - count_B - self._waits_B
        place = torch.arange(len(row), device=row.device) - before_B[row]
        self._values_BW[row, place] = values_BC[row, column]
        self._columns_BW[row, place] = column + start
        self._waits_B += count_B
        if self._waits_B.max() >= self._k:
            self._merge()

    def found(self) -> tuple[Tensor, Tensor]:
        """Values and columns of what was seen, each (B, K), in order of columns; K is less where fewer were seen."""
        if self._seen > self._k:
            self._merge()
        return self._values_BK, self._columns_BK

    def _make_room(self) -> None:
        # Once, for all: pieces kept here and there between blocks would scatter the memory that blocks take.
        shape = (len(self._values_BK), self._k + self._width)
        self._values_BW = self._values_BK.new_full(shape, -torch.inf)
        self._columns_BW = self._columns_BK.new_zeros(shape)
        self._waits_B = self._columns_BK.new_zeros(shape[0])

    def _merge(self) -> None:
        most = int(self._waits_B.max())
        if most:
            self._choose(self._values_BW[:, :most], self._columns_BW[:, :most])
            self._values_BW.fill_(-torch.inf)
            self._waits_B.zero_()

    def _choose(self, values_BW: Tensor, columns_BW: Tensor) -> None:
        values_BC = torch.cat([self._values_BK, values_BW], dim=1)
        columns_BC = torch.cat([self._columns_BK, columns_BW], dim=1)
        self._values_BK, kept_BK = largest(values_BC, min(self._k, values_BC.shape[1]))
        self._columns_BK = columns_BC.gather(1, kept_BK)
        self._least_B1 = self._values_BK.amin(dim=1, keepdim=True)


def _places(mask_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns where it is true, as nonzero; of few true ones in a quarter of its time."""
    width = mask_BC.shape[1]
    if width % 8:
        return mask_BC.nonzero(as_tuple=True)
    # Eight bytes are one number: most are 0 and passed at once.
    bytes_E8 = mask_BC.reshape(-1, 8)
    number_M = bytes_E8.view(torch.int64).nonzero()[:, 0]
    at_P, byte_P = bytes_E8[number_M].nonzero(as_tuple=True)
    place_P = 8 * number_M[at_P] + byte_P
    return place_P // width, place_P % width


def largest(values_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their columns, in order of columns; of equal ones the first.

    topk breaks ties as it likes, and captions repeat: which anchors are kept would depend on the blocks.
    Raises ValueError where one of them is not a number.
    """
    least_B1 = values_BC.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    if least_B1.isnan().any():
        raise ValueError(
            "Some similarities are not numbers (NaN): what was compared came broken out of its encoder."
        )
    above, equal = values_BC > least_B1, values_BC == least_B1
    room_B1 = k - above.sum(dim=1, keepdim=True)
    kept = above | (equal & (equal.cumsum(dim=1) <= room_B1))
    columns_BK = kept.nonzero()[:, 1].view(-1, k)
    return values_BC.gather(1, columns_BK), columns_BK
