"""Texts share rows of a cache wherever they can, and none of them reads what another wrote."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.models.blocks import KeysValues
from components.models.text_cache import WIDEST, TextCache


def _cache(rows: int, columns: int, sees_RQS: Tensor | None = None) -> TextCache:
    """Keys that say their row and column: 100 row + column."""
    key_RS = 100.0 * torch.arange(rows)[:, None] + torch.arange(columns)
    kept = KeysValues(key_RS[:, None, :, None].clone(), -key_RS[:, None, :, None])
    texts = 1 if sees_RQS is None else sees_RQS.shape[1]
    return TextCache((kept,), torch.full((rows, texts), columns), sees_RQS)


def _read(cache: TextCache) -> list[list[int]]:
    """What each text has read, by what its keys say."""
    rows, texts = cache.next_RQ.shape
    sees = cache.sees_RQS
    if sees is None:
        sees = torch.ones(rows, texts, cache.length, dtype=torch.bool)
    keys_RS = cache.layers[0].keys[:, 0, :, 0]
    assert torch.equal(cache.layers[0].values[:, 0, :, 0], -keys_RS)
    return [
        [int(key) for key in keys_RS[row][sees[row, text]]]
        for row in range(rows)
        for text in range(texts)
    ]


def _grown(cache: TextCache, first: int) -> TextCache:
    """With a column for every text's next token, whose key is a number of its own, from `first` on."""
    rows, texts = cache.next_RQ.shape
    new = torch.arange(first, first + rows * texts, dtype=torch.float32).view(rows, 1, texts, 1)
    (kept,) = cache.layers
    longer = KeysValues(torch.cat([kept.keys, new], 2), torch.cat([kept.values, -new], 2))
    return cache.grown([longer])


def test_texts_of_one_image_share_its_row_and_nothing_is_copied() -> None:
    cache = _cache(2, 3)
    shared = cache.reorder(torch.tensor([0, 0, 1, 1]))
    assert shared.next_RQ.tolist() == [[3, 3], [3, 3]]
    assert shared.layers[0].keys.data_ptr() == cache.layers[0].keys.data_ptr()
    assert _read(shared) == [[0, 1, 2]] * 2 + [[100, 101, 102]] * 2
    turned = _grown(shared, 7).reorder(torch.tensor([1, 1, 3, 2]))
    assert turned.length == 5
    assert _read(turned) == [[0, 1, 2, 8]] * 2 + [[100, 101, 102, 10], [100, 101, 102, 9]]


def test_a_next_token_is_read_by_its_own_text_alone() -> None:
    shared = _cache(1, 2).reorder(torch.tensor([0, 0, 0]))
    sees = shared.sees_next
    assert sees is not None
    assert sees[0, :, :2].all()
    assert torch.equal(sees[0, :, 2:], torch.eye(3, dtype=torch.bool))
    assert _cache(1, 2).sees_next is None


@pytest.mark.parametrize("index", [[0, 0, 1], [1, 0], [1], [0, 1, 0], [1, 1, 0, 0], []])
def test_texts_in_any_order_and_number_have_read_what_they_had(index: list[int]) -> None:
    moved, row_R = _cache(2, 2).moved(torch.tensor(index, dtype=torch.long))
    assert _read(moved) == [[100 * text, 100 * text + 1] for text in index]
    beside = torch.tensor([0, 1]) if row_R is None else row_R
    assert len(beside) == len(moved.next_RQ)
    assert [int(row) for row in beside for _ in range(moved.next_RQ.shape[1])] == index


def test_columns_that_nobody_reads_go_once_they_are_more_than_the_others() -> None:
    cache, lengths = _cache(2, 2), []
    for step in range(6):
        tried = _grown(cache.reorder(torch.tensor([0, 1]).repeat_interleave(4)), 1000 * (step + 1))
        cache = tried.reorder(torch.tensor([3, 4]))
        lengths.append(cache.length)
        wanted = [1000 * (before + 1) for before in range(step + 1)]
        assert _read(cache) == [
            [0, 1, *(first + 3 for first in wanted)],
            [100, 101, *(first + 4 for first in wanted)],
        ]
    assert all(length <= 2 * (3 + step) for step, length in enumerate(lengths))


def test_many_texts_that_begin_otherwise_do_not_share_one_row() -> None:
    """Two candidates' worth of images in one row would each read past the words of all the others."""
    begun = _grown(_cache(1, 2).reorder(torch.tensor([0, 0])), 500)
    few = begun.reorder(torch.tensor([0, 1]).repeat_interleave(WIDEST // 2))
    many = begun.reorder(torch.tensor([0, 1]).repeat_interleave(WIDEST // 2 + 1))
    assert few.next_RQ.shape == (1, WIDEST)
    assert many.next_RQ.shape == (2, WIDEST // 2 + 1)
    assert _read(many)[0] == [0, 1, 500] and _read(many)[-1] == [0, 1, 501]


def test_apart_each_text_has_a_row_and_what_it_read() -> None:
    begun = _grown(_cache(2, 2).reorder(torch.tensor([0, 0, 1, 1])), 500)
    apart = begun.apart()
    assert apart.next_RQ.tolist() == [[3]] * 4
    assert _read(apart) == _read(begun)
    alone = _cache(2, 2)
    assert alone.apart() is alone
