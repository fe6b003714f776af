"""Answering: every question is asked, of its own image and of another, and those without eyes answer from training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.abilities import Answers, CannotAnswer
from components.catalog import METRICS
from components.data.batches import SplitImages, load_split
from components.data.shards import write_shards
from components.data.sources.shapes import scene
from components.data.text import Tokenizer
from components.evaluation.answering import answering, by_question, most_frequent, questions
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.frozen import Frozen, FrozenConfig
from components.models.parts import Origin, Part


class Knower:
    """Answers right what it is asked about images it knows, by their pixels; remembers what it was asked."""

    def __init__(self, images: SplitImages) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self._known = {
            (question.text, pixels.numpy().tobytes()): question.answers[-1]
            for row, pixels in zip(images.rows, images.pixels_NCHW, strict=True)
            for question in row.sample.questions
        }

    def answer(self, pixels_BCHW, questions, tokenizer, keys_B=None) -> list[str]:
        shown = [pixels.numpy().tobytes() for pixels in pixels_BCHW]
        asked = list(zip(questions, shown, strict=True))
        self.asked += asked
        return [self._known.get(pair, "nothing like that") for pair in asked]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SplitImages]:
    samples = [scene(index, 1) for index in range(150)]
    shards = write_shards(samples, Path(tmp_path_factory.mktemp("asked")) / "shapes")
    return {split: load_split(shards, split, 32) for split in ("train", "test")}


@pytest.fixture
def subject(splits) -> Subject:
    return Subject(
        model=Knower(splits["test"]), tokenizer=Tokenizer.train(["red"], 263),
        images=splits["test"], train=splits["train"], plan=EvaluationPlan(),
    )  # fmt: skip


def test_every_question_of_the_split_is_asked_of_its_image(subject: Subject) -> None:
    assert isinstance(subject.model, Answers)
    values = answering(subject)
    count = sum(len(row.sample.questions) for row in subject.images.rows)
    assert values["vqa_accuracy"] == 1.0
    # Once of its own image, once of another.
    assert len(subject.model.asked) == 2 * count
    assert "vqa_accuracy" in METRICS


def test_the_blind_control_asks_each_question_of_another_image(subject: Subject) -> None:
    values = answering(subject)
    half = len(subject.model.asked) // 2
    seeing, blind = subject.model.asked[:half], subject.model.asked[half:]
    for (question, own), (same, other) in zip(seeing, blind, strict=True):
        assert question == same
        assert own != other
    assert values["image_blind/vqa_accuracy"] < 0.5


def test_answerers_without_eyes_say_what_training_says_most(subject: Subject) -> None:
    """Worked by hand on four questions."""
    known = questions(subject.train)[:4]
    how_many = [
        replace(known[0], question="how many ?", accepted=accepted)
        for accepted in (("two", "2"), ("three", "3"), ("2",))
    ]
    where = replace(known[0], question="where ?", accepted=("left",) * 6 + ("right",) * 4)
    training = [*how_many, where, replace(where, accepted=("left",))]
    asked = [how_many[1], where, replace(where, question="who ?")]
    assert by_question(training, asked) == ["2", "left", "2"]
    assert most_frequent(training) == "2"
    assert most_frequent([]) == ""


def test_both_baselines_stand_beside_the_model_and_the_better_one_knows_the_question(
    subject: Subject,
) -> None:
    values = answering(subject)
    assert set(values) == {
        f"{column}vqa_accuracy"
        for column in ("", "image_blind/", "question_only/", "most_frequent/")
    }
    assert 0 < values["most_frequent/vqa_accuracy"] < values["question_only/vqa_accuracy"] < 1


def test_more_questions_than_the_plan_asks_are_drawn_by_its_seed(subject: Subject) -> None:
    whole = questions(subject.images)
    some = questions(subject.images, limit=5, seed=1)
    assert len(some) == 5
    assert some == questions(subject.images, limit=5, seed=1)
    assert some != questions(subject.images, limit=5, seed=2)
    assert [each for each in whole if each in some] == some
    answering(replace(subject, plan=EvaluationPlan(questions=5)))
    assert len(subject.model.asked) == 10


def test_a_split_without_questions_has_no_such_number(subject: Subject) -> None:
    rows = [replace(row, sample=replace(row.sample, questions=())) for row in subject.images.rows]
    silent = replace(subject, images=replace(subject.images, rows=rows))
    assert answering(silent) == {}


def test_a_model_that_cannot_answer_has_no_such_number(subject: Subject) -> None:
    def answer(*_: object) -> list[str]:
        raise CannotAnswer("It learnt none.")

    subject.model.answer = answer
    assert answering(subject) == {}


def test_a_question_longer_than_the_context_ends_no_evaluation(subject: Subject) -> None:
    """The real family, with a language model that has no place for any question."""
    lm = CausalLm(
        CausalLmConfig(width=16, layers=1, heads=2, positions=9, max_tokens=4).fitted(
            [], subject.tokenizer
        )
    )
    part = Part(module=lm, tokenizer=None, origin=Origin(kind="random", name="lm"))
    config = FrozenConfig(image_px=32, vision_widths=(4, 8), prefix_tokens=2, max_tokens=4)
    model = Frozen(config.fitted([], subject.tokenizer), {"lm": part}).eval()
    assert answering(replace(subject, model=model)) == {}
