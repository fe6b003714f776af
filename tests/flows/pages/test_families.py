"""The families' page: each seed measured once, counted from the model that was measured, and kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from components.training.checkpoints import tensors
from components.training.checkpoints.checkpoint import load_model
from flows.pages.families import Result, made, page
from flows.pages.seeded_runs import job_of, whole

EXPERIMENT = """
family: frozen
source: shapes_l0
model: {preset: tiny, image_px: 32, vision_widths: [8, 16]}
parts: {lm: random}
training: {steps: 2, batch_size: 8, warmup_steps: 0, vocab_size: 300}
evaluation: {decoder: greedy, max_tokens: 5, shots: [1], trials: 1, episodes: 2, questions: 2}
gate: [{metric: exact_match, at_least: 0.0}, {metric: cider_d, at_least: 0.0}]
"""


@pytest.fixture
def home(checkout, tmp_path):
    """A checkout in which an experiment of a shipped name is two steps long."""
    (tmp_path / "frozen_tiny.yaml").write_text(EXPERIMENT)
    return checkout


def test_a_seed_is_loaded_once_to_be_measured_and_counted_and_then_read(home, monkeypatch) -> None:
    read, original = [], tensors.read_weights

    def reading(file, model):
        read.append(file)
        original(file, model)

    monkeypatch.setattr(tensors, "read_weights", reading)
    found = made("frozen_tiny", 1)
    # Its own weights and its part's, each once.
    assert len(read) == len(set(read)) == 2
    assert made("frozen_tiny", 1) == found
    assert len(read) == 2

    job = job_of(whole("frozen_tiny"), 1)
    model, _, _ = load_model(job.final)
    learns = [each.numel() for each in model.parameters() if each.requires_grad]
    assert found.trained == sum(learns) > 0
    assert len(learns) < len(list(model.parameters()))  # the language model stays as it is
    assert (found.seed, found.metrics, found.training) == (1, ("exact_match", "cider_d"), "2 × 8")
    held = json.loads((home.home / "families" / "frozen_tiny-1.json").read_text())
    assert held["values"] == found.values


def _result(seed: int, value: float, **values: float) -> Result:
    return Result(
        experiment="clip_tiny", family="clip", source="shapes_l0", split="test", seed=seed,
        metrics=("image_to_text_r1",), values={"image_to_text_r1": value, **values}, count=50,
        trained=1_240_000, training="400 × 64", cpu_s=10.0 * (seed + 1),
    )  # fmt: skip


def test_a_row_is_the_mean_over_seeds_with_its_gap_to_the_blind() -> None:
    blind = {"image_blind/image_to_text_r1": 0.1, "chance/image_to_text_r1": 0.02}
    *_, row = page([_result(0, 0.5, **blind), _result(1, 0.7, **blind)]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "`clip_tiny`", "clip", "shapes_l0, test (50)", "2", "1.24 M", "400 × 64", "15",
        "image_to_text_r1", "**0.600 ± 0.100**", "0.100", "+0.500", "chance 0.020",
    ]  # fmt: skip


def test_a_number_that_was_not_measured_is_na_and_never_0() -> None:
    built = replace(_result(0, 0.5), trained=0, training="", cpu_s=0.0)
    *_, row = page([built]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[4:7] == ["nothing", "n/a", "n/a"]
    assert cells[8:] == ["**0.500**", "n/a", "n/a", "n/a"]
