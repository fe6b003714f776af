"""What a sweep may search is checked when it is read; a mistake is told with what would work."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from components.config import ConfigError
from components.models.clip import ClipConfig
from components.table import UnknownName
from components.training.plan import TrainingPlan
from components.training.sweeps.search import Search, applied, check_space

LR = {"training.lr": {"log": [1e-4, 1e-2]}}
KNOWN = {
    "model": [each.name for each in fields(ClipConfig)],
    "training": [each.name for each in fields(TrainingPlan)],
}


def test_whether_more_is_better_follows_from_the_metric():
    assert Search(metric="cider_d", space=LR).higher_is_better
    assert not Search(metric="loss", space=LR).higher_is_better
    assert not Search(metric="few_shot_cider_d_k1_std", space=LR).higher_is_better


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"metric": "cider_dd"}, UnknownName, 'Did you mean "cider_d"'),
        ({"trials": 0}, ConfigError, "trials=0 cannot work; a whole number from 1"),
        ({"at_once": 0}, ConfigError, "at_once=0"),
        ({"space": {}}, ConfigError, "names no setting"),
        ({"space": {"training.lr": {"logg": [1, 2]}}}, UnknownName, 'Did you mean "log"'),
        ({"space": {"training.lr": {"log": [1, 2], "choice": [1]}}}, ConfigError, "takes one of"),
        ({"space": {"training.lr": {"log": [0.0, 1.0]}}}, ConfigError, "above 0"),
        ({"space": {"training.lr": {"uniform": [1.0, 0.5]}}}, ConfigError, "two numbers"),
        ({"space": {"training.lr": {"uniform": [0.1, float("nan")]}}}, ConfigError, "two numbers"),
        ({"space": {"model.heads": {"int": [1.5, 4]}}}, ConfigError, "two whole numbers"),
        ({"space": {"model.heads": {"choice": []}}}, ConfigError, "as \\[64, 128\\]"),
        ({"space": {"model.heads": {"choice": [2, 2]}}}, ConfigError, "choice is \\[2, 2\\]"),
        ({"space": {"model.heads": {"choice": [[1, 2]]}}}, ConfigError, "choice"),
    ],
)
def test_a_search_that_cannot_work_is_refused_with_what_would(changes, error, said):
    with pytest.raises(error, match=said):
        Search(**{"metric": "loss", "space": LR, **changes})


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("trainng.lr", UnknownName, 'Did you mean "training"'),
        ("training.lrr", UnknownName, 'Did you mean "lr"'),
        ("gate.metric", UnknownName, "changes model and training"),
        ("training.workers", ConfigError, "nothing to search"),
        # Trials longer than the experiment's own steps were trained, and thrown away as stopped.
        ("training.steps", ConfigError, "Set training.steps for all of them"),
    ],
)
def test_a_setting_that_cannot_be_searched_is_refused(name, error, said):
    search = Search(metric="loss", space={name: {"choice": [1, 2]}})
    with pytest.raises(error, match=said):
        check_space(search, KNOWN)


def test_settings_change_what_they_name_and_nothing_else():
    plan = TrainingPlan(steps=30, warmup_steps=2)
    config, changed = applied({"training.lr": 0.01, "model.embed_width": 8}, {"image_px": 32}, plan)
    assert config == {"image_px": 32, "embed_width": 8}
    assert changed == replace(plan, lr=0.01)


def test_a_search_is_the_same_after_json():
    search = Search(metric="loss", space={**LR, "model.embed_width": {"choice": (8, 16)}}, trials=3)
    assert Search(**search.to_dict()).to_dict() == search.to_dict()
