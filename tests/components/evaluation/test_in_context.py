"""Few-shot trials: seeded, from the training images, with demonstrations that count and images that count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.catalog import METRICS
from components.config import ConfigError
from components.data.batches import SplitImages, load_split
from components.evaluation.controls import shuffled
from components.evaluation.in_context import _caption, _question, draw, in_context
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.records import Question

PLAN = EvaluationPlan(shots=(0, 1, 4), episodes=6, trials=2, max_tokens=8)


class State:
    """What is still to be written, a list of ids a row."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows


class Copier:
    """Writes what its last demonstration says, if that image equals the query's; else the first demonstration's text.

    It reads demonstrations and query as a family does, and no more: what it writes is known beforehand.
    """

    TEXT_ONLY_SHOTS = 2

    def __init__(self, vocab_size: int, eos_id: int) -> None:
        self.vocab_size, self.eos_id = vocab_size, eos_id
        self.seen: list = []

    def prefill_shots(self, shots, pixels_BCHW, prompts=None):
        self.seen += [(list(given), prompt) for given, prompt in zip(shots, prompts, strict=True)]
        rows = []
        for given, query in zip(shots, pixels_BCHW, strict=True):
            same = [words for image, words in given if image is not None and image.equal(query)]
            rows.append([*(same or [given[0][1]])[-1], self.eos_id])
        return self._next(rows)

    def step(self, state, tokens_N):
        state, logits, _ = self._next([row[1:] or [self.eos_id] for row in state.rows])
        return state, logits

    def logits(self, hidden_ND):
        return hidden_ND

    def _next(self, rows):
        first = torch.tensor([row[0] for row in rows])
        logits = torch.nn.functional.one_hot(first, self.vocab_size).float() * 50
        return State(rows), logits, logits

    def similarity_features(self, pixels_BCHW):
        return pixels_BCHW.float().flatten(1)


@pytest.fixture
def subject(tiny_shards, tiny_tokenizer) -> Subject:
    return Subject(
        model=Copier(tiny_tokenizer.vocab_size, tiny_tokenizer.eos_id),
        tokenizer=tiny_tokenizer,
        images=_with_questions(load_split(tiny_shards, "test", 32), ()),
        train=_with_questions(load_split(tiny_shards, "train", 32), ()),
        plan=PLAN,
    )


def _with_questions(images: SplitImages, questions: tuple[Question, ...]) -> SplitImages:
    rows = [replace(row, sample=replace(row.sample, questions=questions)) for row in images.rows]
    return replace(images, rows=rows)


