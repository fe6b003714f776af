"""An index is held against its vision part alone, chooses among the concepts it is told, and is never asked what it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.data.batches import load_split
from components.data.shards import read_manifest
from components.evaluation.indexing import indexing
from components.evaluation.measure import measurable, measure
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.models.asif import AnchorLeak, Asif, AsifConfig
from components.models.parts import Origin
from components.models.virtex import VirTex
from components.training.checkpoints.checkpoint import load_model
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob

NEAREST, ACCURACY = "nearest_anchor/zero_shot_accuracy", "zero_shot_accuracy"


@pytest.fixture(scope="module")
def built(tiny_shards, tmp_path_factory):
    """An ASIF of untrained stand-ins over the tiny drawings, built by the job that trains others."""
    config = AsifConfig(image_px=32, max_tokens=16, k=4)
    return run_job(
        TrainingJob(
            family="asif",
            config=config.to_dict(),
            plan=TrainingPlan(vocab_size=400),
            shards=tiny_shards.path,
            folder=tmp_path_factory.mktemp("asif"),
            parts={slot: Origin(kind="random", name="") for slot in ("vision", "text")},
        )
    )


def _subject(built, shards, split: str) -> Subject:
    model, tokenizer, _ = load_model(built.path)
    train, images = (load_split(shards, name, 32) for name in ("train", split))
    plan = EvaluationPlan(split="test")
    return Subject(model=model, tokenizer=tokenizer, images=images, train=train, plan=plan)


def test_the_job_builds_an_index_in_no_step_and_its_checkpoint_holds_the_anchors(
    built, tiny_shards
) -> None:
    model, _, checkpoint = load_model(built.path)
    assert checkpoint.step == 0
    assert model.config.anchors == tiny_shards.counts["train"] == len(model.ids)
    assert model.image_anchors.std() > 0


def test_the_vision_part_alone_stands_beside_zero_shot_and_can_be_gated(
    built, tiny_shards, tmp_path
) -> None:
    values = measure(built, tiny_shards, "test", EvaluationPlan(), tmp_path).values
    assert {ACCURACY, NEAREST} <= set(values) <= measurable(Asif)
    assert NEAREST not in measurable(VirTex)


def test_no_anchor_shows_an_unseen_concept(built, tiny_shards) -> None:
    assert indexing(_subject(built, tiny_shards, "test_concept")) == {NEAREST: 0.0}


def test_an_anchor_finds_itself_by_its_sample_whatever_row_it_has(built, tiny_shards) -> None:
    subject = _subject(built, tiny_shards, "train")
    rows = [replace(row, pixels_sha256=f"other {row.key}") for row in subject.images.rows]
    turned = replace(
        subject.images, rows=rows[::-1], pixels_NCHW=subject.images.pixels_NCHW.flip(0)
    )
    straight = replace(subject.images, rows=rows)
    found = indexing(replace(subject, images=turned))
    assert found == indexing(replace(subject, images=straight))
    # Not 1.0: to an untrained tower some drawings of two concepts are one.
    assert found[NEAREST] > 0.8


def test_images_that_are_anchors_are_refused(built, tiny_shards, tmp_path) -> None:
    with pytest.raises(AnchorLeak, match="56 of 56 images under test are anchors"):
        measure(built, tiny_shards, "train", EvaluationPlan(), tmp_path)


def test_candidates_may_be_the_concepts_of_the_whole_source(built, tiny_shards, tmp_path) -> None:
    concepts = {row.sample.concept for row in read_manifest(tiny_shards)}
    few, all_of_them = (
        measure(
            built, tiny_shards, "test_concept", EvaluationPlan(classes=classes), tmp_path
        ).values
        for classes in ("split", "all")
    )
    assert few[f"chance/{ACCURACY}"] == 1.0
    assert few[ACCURACY] == 0.0 or few[ACCURACY] == 1.0
    assert all_of_them[f"chance/{ACCURACY}"] == 1 / len(concepts) == 1 / 16
    assert all_of_them[ACCURACY] <= few[ACCURACY]
