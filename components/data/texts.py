"""Which text an image comes with: a caption, a question to be answered, or a document for a language model.

Each function draws one text of a row and gives it as (prompt, text): what is given and what is learnt, both as segments
that the tokenizer joins with its `<sep>`, which no text can spell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from components.data.answers import best
from components.data.transforms import swap_left_right
from components.records import Question, Row
from components.table import Table

Segments = tuple[str, ...]
Drawn = tuple[Segments, Segments]
DrawText = Callable[[Row, np.random.Generator, bool], Drawn]
T = TypeVar("T")

BARE_SHARE = 0.4
"""Documents that are a caption and nothing else; the others have a second half that follows from the first."""

_FUNCTION_WORDS = frozenset(
    {
        *("a", "an", "and", "are", "at", "by", "for", "from", "in", "is"),
        *("it", "of", "on", "or", "that", "the", "there", "this", "to", "with"),
    }
)


class TextMissing(ValueError):
    """A sample that has no text of the kind a model learns from."""


def captions(row: Row, random: np.random.Generator, mirrored: bool) -> Drawn:
    """One of the row's captions; nothing is given."""
    return (), (_caption(row, random, mirrored),)


def questions(row: Row, random: np.random.Generator, mirrored: bool) -> Drawn:
    """One of the row's questions as what is given, and its best answer. Raises TextMissing if it has none."""
    if not row.sample.questions:
        raise TextMissing(
            f'Sample "{row.sample.id}" has no question; choose a source with questions, '
            'or texts that are "captions" or "captions_and_questions".'
        )
    question = _one_of(row.sample.questions, random)
    return (question_prompt(_as_shown(question.text, mirrored)),), (_answer(question, mirrored),)


def captions_and_questions(row: Row, random: np.random.Generator, mirrored: bool) -> Drawn:
    """A caption or a question, each half of the time; a caption where there is no question."""
    asked = random.random() < 0.5
    draw = questions if asked and row.sample.questions else captions
    return draw(row, random, mirrored)


def documents(row: Row, random: np.random.Generator, mirrored: bool) -> Drawn:
    """What a language model learns to read its context from; all of it is learnt.

    40 % bare captions; else in equal parts `keywords <sep> caption`, `caption <sep> question and answer` and a caption
    twice. A model that saw bare captions alone ignores whatever stands before a caption, an image included.
    """
    caption = _caption(row, random, mirrored)
    if random.random() < BARE_SHARE:
        return (), (caption,)
    kind = random.integers(3)
    if kind == 0:
        return (), (caption, caption)
    if kind == 1 and row.sample.questions:
        question = _one_of(row.sample.questions, random)
        asked = question_prompt(_as_shown(question.text, mirrored))
        return (), (caption, f"{asked} {_answer(question, mirrored)}")
    return (), (_keywords(caption, random), caption)


def question_prompt(question: str) -> str:
    """How a question is put to a language model, which then writes the answer.

    >>> question_prompt("what color is the star ?")
    'question: what color is the star ? answer:'
    """
    return f"question: {question} answer:"


def all_texts(row: Row) -> Iterator[str]:
    """All that is said of an image: captions, and questions with their answers; what a tokenizer is made from."""
    yield from row.sample.captions
    for question in row.sample.questions:
        yield question_prompt(question.text)
        yield from question.answers


TEXTS: Table[DrawText] = Table(
    "kind of text",
    {
        "captions": captions,
        "captions_and_questions": captions_and_questions,
        "documents": documents,
        "questions": questions,
    },
)


def _caption(row: Row, random: np.random.Generator, mirrored: bool) -> str:
    return _as_shown(_one_of(row.sample.captions, random), mirrored)


def _answer(question: Question, mirrored: bool) -> str:
    return _as_shown(best(question.answers), mirrored)


def _keywords(caption: str, random: np.random.Generator) -> str:
    words = [word for word in caption.split() if word.lower() not in _FUNCTION_WORDS]
    return " ".join(random.permutation(np.array(words or caption.split(), dtype=object)))


def _one_of(choices: Sequence[T], random: np.random.Generator) -> T:
    return choices[int(random.random() * len(choices))]


def _as_shown(text: str, mirrored: bool) -> str:
    return swap_left_right(text) if mirrored else text
