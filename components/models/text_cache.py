"""A decoder's cache in which texts about one image share a row: what they read alike stands there once.

A search moves its texts at every word. Copying whole prefixes for that costs more than a word does, so a text is a line of
a mask here: which columns of its row it has read. The next words of a row's texts become columns of that row, each read
by its own text alone (attention over a token tree, as in SpecInfer, arXiv:2305.09781).

Letters beside those of `records.py`: R rows, Q texts of a row, S columns; the texts N = R Q stand row after row.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from components.models.blocks import KeysValues

WIDEST = 64
"""Texts of a row, at most, that begin otherwise: each reads past all words of the others, which grows with their square."""


@dataclass(frozen=True)
class TextCache:
    """What was read of the texts being written; no call changes it."""

    layers: tuple[KeysValues, ...]
    """Of each layer, one row for all texts of a row."""
    next_RQ: Tensor
    """int64: the position of each text's next token."""
    sees_RQS: Tensor | None = None
    """bool: the columns that each text has read. None: each row is one text, which read them all."""

    @property
    def length(self) -> int:
        """Columns, those of padding counted."""
        return self.layers[0].keys.shape[2]

    def by_row(self, x_N: Tensor) -> Tensor:
        """What each text has, (N, …), as (R, Q, …)."""
        return x_N.unflatten(0, (-1, self.next_RQ.shape[1]))

    @cached_property
    def sees_next(self) -> Tensor | None:
        """(R, Q, S + Q) bool: what each text has read once it has read its next token; None as `sees_RQS`."""
        if self.sees_RQS is None:
            return None
        rows, texts, _ = self.sees_RQS.shape
        own = torch.eye(texts, dtype=torch.bool, device=self.sees_RQS.device)
        return torch.cat([self.sees_RQS, own.expand(rows, -1, -1)], dim=2)

    def mask(self) -> Tensor | None:
        """(R, 1, Q, S + Q) bool for the attention of every text's next token; None: they may read all."""
        sees_RQS = self.sees_next
        return None if sees_RQS is None else sees_RQS[:, None]

    def grown(self, layers: Sequence[KeysValues]) -> TextCache:
        """With the keys and values of every text's next token behind those there are."""
        return TextCache(tuple(layers), self.next_RQ + 1, self.sees_next)

    def reorder(self, index_N: Tensor) -> TextCache:
        """Text i becomes what text index_N[i] was; texts that nobody names are dropped."""
        return self.moved(index_N)[0]

    def moved(self, index_N: Tensor) -> tuple[TextCache, Tensor | None]:
        """As `reorder`, and which row each row was, (R,); None where all stay as they were.

        Texts of one row that stand side by side, as many of each row, share a row again: then nothing is copied, or
        whole rows are; columns that nobody has read are left out once they are more than the others.
        """
        texts = self.next_RQ.shape[1]
        row_N, text_N = index_N // texts, index_N % texts
        rows, sources = row_N.tolist(), index_N.tolist()
        each = _side_by_side(rows) if _side_by_side(rows) <= WIDEST else _side_by_side(sources)
        stays = rows[::each] == list(range(len(self.next_RQ)))
        row_R = None if stays else row_N[::each]
        next_RQ = self.next_RQ[row_N, text_N].view(-1, each)
        sees_RQS = self.sees_RQS
        if sees_RQS is not None:
            sees_RQS = sees_RQS[row_N, text_N].unflatten(0, next_RQ.shape)
        elif each > 1:
            sees_RQS = torch.ones(
                (*next_RQ.shape, self.length), dtype=torch.bool, device=index_N.device
            )
        return TextCache(self.layers, next_RQ, sees_RQS)._taken(row_R), row_R

    def apart(self) -> TextCache:
        """Each text in a row of its own, for who reads rows of one text."""
        if self.sees_RQS is None:
            return self
        rows, texts, _ = self.sees_RQS.shape
        row_N = torch.arange(rows, device=self.next_RQ.device).repeat_interleave(texts)
        alone = TextCache(
            self.layers, self.next_RQ.view(-1, 1), self.sees_RQS.flatten(0, 1)[:, None]
        )
        return alone._taken(row_N)

    def _taken(self, row_R: Tensor | None) -> TextCache:
        """With the layers' rows as the texts have them, and without most columns that nobody has read."""
        if self.sees_RQS is None:
            return TextCache(taken(self.layers, row_R), self.next_RQ)
        read_RS = self.sees_RQS.any(dim=1)
        most = int(read_RS.sum(dim=1).max()) if len(read_RS) else 0
        if self.length <= 2 * most:
            return TextCache(taken(self.layers, row_R), self.next_RQ, self.sees_RQS)
        column_RS = read_RS.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        sees_RQS = self.sees_RQS.gather(
            2, column_RS[:, None].expand(-1, self.sees_RQS.shape[1], -1)
        )
        if row_R is None:
            row_R = torch.arange(len(read_RS), device=read_RS.device)
        layers = tuple(layer.columns(row_R, column_RS) for layer in self.layers)
        return TextCache(layers, self.next_RQ, sees_RQS)


def taken(layers: Sequence[KeysValues], row_R: Tensor | None) -> tuple[KeysValues, ...]:
    """What stands beside a cache's rows, moved as these were; None: as it is."""
    return tuple(layers) if row_R is None else tuple(layer.select(row_R) for layer in layers)


def _side_by_side(owners: Sequence[Hashable]) -> int:
    """How many of one owner stand side by side, where it is as many each time; else 1.

    >>> _side_by_side([0, 0, 2, 2]), _side_by_side([0, 0, 2])
    (2, 1)
    """
    runs = {len(list(run)) for _, run in groupby(owners)}
    return runs.pop() if len(runs) == 1 else 1
