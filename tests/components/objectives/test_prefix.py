"""PrefixLM's cut: where it may fall, how often, and what each side holds."""

from __future__ import annotations

import torch

from components.objectives.prefix import cut, draw_given

EOS = 9


def test_the_cut_falls_uniformly_between_the_first_word_and_the_last_token() -> None:
    torch.manual_seed(0)
    lengths = torch.full((10_000,), 8)
    given = draw_given(torch.ones_like(lengths), lengths)
    assert given.min().item() == 1
    assert given.max().item() == 7
    counts = torch.bincount(given, minlength=8)[1:].double()
    expected = 10_000 / 7
    chi_squared = ((counts - expected) ** 2 / expected).sum().item()
    # The 0.999 quantile of chi squared with 6 degrees of freedom.
    assert chi_squared < 22.46


def test_rows_of_one_batch_are_cut_at_different_places() -> None:
    torch.manual_seed(0)
    lengths = torch.full((16,), 12)
    assert len(draw_given(torch.ones_like(lengths), lengths).unique()) > 3


def test_each_row_is_cut_within_its_own_length() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([2, 3, 12]).repeat(500)
    given = draw_given(torch.ones_like(lengths), lengths)
    for length in (2, 3, 12):
        drawn = given[lengths == length]
        assert set(drawn.tolist()) == set(range(1, length))


def test_a_prompt_is_given_whole_and_no_more() -> None:
    lengths, prompts = torch.tensor([9, 9, 9]), torch.tensor([5, 8, 9])
    assert torch.equal(draw_given(prompts, lengths), prompts)


def test_both_sides_together_are_the_text_and_places_go_on() -> None:
    tokens = torch.tensor([[1, 5, 6, 7, EOS, 0], [1, 8, EOS, 0, 0, 0], [1, 2, 3, 4, 5, EOS]])
    halves = cut(tokens, torch.tensor([5, 3, 6]), torch.tensor([3, 1, 5]), bos_id=1)
    assert halves.prefix_BP.tolist() == [[1, 5, 6, 0, 0], [1, 0, 0, 0, 0], [1, 2, 3, 4, 5]]
    assert halves.prefix_real_BP.sum(dim=1).tolist() == [3, 1, 5]
    suffixes = [
        labels[learnt].tolist()
        for labels, learnt in zip(halves.labels_BS, halves.learnt_BS, strict=True)
    ]
    assert suffixes == [[7, EOS], [8, EOS], [EOS]]
    assert halves.inputs_BS[halves.learnt_BS].tolist() == [1, 7, 1, 8, 1]
    assert halves.positions_BS[halves.learnt_BS].tolist() == [2, 3, 0, 1, 4]


def test_a_text_that_is_given_whole_has_nothing_to_learn() -> None:
    tokens = torch.tensor([[1, 5, 6, EOS]])
    halves = cut(tokens, torch.tensor([4]), torch.tensor([4]), bos_id=1)
    assert halves.prefix_BP.tolist() == tokens.tolist()
    assert not halves.learnt_BS.any()
