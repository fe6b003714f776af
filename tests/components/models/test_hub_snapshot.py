"""A model of the Hub is its folder in the Hub's own cache; offline it is fetched from nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from components.config import ConfigError
from components.models.hub_snapshot import repository, snapshot

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    assert constants.HF_HUB_OFFLINE  # as tests/conftest.py and our services have it
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_cached_model_is_found_by_its_name(cache: Path) -> None:
    model, commit = cache / "models--made--small-lm", "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    folder = model / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert snapshot("made/small-lm") == folder


def test_a_commit_is_that_commit_whatever_the_main_branch_became(cache: Path) -> None:
    model, newest = cache / "models--made--small-lm", "f" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(newest)
    for commit in (COMMIT, newest):
        (model / "snapshots" / commit).mkdir(parents=True)
        (model / "snapshots" / commit / "config.json").write_text("{}")
    assert snapshot(f"made/small-lm@{COMMIT}") == model / "snapshots" / COMMIT
    assert snapshot("made/small-lm") == model / "snapshots" / newest
    with pytest.raises(ConfigError, match=f"hf download made/small-lm --revision {'e' * 40}"):
        snapshot(f"made/small-lm@{'e' * 40}")


@pytest.mark.parametrize("revision", ["main", "", COMMIT[:7], COMMIT.upper(), f"{COMMIT}/.."])
def test_a_revision_that_could_move_or_lead_elsewhere_is_refused(revision: str) -> None:
    with pytest.raises(ConfigError, match="40 hex digits"):
        repository(f"made/small-lm@{revision}")


@pytest.mark.parametrize("name", ["made/unknown", "../../etc", "a b"])
def test_any_other_name_is_refused_with_what_to_do(cache: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="or name a local folder of it"):
        snapshot(name)
