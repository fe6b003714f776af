"""Which text an image comes with: what is given, what is learnt, and how often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from components.data.texts import TEXTS, TextMissing, question_prompt
from components.records import Question, Row, Sample

QUESTIONS = (
    Question(text="what is left of the star ?", answers=("a ring on the left", "ring")),
    Question(text="what color is the star ?", answers=("red",)),
)


def _row(questions: tuple[Question, ...] = QUESTIONS) -> Row:
    captions = ("a red star to the left of the ring", "there is a red star")
    sample = Sample(
        id="one", image=b"", captions=captions, split="train", concept="star", label="star",
        concept_family="star", origin="made", license="CC0-1.0", questions=questions,
    )  # fmt: skip
    return Row(
        key=0, sample=sample, shard="", offset_bytes=0, size_bytes=0, sha256="",
        pixels_sha256="0", width_px=16, height_px=16,
    )  # fmt: skip


def _drawn(kind: str, count: int = 400, *, mirrored: bool = False, row: Row | None = None) -> list:
    random = np.random.default_rng(0)
    return [TEXTS[kind](row or _row(), random, mirrored) for _ in range(count)]


@pytest.mark.parametrize("kind", sorted(TEXTS))
def test_a_text_follows_from_the_generator_alone(kind: str) -> None:
    assert _drawn(kind, 20) == _drawn(kind, 20)
    assert len(set(_drawn(kind, 200))) > 1


def test_captions_are_drawn_evenly_with_nothing_given() -> None:
    counts = Counter(_drawn("captions"))
    assert set(counts) == {((), (caption,)) for caption in _row().sample.captions}
    assert min(counts.values()) > 150


def test_a_question_is_given_and_its_best_answer_learnt() -> None:
    assert set(_drawn("questions")) == {
        ((question_prompt(question.text),), (question.answers[0],)) for question in QUESTIONS
    }


def test_of_what_ten_people_said_the_commonest_answer_is_learnt() -> None:
    said = ("pink", *["red"] * 6, *["orange"] * 3)
    asked = Question(text="what color is the star ?", answers=said)
    drawn = _drawn("questions", 20, row=_row((asked,)))
    assert {text for _, text in drawn} == {("red",)}


def test_a_mirrored_row_says_left_for_right_everywhere() -> None:
    for kind in TEXTS:
        words = " ".join(
            segment
            for prompt, text in _drawn(kind, 200, mirrored=True)
            for segment in (*prompt, *text)
        ).split()
        assert "right" in words
        assert "left" not in words


def test_half_of_captions_and_questions_are_questions_where_there_are_any() -> None:
    asked = sum(bool(prompt) for prompt, _ in _drawn("captions_and_questions"))
    assert 160 < asked < 240
    none = _drawn("captions_and_questions", row=_row(()))
    assert not any(prompt for prompt, _ in none)


def test_a_row_without_questions_is_refused_by_name_where_they_are_needed() -> None:
    with pytest.raises(TextMissing, match='"one" has no question'):
        _drawn("questions", 1, row=_row(()))


def test_documents_are_two_fifths_bare_captions_and_else_halves_of_one_scene() -> None:
    drawn = _drawn("documents", 2000)
    captions = _row().sample.captions
    answers = {f"{question_prompt(question.text)} {question.answers[0]}" for question in QUESTIONS}
    kinds = Counter()
    for prompt, text in drawn:
        assert prompt == ()
        assert text[-1] in captions or text[-1] in answers
        if len(text) == 1:
            kinds["bare"] += 1
        elif text[1] in answers:
            assert text[0] in captions
            kinds["question"] += 1
        elif text[0] == text[1]:
            kinds["twice"] += 1
        else:
            assert set(text[0].split()) < set(text[1].split())
            assert not {"a", "the", "is"} & set(text[0].split())
            kinds["keywords"] += 1
    assert 0.36 < kinds["bare"] / 2000 < 0.44
    assert all(0.17 < kinds[kind] / 2000 < 0.23 for kind in ("question", "twice", "keywords"))


def test_keywords_come_in_every_order_and_documents_need_no_questions() -> None:
    drawn = _drawn("documents", 400, row=_row(()))
    keywords = {text[0] for _, text in drawn if len(text) == 2 and text[0] != text[1]}
    assert {"red star", "star red"} <= keywords
    assert not any("question:" in segment for _, text in drawn for segment in text)
