"""Every shipped experiment reads; what cannot work is refused before anything starts, with what would."""

from __future__ import annotations

import pytest

from components.catalog import STAGES
from components.config import ConfigError
from components.table import UnknownName
from flows.experiment import (
    FOLDER,
    ExperimentName,
    is_run_key,
    located,
    read_experiment,
    run_key,
)

GOOD = """
family: virtex
source: shapes_l0
model: {preset: tiny}
training: {steps: 30, batch_size: 8}
gate:
  - {metric: exact_match, at_least: 0.5}
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", [each.value for each in ExperimentName])
def test_each_shipped_experiment_reads(name):
    experiment = read_experiment(name)
    assert experiment.name == name
    assert bool(experiment.gate) == (experiment.family not in STAGES)


def test_every_file_of_the_folder_is_in_the_dropdown():
    assert {each.value for each in ExperimentName} == {path.stem for path in FOLDER.glob("*.yaml")}


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        (("family: virtex", "family: virtx"), "virtex"),
        (("source: shapes_l0", "source: shape_l0"), "shapes_l0"),
        (("training: {", "trainng: {"), "training"),
        (("steps: 30", "step: 30"), "steps"),
        (("{preset: tiny}", "{preset: tiny, visoin: conv}"), "vision"),
        (("at_least: 0.5", "at_leats: 0.5"), "at_least"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(written, change, nearest):
    with pytest.raises(UnknownName, match=f'Did you mean "{nearest}"'):
        read_experiment(written(GOOD.replace(*change)))


def test_an_unknown_experiment_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match='Did you mean "virtex_emoji_mini"'):
        read_experiment("virtex_emoji_mni")


def test_a_gate_on_a_metric_the_family_cannot_have_is_refused(written):
    with pytest.raises(ConfigError, match="text_to_image_r1"):
        read_experiment(written(GOOD.replace("exact_match", "text_to_image_r1")))


def test_a_gate_without_rules_is_refused(written):
    with pytest.raises(ConfigError, match="no rules"):
        read_experiment(written(GOOD.partition("gate:")[0]))


@pytest.mark.parametrize(
    "change",
    [
        ("steps: 30", "steps: -1"),
        ("steps: 30", "steps: many"),
        ("steps: 30", "steps: 30, lr: .nan"),
        ("preset: tiny", "preset: enormous"),
    ],
)
def test_a_value_that_cannot_work_is_refused(written, change):
    with pytest.raises(ConfigError):
        read_experiment(written(GOOD.replace(*change)))


@pytest.mark.parametrize("text", ["- a list", "family: [", "!!python/object/apply:os.system [ls]"])
def test_what_is_no_mapping_is_refused(written, text):
    with pytest.raises(ConfigError):
        read_experiment(written(text))


def test_an_override_changes_the_setting_and_the_digest(written):
    path = written(GOOD)
    changed = read_experiment(path, ["training.lr=1e-4", "model.vision=conv"])
    assert changed.training.lr == 1e-4
    assert changed.digest != read_experiment(path).digest


def test_an_override_of_where_it_runs_leaves_the_digest(written):
    path = written(GOOD)
    changed = read_experiment(path, ["training.workers=2", "training.report_every=1"])
    assert changed.training.workers == 2
    assert changed.digest == read_experiment(path).digest


@pytest.mark.parametrize("override", ["training.lr", "lr=1", "gate.metric=1", "trainin.lr=1"])
def test_an_override_that_names_no_setting_is_refused(written, override):
    with pytest.raises((ConfigError, UnknownName)):
        read_experiment(written(GOOD), [override])


def test_an_experiment_is_one_however_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER)
    whole, here = str(FOLDER / "clip_emoji_mini.yaml"), "./clip_emoji_mini.yaml"
    asked = [read_experiment(name).file for name in ("clip_emoji_mini", here, whole)]
    assert asked == ["clip_emoji_mini"] * 3
    copy = tmp_path / "clip_emoji_mini.yaml"
    copy.write_text((FOLDER / copy.name).read_text())
    (tmp_path / "other.yaml").symlink_to(copy)
    (tmp_path / "linked").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = ("clip_emoji_mini.yaml", "linked/clip_emoji_mini.yaml", str(copy))
    assert {read_experiment(name).file for name in names} == {str(copy.resolve())}
    assert located("other.yaml") == str(tmp_path.resolve() / "other.yaml"), "its runs are other's"


def test_a_run_is_named_by_settings_data_and_attempt(written):
    one = read_experiment(written(GOOD))
    other = read_experiment(written(GOOD), ["training.seed=1"])
    keys = {
        run_key(one, "data", 0),
        run_key(one, "data", 1),
        run_key(one, "other data", 0),
        run_key(other, "data", 0),
    }
    assert len(keys) == 4
    assert run_key(one, "data", 0) in keys
    assert all(map(is_run_key, keys))


@pytest.mark.parametrize(
    "text", ["", "home", "step-00000400", "my-models", "x-0123456789AB", "../a-0123456789ab"]
)
def test_a_folder_of_another_name_is_no_runs(text):
    assert not is_run_key(text)


@pytest.mark.parametrize(("name", "decoder"), [("magic_tiny", "greedy"), ("virtex_tiny", "magic")])
def test_a_family_that_steers_and_the_decoder_magic_need_each_other(name, decoder):
    with pytest.raises(ConfigError, match=f"evaluation.decoder is {decoder}"):
        read_experiment(
            name,
            [
                f"evaluation.decoder={decoder}",
                "evaluation.top_k=null",
                "evaluation.alpha=null",
                "evaluation.beta=null",
                "evaluation.beams=null",
            ],
        )
