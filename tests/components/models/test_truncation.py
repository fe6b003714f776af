"""Cut captions are beginnings of whole ones, and equal ones are no negatives of each other."""

from __future__ import annotations

import torch

from components.models.truncation import cut_short

EOS = 9
TOKENS = torch.tensor([[1, 4, 5, 6, 7, EOS, 0], [1, 4, 5, EOS, 0, 0, 0], [1, EOS, 0, 0, 0, 0, 0]])
LENGTHS = torch.tensor([6, 4, 2])


def _draws(count: int):
    torch.manual_seed(0)
    return [cut_short(TOKENS, LENGTHS, torch.arange(3)) for _ in range(count)]


def test_a_cut_caption_is_a_beginning_of_it_with_an_end_and_at_least_one_word() -> None:
    for tokens, lengths, _ in _draws(200):
        for cut, length, whole, long in zip(tokens, lengths, TOKENS, LENGTHS, strict=True):
            kept = int(length) - 1
            assert min(2, int(long) - 1) <= kept < long
            assert torch.equal(cut[:kept], whole[:kept])
            assert cut[kept] == EOS
            assert not cut[kept + 1 :].any()


def test_more_than_half_stay_whole_and_every_length_comes() -> None:
    lengths = [lengths[0].item() for _, lengths, _ in _draws(2000)]
    # A cut may leave all words: of the half that is cut one in four.
    assert 0.58 < lengths.count(6) / 2000 < 0.67
    assert set(lengths) == {3, 4, 5, 6}


def test_rows_whose_texts_became_equal_share_a_group_and_whole_ones_keep_theirs() -> None:
    shared = 0
    for tokens, lengths, groups in _draws(300):
        for row in range(3):
            if lengths[row] == LENGTHS[row]:
                assert groups[row] == row
            else:
                assert groups[row] < 0
        if (lengths[:2] < LENGTHS[:2]).all():
            same = torch.equal(tokens[0], tokens[1])
            assert (groups[0] == groups[1]) == same
            shared += same
    assert shared
