"""What is measured follows from abilities; a report holds just what a gate may ask for, and captions are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.catalog import FAMILIES
from components.evaluation.measure import measurable, measure
from components.evaluation.plan import EvaluationPlan
from components.training.job import TrainingJob, run_job
from components.training.plan import TrainingPlan


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def trained(request, tiny_shards, tmp_path_factory):
    family = FAMILIES[request.param]
    job = TrainingJob(
        family=request.param,
        config=replace(family.Config.tiny(), image_px=32, vision_widths=(16, 32)).to_dict(),
        plan=TrainingPlan(steps=60, batch_size=28, lr=3e-3, warmup_steps=5, vocab_size=320),
        shards=tiny_shards.path,
        folder=tmp_path_factory.mktemp(request.param),
    )
    return family, run_job(job)


def test_a_report_holds_just_what_a_gate_may_ask_for(trained, tiny_shards, tmp_path):
    family, checkpoint = trained
    report = measure(checkpoint, tiny_shards, "test", EvaluationPlan(max_tokens=12), tmp_path)
    assert set(report.values) == measurable(family)
    assert report.count == tiny_shards.counts["test"]


def test_a_trained_model_beats_itself_without_the_image(trained, tiny_shards, tmp_path):
    _, checkpoint = trained
    values = measure(
        checkpoint, tiny_shards, "test", EvaluationPlan(max_tokens=12), tmp_path
    ).values
    headline = "rouge_l" if "rouge_l" in values else "image_to_text_r1"
    assert values[headline] > values[f"image_blind/{headline}"] + 0.1


def test_a_second_measurement_reads_the_kept_captions(trained, tiny_shards, tmp_path):
    _, checkpoint = trained
    plan = EvaluationPlan(max_tokens=12)
    first = measure(checkpoint, tiny_shards, "test", plan, tmp_path)
    if first.captions is None:
        pytest.skip("this family writes no captions")
    written = first.captions.path.stat().st_mtime_ns
    assert measure(checkpoint, tiny_shards, "test", plan, tmp_path).values == first.values
    assert first.captions.path.stat().st_mtime_ns == written
