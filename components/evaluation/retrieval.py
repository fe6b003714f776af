"""Embeds ability -> retrieval both ways and zero-shot classification, with chance and the blind control."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor

from components import abilities
from components.data.batches import SplitImages
from components.data.text import Tokenizer
from components.evaluation.controls import nearest_pixels, shuffled
from components.evaluation.subject import Subject
from components.metrics.classification import mean_class_accuracy, top_k_accuracy
from components.metrics.retrieval import recall

BATCH = 128
RANKS = (1, 5, 10)


@torch.inference_mode()
def embed_images(model: abilities.Embeds, images: SplitImages) -> Tensor:
    """All images of a split -> (N, D), rows of length 1."""
    return torch.cat([model.embed_images(block) for block in images.pixels_NCHW.split(BATCH)])


@torch.inference_mode()
def embed_texts(
    model: abilities.Embeds, tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int
) -> Tensor:
    """Texts -> (M, D), rows of length 1; each block cut to its own longest text."""
    blocks = [
        model.embed_texts(*tokenizer.encode(texts[start : start + BATCH], max_tokens))
        for start in range(0, len(texts), BATCH)
    ]
    return torch.cat(blocks)


def class_embeddings(
    model: abilities.Embeds,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    prompts: Sequence[str],
    max_tokens: int,
) -> Tensor:
    """One row a label: the normalised mean over prompts of normalised embeddings (Radford et al. 2021, 3.1.4)."""
    texts = [prompt.replace("{}", label) for label in labels for prompt in prompts]
    text_ND = embed_texts(model, tokenizer, texts, max_tokens)
    mean_CD = text_ND.view(len(labels), len(prompts), -1).mean(dim=1)
    return torch.nn.functional.normalize(mean_CD, dim=-1)


def embedding(subject: Subject) -> dict[str, float]:
    """All that embeddings are measured by."""
    image_ND = embed_images(subject.model, subject.images)
    return retrieval(subject, image_ND) | zero_shot(subject, image_ND)


def retrieval(subject: Subject, image_ND: Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways over all captions of the split, of shuffled images, and of chance."""
    texts, matches = pairs(subject.images)
    limit = subject.model.batch_spec().max_tokens
    text_MD = embed_texts(subject.model, subject.tokenizer, texts, limit)
    blind_ND = image_ND[shuffled(len(image_ND), subject.plan.blind_seed)]
    values = dict(recall(image_ND, text_MD, matches, ks=RANKS))
    values |= _named("image_blind", recall(blind_ND, text_MD, matches, ks=RANKS))
    return values | _named("chance", chance(len(image_ND), len(texts), matches))


def pairs(images: SplitImages) -> tuple[list[str], list[tuple[int, int]]]:
    """Distinct captions of a split, and which (image, text) belong together.

    A caption that two images share is one text with two right images.
    """
    number: dict[str, int] = {}
    matches = []
    for index, row in enumerate(images.rows):
        for caption in dict.fromkeys(row.sample.captions):
            matches.append((index, number.setdefault(caption, len(number))))
    return list(number), matches


def chance(images: int, texts: int, matches: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Expected recalls of a random order: 1 - C(n - p, k) / C(n, k) with p right among n, averaged over rows."""
    values = {}
    for way, column, rows, among in (
        ("image_to_text", 0, images, texts),
        ("text_to_image", 1, texts, images),
    ):
        right = torch.bincount(torch.tensor([pair[column] for pair in matches]), minlength=rows)
        for k in RANKS:
            missed = [
                comb(among - p, min(k, among)) / comb(among, min(k, among)) for p in right.tolist()
            ]
            values[f"{way}_r{k}"] = 1 - sum(missed) / rows
    return values


def zero_shot(subject: Subject, image_ND: Tensor) -> dict[str, float]:
    """Accuracy of naming each image's concept among those that are candidates, with controls."""
    images, train, plan = subject.images, subject.train, subject.plan
    labels = subject.concepts or {row.sample.concept: row.sample.label for row in images.rows}
    number = {concept: index for index, concept in enumerate(labels)}
    truth_N = torch.tensor([number[row.sample.concept] for row in images.rows])
    class_CD = class_embeddings(
        subject.model,
        subject.tokenizer,
        list(labels.values()),
        plan.prompts,
        subject.model.batch_spec().max_tokens,
    )
    scores_NC = image_ND @ class_CD.T
    near = [
        number.get(train.rows[index].sample.concept, -1) for index in nearest_pixels(images, train)
    ]
    copied = (torch.tensor(near) == truth_N).double().mean().item()
    values = _accuracies(scores_NC, truth_N)
    values |= _named(
        "image_blind", _accuracies(scores_NC[shuffled(len(image_ND), plan.blind_seed)], truth_N)
    )
    return values | {
        "chance/zero_shot_accuracy": 1 / len(labels),
        "nearest_pixels/zero_shot_accuracy": copied,
    }


def _accuracies(scores_NC: Tensor, truth_N: Tensor) -> dict[str, float]:
    return {
        "zero_shot_accuracy": top_k_accuracy(scores_NC, truth_N, k=1),
        "zero_shot_mean_class_accuracy": mean_class_accuracy(scores_NC, truth_N),
    }


def _named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{metric}": value for metric, value in values.items()}
