"""What an experiment says of its teacher: told before any data is read, and pinned by digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.catalog import FAMILIES
from components.config import ConfigError
from components.records import Checkpoint
from components.table import UnknownName
from flows.experiment import ExperimentName, filled, read_experiment

STUDENTS = [name.value for name in ExperimentName if read_experiment(name.value).distill]

STUDENT = """
family: {family}
source: shapes_l0
model: {{preset: tiny, image_px: 32}}
training: {{steps: 4, batch_size: 16, warmup_steps: 0}}
distill: {distill}
gate: [{{metric: {metric}, at_least: 0.0}}]
"""


METRIC = {"clip": "image_to_text_r1", "virtex": "exact_match"}


@pytest.fixture
def read(tmp_path: Path):
    """`read(distill, family="clip")`: an experiment with that section."""

    def make(distill: str, family: str = "clip"):
        path = tmp_path / "student.yaml"
        path.write_text(STUDENT.format(family=family, distill=distill, metric=METRIC[family]))
        return read_experiment(str(path))

    return make


def test_every_family_teaches_or_is_taught_in_an_experiment() -> None:
    taught = {read_experiment(name).family for name in STUDENTS}
    teachers = {
        read_experiment(read_experiment(name).distill.teacher.name).family for name in STUDENTS
    }
    assert taught | teachers == set(FAMILIES)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_trains_no_longer_than_its_teacher(name: str) -> None:
    student = read_experiment(name)
    teacher = read_experiment(student.distill.teacher.name)
    assert teacher.source == student.source
    if hasattr(FAMILIES[teacher.family], "loss"):
        assert student.training.steps < teacher.training.steps


@pytest.mark.parametrize(
    ("distill", "family", "said"),
    [
        ("{terms: {affinity: 1}}", "clip", "names no teacher"),
        ("{teacher: 'stage:clip_tinny'}", "clip", 'Did you mean "clip_tiny"'),
        ("{teacher: 'hub:clip'}", "clip", "is none of stage:EXPERIMENT"),
        ("{teacher: 'version:clip_tiny'}", "clip", "names no version"),
        ("{teacher: 'stage:clip_tiny', terms: {afinity: 1}}", "clip", 'Did you mean "affinity"'),
        ("{teacher: 'stage:clip_tiny', terms: {affinity: -1}}", "clip", "a weight of 0 or above"),
        ("{teacher: 'stage:clip_tiny', terms: {seq: 1}, writing: {}}", "clip", "say how"),
        ("{teacher: 'stage:magic_tiny', terms: {token_kl: 1}}", "virtex", "teaches by the texts"),
        ("{teacher: 'stage:clip_tiny', texts: {key: a}}", "clip", "not said beforehand"),
        ("{teacher: 'stage:clip_tiny', task: 0}", "clip", "nothing to learn"),
        (
            "{teacher: 'stage:clip_tiny', terms: {seq: 1}, writing: {decoder: beam}}",
            "virtex",
            "writes no texts",
        ),
    ],
)
def test_a_mistake_is_told_by_name(read, distill: str, family: str, said: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=said):
        read(distill, family)


def test_another_teacher_is_another_run(read) -> None:
    asked = read("{teacher: 'stage:clip_tiny', terms: {affinity: 1}}")

    def made(digest: str, path: str):
        found = Checkpoint(
            path=Path(path), digest=digest, family="clip", step=1, seed=0, shards_digest=""
        )
        return filled(asked, lambda name: found)

    assert made("one", "/here").digest == made("one", "/there").digest
    assert made("one", "/here").digest != made("other", "/here").digest
    assert made("one", "/here").distill.teacher.path == "/here"


def test_a_version_is_asked_of_the_registry_and_without_one_says_so(read) -> None:
    asked = read("{teacher: 'version:clip_tiny/champion', terms: {affinity: 1}}")
    found = Checkpoint(path=Path("/v"), digest="d", family="clip", step=1, seed=0, shards_digest="")
    seen = []
    pinned = filled(asked, None, lambda *named: seen.append(named) or found)
    assert seen == [("clip_tiny", "champion")]
    assert pinned.distill.teacher.digest == "d"
    with pytest.raises(ConfigError, match="no registry here"):
        filled(asked, None)