def test_a_trial_is_the_same_for_a_seed_and_another_for_another(subject: Subject) -> None:
    first, again, other = (draw(subject, _caption, seed, None) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(set(first.queries)) == 6
    assert all(len(given) == 4 for given in first.drawn)


def test_similar_demonstrations_are_the_nearest_training_images_with_the_nearest_last(
    subject: Subject,
) -> None:
    subject = replace(subject, images=subject.train, plan=replace(PLAN, demonstrations="similar"))
    in_context(subject)
    shown = [given for given, _ in subject.model.seen if len(given) == 4]
    queries = [
        subject.train.pixels_NCHW[query]
        for seed in (0, 1)
        for query in draw(subject, _caption, seed, None).queries
    ]
    # Each query is a training image here, so it is its own nearest; blind rows follow its trial's, with a wrong image.
    for trial in (0, 1):
        own = shown[12 * trial : 12 * trial + 6]
        for given, query in zip(own, queries[6 * trial : 6 * trial + 6], strict=True):
            assert given[-1][0].equal(query)
            unit = [
                torch.nn.functional.normalize(image.float().flatten(), dim=0) for image, _ in given
            ]
            asked = torch.nn.functional.normalize(query.float().flatten(), dim=0)
            cosines = [float(asked @ each) for each in unit]
            assert cosines == pytest.approx(sorted(cosines), abs=1e-6)


def test_a_model_that_copies_from_its_nearest_demonstration_is_right_but_blind_it_is_not(
    subject: Subject,
) -> None:
    subject = replace(subject, images=subject.train, plan=replace(PLAN, demonstrations="similar"))
    values = in_context(subject)
    assert values["few_shot_exact_match_k4"] == 1
    assert values["few_shot_exact_match_k4_std"] == 0
    assert values["image_blind/few_shot_exact_match_k4"] < 0.5
    assert values["few_shot_cider_d_k4"] > values["image_blind/few_shot_cider_d_k4"]


def test_the_blind_are_shown_neighbours_of_the_image_they_see_and_not_of_the_true_one(
    subject: Subject,
) -> None:
    """Every query is a training image, so whose neighbours are shown is told by the nearest one."""
    plan = replace(PLAN, demonstrations="similar", shots=(4,), trials=1)
    subject = replace(subject, images=subject.train, plan=plan)
    in_context(subject)
    own, blind = subject.model.seen[:6], subject.model.seen[6:]
    queries = draw(subject, _caption, 0, None).queries
    true = [subject.train.pixels_NCHW[query] for query in queries]
    order = shuffled(6, plan.blind_seed)
    for place in range(6):
        assert own[place][0][-1][0].equal(true[place])
        assert blind[place][0][-1][0].equal(true[order[place]])
        assert not blind[place][0][-1][0].equal(true[place])


def test_zero_shots_are_drawn_at_random_where_similar_texts_would_tell_of_the_image(
    subject: Subject,
) -> None:
    def texts(demonstrations: str) -> list:
        plan = replace(PLAN, demonstrations=demonstrations, shots=(0,), trials=1)
        model = Copier(subject.model.vocab_size, subject.model.eos_id)
        in_context(replace(subject, model=model, images=subject.train, plan=plan))
        return [given for given, _ in model.seen]

    assert texts("similar") == texts("random")
    own, blind = texts("similar")[:6], texts("similar")[6:]
    assert own == blind


def test_one_trial_has_no_spread(subject: Subject) -> None:
    values = in_context(replace(subject, plan=replace(PLAN, trials=1)))
    assert values
    assert not [name for name in values if name.endswith("_std")]


def test_zero_shots_are_as_many_texts_without_images_as_the_family_has(subject: Subject) -> None:
    in_context(replace(subject, plan=replace(PLAN, shots=(0,))))
    assert subject.model.seen
    for given, _ in subject.model.seen:
        assert len(given) == 2
        assert all(image is None and words for image, words in given)


def test_every_number_of_shots_has_the_same_queries_and_the_demonstrations_next_to_them(
    subject: Subject,
) -> None:
    in_context(replace(subject, plan=replace(PLAN, shots=(1, 4), trials=1)))
    one, _, four = (subject.model.seen[start : start + 6] for start in (0, 6, 12))
    for (short, _), (long, _) in zip(one, four, strict=True):
        assert len(short) == 1
        assert short[0][0].equal(long[-1][0])
        assert short[0][1] == long[-1][1]


def test_mean_and_spread_are_over_trials(subject: Subject) -> None:
    both = in_context(subject)
    name = "few_shot_exact_match_k1"
    single = [in_context(replace(subject, plan=replace(PLAN, trials=1)))[name]]
    other = 2 * both[name] - single[0]
    assert 0 <= other <= 1
    assert both[f"{name}_std"] == pytest.approx(abs(single[0] - other) / 2)


def test_questions_are_asked_where_there_are_some_and_their_demonstrations_answer(
    subject: Subject,
) -> None:
    images = _with_questions(
        subject.train, (Question(text="what color ?", answers=("red", "any")),)
    )
    asking = replace(
        subject,
        images=images,
        train=images,
        plan=replace(PLAN, demonstrations="similar"),
    )
    values = in_context(asking)
    words = subject.tokenizer.words("question: what color ? answer:")
    given, prompt = asking.model.seen[-1]
    assert prompt == words
    assert all(text[: len(words)] == words and len(text) > len(words) for _, text in given)
    # The copier writes question and answer, which is no answer.
    assert values["few_shot_vqa_accuracy_k4"] == 0
    trial = draw(asking, _question, 0, None)
    assert all("any" in text.accepted for text in trial.texts)
    assert not [name for name in in_context(subject) if "vqa" in name]


def test_values_are_named_by_metric_shots_and_spread_as_the_catalog_knows_them(
    subject: Subject,
) -> None:
    values = in_context(subject)
    wanted = {
        f"few_shot_{metric}_k{shots}{spread}"
        for metric in ("exact_match", "cider_d")
        for shots in PLAN.shots
        for spread in ("", "_std")
    }
    assert set(values) == wanted | {f"image_blind/{name}" for name in wanted}
    assert wanted | {"few_shot_vqa_accuracy_k8_std"} <= set(METRICS)


def test_similar_demonstrations_need_a_family_that_knows_similar(subject: Subject) -> None:
    model = subject.model

    class Plain:
        TEXT_ONLY_SHOTS = 0
        prefill_shots, step = model.prefill_shots, model.step

    plan = replace(PLAN, demonstrations="similar")
    with pytest.raises(ConfigError, match="demonstrations: random"):
        in_context(replace(subject, model=Plain(), plan=plan))


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"shots": (3,)}, "0, 1, 2, 4, 8"),
        ({"shots": ()}, "0, 1, 2, 4, 8"),
        ({"shots": (1, 1)}, "names a number twice"),
        ({"episodes": 1}, "at least 2"),
        ({"trials": 0}, "at least 2 and 1"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        EvaluationPlan(**wrong)
