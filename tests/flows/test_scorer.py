"""What an experiment says about who scores its captions: read, refused and filled before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.config import ConfigError
from components.models.parts import Origin
from components.records import Checkpoint
from components.table import UnknownName
from flows.experiment import filled, read_experiment, run_key

RULE = "\ngate:\n  - {metric: cider_d, at_least: 1.0}\n"
GATE = "\ngate:\n  - {metric: clip_score, better_than: image_blind, by: 0.1}\n"


def virtex(folder: Path, scorer: str = "", gate: str = RULE) -> str:
    path = folder / "written.yaml"
    said = f", scorer: {scorer}" if scorer else ""
    path.write_text(
        "family: virtex\nsource: shapes_l0\nmodel: {preset: tiny, max_tokens: 16}\n"
        f"evaluation: {{max_tokens: 16{said}}}{gate}"
    )
    return str(path)


def test_a_scorer_is_read_and_a_gate_may_rest_on_it(tmp_path):
    experiment = read_experiment(virtex(tmp_path, "'stage:clip_tiny'", GATE))
    assert experiment.evaluation.scorer == Origin(kind="stage", name="clip_tiny")


def test_a_scorer_is_named_by_an_override_and_changes_no_run(tmp_path):
    path = virtex(tmp_path)
    bare = read_experiment(path)
    scored = read_experiment(path, ["evaluation.scorer=stage:clip_tiny"])
    assert scored.evaluation.scorer and not bare.evaluation.scorer
    assert run_key(scored, "data", 0) == run_key(bare, "data", 0)


def test_a_gate_on_a_score_nobody_gives_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="clip_score"):
        read_experiment(virtex(tmp_path, gate=GATE))


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        ("'stage:clip_tinny'", 'Did you mean "clip_tiny"'),
        ("'stage:virtex_tiny'", "does not embed images and texts"),
        ("'package:minilm'", "one of stage:EXPERIMENT, folder:PATH, hub:NAME"),
        ("random", "one of stage:EXPERIMENT, folder:PATH, hub:NAME"),
        ("clip_tiny", "is none of stage:EXPERIMENT"),
    ],
)
def test_a_scorer_that_cannot_score_is_refused_before_data_is_read(tmp_path, scorer, says):
    with pytest.raises((ConfigError, UnknownName), match=says):
        read_experiment(virtex(tmp_path, scorer))


def test_a_family_that_writes_nothing_has_no_scorer():
    with pytest.raises(ConfigError, match="clip writes no captions"):
        read_experiment("clip_tiny", ["evaluation.scorer=stage:clip_tiny"])


def test_a_stage_that_scores_is_filled_in_and_names_no_run(tmp_path):
    experiment = read_experiment(virtex(tmp_path, "'stage:clip_tiny'"))
    made = Checkpoint(
        path=Path("there"), digest="d" * 64, family="clip", step=1, seed=0, shards_digest="s"
    )
    asked: list[str] = []
    whole = filled(experiment, lambda name: asked.append(name) or made)
    assert asked == ["clip_tiny"]
    assert whole.evaluation.scorer == Origin(
        kind="stage", name="clip_tiny", digest="d" * 64, path="there"
    )
    assert run_key(whole, "data", 0) == run_key(experiment, "data", 0)
