"""Documents against examples written by hand."""

from __future__ import annotations

import torch

from components.models.interleave import NO_LABEL, Marks, interleave

MARKS = Marks(bos=1, eos=9, pad=0, image=10, chunk=11)
NO = NO_LABEL
TOKENS = torch.tensor([[1, 5, 6, 9, 0], [1, 7, 9, 0, 0], [1, 5, 6, 8, 9]])
LENGTHS = torch.tensor([4, 3, 5])


def _documents(ahead: bool, prompts: tuple[int, ...] = (1, 1, 1), images: int = 2):
    return interleave(
        TOKENS, LENGTHS, torch.tensor(prompts), MARKS, images=images, ahead=[ahead] * 3
    )


def test_an_image_stands_before_its_text_and_no_label_stands_on_images_or_padding() -> None:
    made = _documents(ahead=False)
    assert made.tokens_MT.tolist() == [
        [1, 10, 5, 6, 11, 10, 7, 11, 9],
        [1, 10, 5, 6, 8, 11, 9, 0, 0],
    ]
    assert made.labels_MT.tolist() == [
        [NO, NO, 5, 6, 11, NO, 7, 11, 9],
        [NO, NO, 5, 6, 8, 11, 9, NO, NO],
    ]
    assert made.times_MT.tolist() == [
        [0, 1, 1, 1, 1, 2, 2, 2, 2],
        [0, 1, 1, 1, 1, 1, 1, 0, 0],
    ]
    assert made.rows_MS.tolist() == [[0, 1], [2, -1]]


def test_looking_ahead_each_text_sees_the_next_image_and_nothing_is_learnt_past_the_last() -> None:
    made = _documents(ahead=True)
    assert made.tokens_MT.tolist() == [
        [1, 5, 6, 11, 10, 7, 11, 10, 9],
        [1, 5, 6, 8, 11, 10, 9, 0, 0],
    ]
    assert made.labels_MT.tolist() == [
        [NO, 5, 6, 11, NO, 7, 11, NO, NO],
        [NO, 5, 6, 8, 11, NO, NO, NO, NO],
    ]
    assert made.times_MT.tolist() == [
        [1, 1, 1, 1, 2, 2, 2, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0],
    ]


def test_every_label_is_predicted_by_a_place_that_sees_its_own_image() -> None:
    for ahead in (False, True):
        made = _documents(ahead, images=3)
        owner = made.times_MT[:, 1:]
        sees = made.times_MT[:, :-1]
        learnt = (made.labels_MT[:, 1:] != NO_LABEL) & (made.tokens_MT[:, 1:] != MARKS.eos)
        assert learnt.any()
        assert torch.equal(sees[learnt], owner[learnt])


def test_what_is_given_is_not_learnt_and_neither_is_a_row_that_is_all_prompt() -> None:
    labels = _documents(ahead=False, prompts=(2, 3, 1), images=1).labels_MT
    assert labels.tolist() == [
        [NO, NO, NO, 6, 11, 9, NO],
        [NO, NO, NO, NO, 9, NO, NO],
        [NO, NO, 5, 6, 8, 11, 9],
    ]


def test_one_image_a_document_gives_pairs() -> None:
    made = _documents(ahead=False, images=1)
    assert made.tokens_MT[1].tolist() == [1, 10, 7, 11, 9, 0, 0]
    assert made.rows_MS.tolist() == [[0], [1], [2]]
