"""What `dvc repro` runs takes its parameters from params.yaml, and dvc.lock belongs to this checkout's code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from components.catalog import SOURCES
from components.config import ConfigError
from components.data.sources.counted import Counted
from components.table import UnknownName
from flows.sources import prepare_source

ROOT = Path(__file__).parents[2]


def test_a_parameter_decides_what_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("shapes_l0: {scenes: 12}\n")
    assert sum(prepare_source("shapes_l0", tmp_path / "made").counts.values()) == 12


def test_what_a_source_left_out_stands_beside_its_shards(tmp_path, monkeypatch):
    sample = next(SOURCES["shapes_l0"]())
    counted = Counted(iter([sample]), {"files": 3, "kept": 1})
    monkeypatch.setattr("flows.sources.SOURCES", {"clips": lambda: counted})
    shards = prepare_source("clips", tmp_path / "clips")
    assert sum(shards.counts.values()) == 1
    assert json.loads((tmp_path / "clips.counts.json").read_text()) == {"files": 3, "kept": 1}


@pytest.mark.parametrize("wrong", ["{scenez: 12}", "{scenes: many}", "{scenes: 0}"])
def test_a_parameter_the_source_does_not_take_is_refused(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(f"shapes_l0: {wrong}\n")
    with pytest.raises(ConfigError, match="scenes"):
        prepare_source("shapes_l0", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_an_unknown_source_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UnknownName, match='Did you mean "emoji_mini"'):
        prepare_source("emoji_mni", tmp_path / "made")


def _locked():
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    return [(name, each) for name, stage in stages.items() for each in stage["deps"]]


@pytest.mark.parametrize(("stage", "dependency"), _locked(), ids=lambda each: str(each)[:60])
def test_the_lock_was_made_by_this_code(stage, dependency):
    found = hashlib.md5((ROOT / dependency["path"]).read_bytes()).hexdigest()
    assert found == dependency["md5"], f"run `dvc repro {stage}` and commit dvc.lock"


def test_the_lock_was_made_with_these_parameters():
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in stages.items():
        assert stage["params"]["params.yaml"] == {name: params[name]}
