"""What is measured follows from what a model can do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from components.abilities import Captions
from components.catalog import FAMILIES
from components.evaluation.measure import measurable, measure
from components.evaluation.plan import EvaluationPlan
from components.models.parts import Origin
from components.training.building import slots, starts
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob

PLAN = EvaluationPlan(max_tokens=12, beams=2, shots=(0, 1), episodes=4, trials=1)


def job_for(name: str, shards, folder, *, steps: int, lr: float = 1e-3, **settings) -> TrainingJob:
    family = FAMILIES[name]
    known = {*slots(family), *starts(family)}
    return TrainingJob(
        family=name,
        config=replace(family.Config.tiny(), **settings).to_dict(),
        plan=TrainingPlan(
            steps=steps, batch_size=28, lr=lr, warmup_steps=steps // 10, vocab_size=400
        ),
        shards=shards.path,
        folder=folder,
        parts={slot: Origin(kind="random", name="") for slot in known},
    )


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def made(request, tiny_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, run_job(job_for(request.param, tiny_shards, folder, steps=1))


@pytest.fixture(scope="module", params=["clip", "virtex"])
def trained(request, tiny_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    small = {"image_px": 32, "vision_widths": (16, 32)}
    return run_job(job_for(request.param, tiny_shards, folder, steps=120, lr=3e-3, **small))


def test_every_number_of_every_family_is_finite_foreseen_and_has_the_blind_control_beside_it(
    made, tiny_shards, tmp_path
):
    name, checkpoint = made
    report = measure(checkpoint, tiny_shards, "test", PLAN, tmp_path)
    assert report.count == tiny_shards.counts["test"]
    assert report.values
    assert all(math.isfinite(value) for value in report.values.values())
    assert set(report.values) <= measurable(FAMILIES[name])
    own = {value for value in report.values if "/" not in value}
    assert own
    assert {f"image_blind/{value}" for value in own} <= set(report.values)


def test_a_second_measurement_reads_the_kept_captions(made, tiny_shards, tmp_path):
    name, checkpoint = made
    if not issubclass(FAMILIES[name], Captions):
        pytest.skip("this family writes no captions")
    first = measure(checkpoint, tiny_shards, "test", PLAN, tmp_path)
    written = first.captions.path.stat().st_mtime_ns
    assert measure(checkpoint, tiny_shards, "test", PLAN, tmp_path).values == first.values
    assert first.captions.path.stat().st_mtime_ns == written


def test_a_trained_model_beats_itself_without_the_image(trained, tiny_shards, tmp_path):
    values = measure(trained, tiny_shards, "test", PLAN, tmp_path).values
    headline = "rouge_l" if "rouge_l" in values else "image_to_text_r1"
    assert values[headline] > values[f"image_blind/{headline}"] + 0.1
