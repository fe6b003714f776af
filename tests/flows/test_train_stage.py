"""A stage made alone: trained once, found again by its digest, and offered as a form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.training.checkpoints.checkpoint import latest, load_model
from flows.experiment import ExperimentName, Launcher
from flows.train_stage import train_stage
from infra.settings import Settings

ROOT = Path(__file__).parents[2]
STAGE = """
family: lm
source: shapes_l0
model: {preset: tiny, width: 32, layers: 1, heads: 2}
training: {steps: 4, batch_size: 16, warmup_steps: 0, vocab_size: 300}
"""


def test_the_form_offers_every_experiment_and_launcher_and_is_deployed() -> None:
    offered = train_stage.parameters.model_dump()
    assert set(offered["properties"]) == {"experiment", "launcher"}
    named = {name: about["enum"] for name, about in offered["definitions"].items()}
    assert named["ExperimentName"] == [name.value for name in ExperimentName]
    assert named["Launcher"] == [name.value for name in Launcher]
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (mine,) = [each for each in deployed if each["name"] == train_stage.name]
    assert mine["entrypoint"] == "flows/train_stage.py:train_stage"


@pytest.mark.stack
def test_a_stage_is_trained_once_and_found_again_by_the_same_digest(home, tmp_path) -> None:
    (tmp_path / "words.yaml").write_text(STAGE)
    first, again = (_made(home, tmp_path / "words.yaml") for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    (run,) = home.runs.glob("words-*")
    checkpoint = latest(run / "checkpoints")
    digests = [done.stdout.split()[-1] for done in (first, again)]
    assert digests == [checkpoint.digest] * 2
    assert (checkpoint.family, checkpoint.step) == ("lm", 4)
    model, tokenizer, _ = load_model(checkpoint.path)
    assert model.vocab_size == tokenizer.vocab_size
    assert "is known" not in first.stdout + first.stderr
    assert "is known" in again.stdout + again.stderr


def _made(settings: Settings, stage: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tests/flows/stage.py", str(stage), "inline"],
        cwd=ROOT,
        env=settings.inherited,
        capture_output=True,
        text=True,
        check=False,
    )
