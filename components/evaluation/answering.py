"""Answers ability -> VQA accuracy over the questions of a split, with the blind control and two answerers without eyes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from components.abilities import CannotAnswer
from components.data.batches import SplitImages
from components.evaluation.controls import shuffled
from components.evaluation.subject import Subject
from components.metrics import vqa

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about an image of the split."""

    image: int
    """Its number in the split."""
    question: str
    accepted: tuple[str, ...]


def answering(subject: Subject) -> dict[str, float]:
    """`vqa_accuracy` of the model, of the model shown another image, and of two answerers that see none.

    `question_only/` gives the answer that the same question had most often in training, `most_frequent/` the one that
    all questions had. Nothing where the split has no questions, or the model cannot answer them.
    """
    asked = questions(subject.images, limit=subject.plan.questions, seed=subject.plan.blind_seed)
    if not asked:
        return {}
    known = questions(subject.train)
    images = [each.image for each in asked]
    # Images are exchanged, not questions: two questions about one image must not answer for each other.
    other = shuffled(len(subject.images.rows), subject.plan.blind_seed)
    try:
        seen, blind = (
            answers(subject, asked, shown) for shown in (images, [other[at] for at in images])
        )
    except CannotAnswer:
        return {}
    columns = {
        "": seen,
        "image_blind/": blind,
        "question_only/": by_question(known, asked),
        "most_frequent/": [most_frequent(known)] * len(asked),
    }
    accepted = [each.accepted for each in asked]
    return {
        f"{column}vqa_accuracy": vqa.score(vqa.statistics(given, accepted))
        for column, given in columns.items()
    }


def questions(images: SplitImages, *, limit: int | None = None, seed: int = 0) -> list[Asked]:
    """Every question of a split, in its order; or `limit` of them, drawn by the seed, if it has more."""
    found = [
        Asked(image=image, question=question.text, accepted=question.answers)
        for image, row in enumerate(images.rows)
        for question in row.sample.questions
    ]
    if limit is None or len(found) <= limit:
        return found
    drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:limit]
    return [found[index] for index in sorted(drawn.tolist())]


@torch.inference_mode()
def answers(subject: Subject, asked: Sequence[Asked], images: Sequence[int]) -> list[str]:
    """What the model answers to each question about the image of that number."""
    given: list[str] = []
    for start in range(0, len(asked), BATCH):
        block = slice(start, start + BATCH)
        given += subject.model.answer(
            subject.images.pixels_NCHW[list(images[block])],
            [each.question for each in asked[block]],
            subject.tokenizer,
        )
    return given


def by_question(known: Sequence[Asked], asked: Sequence[Asked]) -> list[str]:
    """The commonest training answer to each question, word for word; to one never asked, the commonest of all."""
    same: dict[str, list[Asked]] = defaultdict(list)
    for each in known:
        same[each.question].append(each)
    commonest = {question: most_frequent(several) for question, several in same.items()}
    fallback = most_frequent(known)
    return [commonest.get(each.question, fallback) for each in asked]


def most_frequent(known: Sequence[Asked]) -> str:
    """The answer given to most questions, normalised; first in the alphabet on ties, and "" to none at all."""
    counts = Counter(_best(each.accepted) for each in known)
    return min(counts, key=lambda answer: (-counts[answer], answer), default="")


def _best(accepted: Sequence[str]) -> str:
    """What most people said; of a list of right answers the first."""
    normalised = [vqa.normalise(answer) for answer in accepted]
    return Counter(normalised).most_common(1)[0][0]
