"""Matches ability -> recall in short lists both ways, and accuracy of telling right pairs from wrong ones.

A model that reads image and text together cannot score every pair of a split: lists of images stand in for it, each
with one caption, in which no image holds another's caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

import torch
from torch import Tensor

from components.abilities import Captions
from components.data.batches import SplitImages
from components.evaluation.subject import Subject
from components.metrics.matching import balanced_accuracy, list_recall

LIST, LISTS = 32, 4
"""Images, and as many texts, of one list; and how many lists, where the plan does not say."""
RANKS = (1, 5)
WRONG_SHIFT, BLIND_SHIFT = 1, 2
"""Places round the list that wrong texts, and the blind control's images, are taken from."""

Chosen = list[tuple[int, str]]
"""Images by number, and the caption each stands in the list with."""


def matching(subject: Subject) -> dict[str, float]:
    """`match_image_to_text_r1`, `…_r5`, the other way, and `match_accuracy`, with chance and the blind control.

    The accuracy's threshold is the median score of as many right and wrong pairs of the training split, so that
    probabilities and log-likelihoods are treated alike. Nothing where the plan asks for no lists, which for captioners is
    the default, or where images that are described differently are too few for one of 3.
    """
    lists = _lists(subject.images, lists_asked(subject), subject.plan.blind_seed)
    known = _lists(subject.train, 2, subject.plan.blind_seed)
    if not lists or not known:
        return {}
    scores = [_score(subject, subject.images, chosen) for chosen in lists]
    known_scores = [_score(subject, subject.train, chosen) for chosen in known]
    threshold = median(torch.cat([*map(_right, known_scores), *map(_wrong, known_scores)]).tolist())
    blind = [scores_LL.roll(BLIND_SHIFT, dims=0) for scores_LL in scores]
    values = _measured(scores, threshold)
    values |= {f"image_blind/{name}": value for name, value in _measured(blind, threshold).items()}
    return values | _chance([len(chosen) for chosen in lists])


def lists_asked(subject: Subject) -> int:
    """How many lists the plan asks for; where it does not say, 4, and none of a family that writes captions."""
    if subject.plan.match_lists is not None:
        return subject.plan.match_lists
    return 0 if isinstance(subject.model, Captions) else LISTS


def _lists(images: SplitImages, count: int, seed: int) -> list[Chosen]:
    """Up to `count` seeded lists of LIST images, or fewer where that many are not described differently."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.randperm(len(images.rows), generator=generator).tolist()
    lists: list[Chosen] = []
    while waiting and len(lists) < count:
        chosen, waiting = _one_list(images, waiting, generator)
        if len(chosen) > BLIND_SHIFT:
            lists.append(chosen)
        if len(chosen) < LIST:
            break
    return lists


def _one_list(
    images: SplitImages, waiting: Sequence[int], generator: torch.Generator
) -> tuple[Chosen, list[int]]:
    chosen: Chosen = []
    said: set[str] = set()
    left = []
    for index in waiting:
        captions = images.rows[index].sample.captions
        if len(chosen) == LIST or said & set(captions):
            left.append(index)
            continue
        said |= set(captions)
        draw = int(torch.randint(len(captions), (1,), generator=generator))
        chosen.append((index, captions[draw]))
    return chosen, left


@torch.inference_mode()
def _score(subject: Subject, images: SplitImages, chosen: Chosen) -> Tensor:
    """(L, L): every image of the list with every text of it."""
    limit = subject.model.batch_spec().max_tokens
    tokens_LT, lengths_L = subject.tokenizer.encode([caption for _, caption in chosen], limit)
    rows = []
    for index, _ in chosen:
        pixels_LCHW = images.pixels_NCHW[index].expand(len(chosen), -1, -1, -1)
        keys_L = torch.full((len(chosen),), 2 * images.rows[index].key)
        rows.append(subject.model.match(pixels_LCHW, tokens_LT, lengths_L, keys_L).float())
    return torch.stack(rows)


def _right(scores_LL: Tensor) -> Tensor:
    return scores_LL.diagonal()


def _wrong(scores_LL: Tensor) -> Tensor:
    return scores_LL.roll(WRONG_SHIFT, dims=1).diagonal()


def _measured(scores: Sequence[Tensor], threshold: float) -> dict[str, float]:
    recalls = [list_recall(scores_LL, RANKS) for scores_LL in scores]
    weights = [len(scores_LL) for scores_LL in scores]
    values = {
        f"match_{name}": fmean([each[name] for each in recalls], weights) for name in recalls[0]
    }
    right_N, wrong_N = (torch.cat([*map(part, scores)]) for part in (_right, _wrong))
    return values | {"match_accuracy": balanced_accuracy(right_N, wrong_N, threshold)}


def _chance(sizes: Sequence[int]) -> dict[str, float]:
    """What a random order finds: k places of each list's length; and half of the pairs."""
    values = {
        f"chance/match_{way}_r{k}": fmean([min(k / size, 1.0) for size in sizes], sizes)
        for way in ("image_to_text", "text_to_image")
        for k in RANKS
    }
    return values | {"chance/match_accuracy": 0.5}
