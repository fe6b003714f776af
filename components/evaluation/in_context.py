"""In-context ability -> captions and answers after a few demonstrations, over seeded trials, with the blind control.

A trial draws queries from the split and demonstrations from the training images; every number of shots of a trial has
the same queries. "0 shots" is as many demonstrations without their images as the family's protocol has (Flamingo: 2);
these are drawn at random always, since similar ones would tell of the image that they are to do without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from components.abilities import InContext
from components.config import ConfigError
from components.data.answers import best
from components.data.batches import SplitImages
from components.data.text import Tokenizer
from components.data.texts import question_prompt
from components.decoding.greedy import greedy
from components.evaluation.controls import shuffled
from components.evaluation.subject import Subject
from components.metrics import cider, exact_match, vqa
from components.metrics.tokenise import tokenise
from components.records import Row

BATCH = 32
"""Queries that are written for at once: each brings its demonstrations' images."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is asked of an image, what is taken as right, and what a demonstration shows as right."""

    prompt: str
    accepted: tuple[str, ...]
    shown: str


Demonstrations = Sequence[Sequence[tuple[int, Text]]]
"""For each query of a trial, training images and their texts."""

TextOf = Callable[[Row, torch.Generator], Text]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Queries with their demonstrations; images by their number in split and train."""

    queries: Sequence[int]
    texts: Sequence[Text]
    drawn: Demonstrations
    """As many for each query as the largest number of shots, whatever it shows."""
    similar: Demonstrations | None
    """As many that are like the query's image, the most similar last, where the plan asks for these."""

    def given(self, query: int, seen: int, shots: int) -> Sequence[tuple[int, Text]]:
        """The demonstrations of one query that is shown the image of another, or its own."""
        # By the image that is seen: those like the true one would tell a blind model what it is of.
        return self.drawn[query] if self.similar is None or not shots else self.similar[seen]


def in_context(subject: Subject) -> dict[str, float]:
    """Mean over trials and, of two or more, as `…_std` their standard deviation; answers where both splits have questions.

    Raises ConfigError for similar demonstrations of a family that says nothing of similarity.
    """
    near = _nearest(subject) if subject.plan.demonstrations == "similar" else None
    values = _over_trials(subject, _caption, near, _caption_scores)
    if _asked(subject.images) and _asked(subject.train):
        values |= _over_trials(subject, _question, near, _answer_scores)
    return values


def draw(
    subject: Subject, text_of: TextOf, seed: int, near: Callable[[int], Sequence[int]] | None
) -> Trial:
    """A trial of `plan.episodes` queries, or of all there are if these are fewer."""
    plan, random = subject.plan, torch.Generator().manual_seed(seed)
    rows, train = subject.images.rows, subject.train.rows
    if text_of is _question:
        usable, examples = (_asked(images) for images in (subject.images, subject.train))
    else:
        usable, examples = list(range(len(rows))), list(range(len(train)))
    order = torch.randperm(len(usable), generator=random)[: plan.episodes].tolist()
    queries = [usable[number] for number in order]
    most = max(*plan.shots, _text_only(subject.model))
    drawn = []
    for _ in queries:
        picked = torch.randint(len(examples), (most,), generator=random).tolist()
        chosen = [examples[number] for number in picked]
        drawn.append([(index, text_of(train[index], random)) for index in chosen])
    texts = [text_of(rows[query], random) for query in queries]
    similar = None
    if near is not None:
        able = set(examples)
        nearest = [[index for index in near(query) if index in able][:most] for query in queries]
        similar = [
            [(index, text_of(train[index], random)) for index in reversed(each)] for each in nearest
        ]
    return Trial(queries=queries, texts=texts, drawn=drawn, similar=similar)


@torch.inference_mode()
def write(subject: Subject, trial: Trial, shots: int, seen: Sequence[int]) -> list[str]:
    """What the model writes, greedily, for each query; seen: the query of the trial whose image it is shown."""
    written = []
    for start in range(0, len(trial.queries), BATCH):
        block = range(start, min(start + BATCH, len(trial.queries)))
        shown = [_shots(subject, trial.given(query, seen[query], shots), shots) for query in block]
        images = [trial.queries[seen[query]] for query in block]
        pixels_BCHW = subject.images.pixels_NCHW[images]
        prompts = [subject.tokenizer.words(trial.texts[query].prompt) for query in block]
        ids = greedy(
            _Prompted(subject.model, shown),
            pixels_BCHW,
            eos_id=subject.tokenizer.eos_id,
            max_tokens=subject.plan.max_tokens,
            prompts=prompts,
        )
        written += [subject.tokenizer.decode(each) for each in ids]
    return written


