"""Recall at k by counting, against sorting, with ties and several right answers."""

from __future__ import annotations

import pytest
import torch

from components.metrics import retrieval
from components.metrics.metric import MetricInputError
from components.metrics.retrieval import ranks, recall


def made(images=40, texts_each=3, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image_ND = torch.nn.functional.normalize(torch.randn(images, width, generator=generator), dim=1)
    noise = torch.randn(images * texts_each, width, generator=generator) * 0.3
    text_MD = torch.nn.functional.normalize(
        image_ND.repeat_interleave(texts_each, 0) + noise, dim=1
    )
    return image_ND, text_MD, [(text // texts_each, text) for text in range(images * texts_each)]


def sorted_recall(image_ND, text_MD, matches, k):
    """The slow way: sort every row, look for a right answer among the first k."""
    right_NM = torch.zeros(len(image_ND), len(text_MD), dtype=torch.bool)
    for image, text in matches:
        right_NM[image, text] = True
    shares = []
    for score, right in ((image_ND @ text_MD.T, right_NM), (text_MD @ image_ND.T, right_NM.T)):
        nearest = score.argsort(dim=1, descending=True)[:, :k]
        shares.append(right.gather(1, nearest).any(dim=1).double().mean().item())
    return shares


def test_recall_equals_sorting_every_row():
    image_ND, text_MD, matches = made()
    matches += [(5, 0), (7, 0), (9, 100)]  # captions that several images share
    found = recall(image_ND, text_MD, matches, ks=(1, 5, 10))
    for k in (1, 5, 10):
        there, back = sorted_recall(image_ND, text_MD, matches, k)
        assert found[f"image_to_text_r{k}"] == there
        assert found[f"text_to_image_r{k}"] == back
    assert 0 < found["text_to_image_r1"] < found["text_to_image_r10"]


def test_by_hand():
    image_ND = torch.eye(2)
    text_MD = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2]])
    image_rank_N, text_rank_M = ranks(image_ND, text_MD, [(0, 0), (1, 1), (1, 2)])
    # Image 1 is nearest to its text 2; text 0 is further off. Texts 1 and 2 are nearer to image 0.
    assert image_rank_N.tolist() == [0, 0]
    assert text_rank_M.tolist() == [0, 1, 1]


def test_the_size_of_blocks_changes_nothing(monkeypatch):
    image_ND, text_MD, matches = made()
    whole = ranks(image_ND, text_MD, matches)
    monkeypatch.setattr(retrieval, "CELLS", 7 * len(text_MD))
    monkeypatch.setattr(retrieval, "PAIRS", 11)
    for before, after in zip(whole, ranks(image_ND, text_MD, matches), strict=True):
        assert torch.equal(before, after)


def test_embeddings_that_are_all_the_same_find_nothing():
    same = torch.nn.functional.normalize(torch.ones(30, 512) * 0.3, dim=1)
    found = recall(same, same, [(index, index) for index in range(30)])
    assert set(found.values()) == {0.0}


def test_a_tie_with_a_wrong_answer_is_a_miss_and_with_a_right_one_is_none():
    image_ND = torch.eye(2)
    text_MD = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert recall(image_ND, text_MD, [(0, 0), (0, 1), (1, 2)], ks=(1,)) == {
        "image_to_text_r1": 1.0,
        "text_to_image_r1": 1.0,
    }
    tied = recall(image_ND, text_MD, [(0, 0), (1, 1), (1, 2)], ks=(1,))
    assert tied["image_to_text_r1"] == 0.5


def test_a_doubled_image_is_a_tie_whatever_order_sums_are_made_in():
    generator = torch.Generator().manual_seed(1)
    one = torch.nn.functional.normalize(torch.randn(1, 512, generator=generator), dim=1)
    others = torch.nn.functional.normalize(torch.randn(60, 512, generator=generator), dim=1)
    image_ND = torch.cat([one, others, one])
    found = ranks(image_ND, image_ND.clone(), [(index, index) for index in range(62)])
    assert [rank[0].item() for rank in found] == [1, 1] == [rank[61].item() for rank in found]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    image_ND, text_MD, matches = made(images=12)
    assert recall(image_ND * scale, text_MD / scale, matches) == recall(image_ND, text_MD, matches)


def test_half_precision_is_taken():
    image_ND, text_MD, matches = made(images=12)
    found = recall(image_ND.bfloat16(), text_MD.bfloat16(), matches)
    assert found["image_to_text_r10"] > 0.9


def spoilt(value):
    image_ND, text_MD, matches = made(images=4)
    image_ND[1, 2] = value
    return image_ND, text_MD, matches


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (spoilt(float("nan")), "NaN"),
        (spoilt(float("inf")), "infinity"),
        ((torch.eye(2), torch.eye(3), [(0, 0)]), "share a space"),
        ((torch.eye(2), torch.eye(2), [(0, 0)]), "1 of 2 images have no match"),
        ((torch.eye(2), torch.eye(2), [(0, 0), (1, 0)]), "1 of 2 texts have no match"),
        ((torch.eye(2), torch.eye(2), [(0, 0), (2, 1)]), "images beyond"),
        ((torch.eye(2), torch.eye(2), []), "no match"),
        ((torch.empty(0, 2), torch.eye(2), []), "rows of numbers"),
    ],
)
def test_input_it_is_not_defined_for_is_refused(arguments, says):
    with pytest.raises(MetricInputError, match=says):
        recall(*arguments)


def test_ks_below_one_are_refused():
    with pytest.raises(MetricInputError, match="ks"):
        recall(torch.eye(2), torch.eye(2), [(0, 0), (1, 1)], ks=(0,))