class _Prompted:
    """A model behind its demonstrations, as decoders know models."""

    def __init__(self, model: InContext, shots: Sequence[Any]) -> None:
        self._model, self._shots = model, shots
        self.step, self.logits = model.step, model.logits  # type: ignore[attr-defined]

    def prefill(
        self,
        pixels_BCHW: Tensor,
        keys_B: Tensor | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Any, Tensor, Tensor]:
        return self._model.prefill_shots(self._shots, pixels_BCHW, prompts)


def _over_trials(
    subject: Subject,
    text_of: TextOf,
    near: Callable[[int], Sequence[int]] | None,
    scores: Callable[[Sequence[str], Sequence[Text]], Mapping[str, float]],
) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for number in range(subject.plan.trials):
        trial = draw(subject, text_of, number, near)
        # Who sees a wrong image still reads the right question.
        own = range(len(trial.queries))
        columns = {"": own, "image_blind/": shuffled(len(own), subject.plan.blind_seed)}
        for shots in subject.plan.shots:
            for column, seen in columns.items():
                for metric, value in scores(
                    write(subject, trial, shots, seen), trial.texts
                ).items():
                    found.setdefault(f"{column}few_shot_{metric}_k{shots}", []).append(value)
    means = {name: fmean(values) for name, values in found.items()}
    if subject.plan.trials == 1:
        return means  # one trial has no spread, and 0 would say that it has none by measure
    return means | {f"{name}_std": pstdev(values) for name, values in found.items()}


def _shots(subject: Subject, given: Sequence[tuple[int, Text]], shots: int) -> list[Any]:
    count = shots or _text_only(subject.model)
    pixels_NCHW = subject.train.pixels_NCHW
    return [
        (pixels_NCHW[index] if shots else None, _words(subject.tokenizer, text))
        for index, text in (given[-count:] if count else ())
    ]


def _words(tokenizer: Tokenizer, text: Text) -> list[int]:
    return [*tokenizer.words(text.prompt), *tokenizer.words(text.shown)]


def _text_only(model: Any) -> int:
    return int(getattr(model, "TEXT_ONLY_SHOTS", 0))


def _one_of(count: int, random: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=random))


def _caption(row: Row, random: torch.Generator) -> Text:
    captions = row.sample.captions
    return Text(prompt="", accepted=tuple(captions), shown=captions[_one_of(len(captions), random)])


def _question(row: Row, random: torch.Generator) -> Text:
    questions = row.sample.questions
    question = questions[_one_of(len(questions), random)]
    return Text(
        prompt=question_prompt(question.text),
        accepted=question.answers,
        shown=best(question.answers),
    )


def _asked(images: SplitImages) -> list[int]:
    return [index for index, row in enumerate(images.rows) if row.sample.questions]


def _caption_scores(written: Sequence[str], texts: Sequence[Text]) -> dict[str, float]:
    words = [tokenise(text) for text in written]
    accepted = [[tokenise(text) for text in each.accepted] for each in texts]
    return {
        "exact_match": exact_match.score(exact_match.statistics(words, accepted)),
        "cider_d": cider.score(cider.statistics(words, accepted)),
    }


def _answer_scores(written: Sequence[str], texts: Sequence[Text]) -> dict[str, float]:
    return {"vqa_accuracy": vqa.score(vqa.statistics(written, [text.accepted for text in texts]))}


def _nearest(subject: Subject) -> Callable[[int], Sequence[int]]:
    """RICES (Yang et al. 2022, arXiv:2109.05014): a query's training images by cosine, the most similar first."""
    features = getattr(subject.model, "similarity_features", None)
    if features is None:
        raise ConfigError(
            f"{type(subject.model).__name__} says nothing of which images are similar; set "
            "`demonstrations: random` in the evaluation."
        )
    image_ND, train_MD = (
        _unit(features, images.pixels_NCHW) for images in (subject.images, subject.train)
    )
    return lambda query: (train_MD @ image_ND[query]).argsort(descending=True).tolist()


@torch.inference_mode()
def _unit(features: Callable[[Tensor], Tensor], pixels_NCHW: Tensor) -> Tensor:
    parts = [features(block_BCHW) for block_BCHW in pixels_NCHW.split(128)]
    return F.normalize(torch.cat(parts), dim=-1)
