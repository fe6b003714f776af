"""What an experiment says of its teacher: told before any data is read, and pinned by digest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from components.catalog import FAMILIES
from components.config import ConfigError
from components.models.parts import Origin as Named
from components.records import Checkpoint, Report
from components.table import UnknownName
from components.training.checkpoints.checkpoint import CheckpointDamaged, Origin, load_part, save
from flows import decisions, stages
from flows.experiment import ExperimentName, filled, read_experiment
from flows.services import Services
from infra.settings import Settings
from registry import promotion
from registry.gates import Rule, judge
from registry.ledger.store import Ledger
from registry.tracking import Tracking
from registry.versions import VersionMissing, Versions

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


BIG = "clip_tiny"


@pytest.fixture
def doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build_tiny, tiny_tokenizer) -> Services:
    """Ledger and MLflow's registry in files of a home, where two versions of a teacher are registered and none is champion."""
    settings = Settings.read({**os.environ, "DIPTYCH_HOME": str(tmp_path / "home")})
    settings.prepare()
    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db", "diptych", tmp_path / "artifacts")
    ledger, versions = Ledger(settings.ledger_url).migrate(), Versions(tracking.uri)
    for number in (1, 2):
        key = f"{BIG}-{number}"
        model = build_tiny("clip", seed=number, image_px=32, vision_widths=[8], text_layers=1)
        made = save(
            settings.runs / key / "checkpoints",
            model,
            tokenizer=tiny_tokenizer,
            origin=Origin(
                family="clip", config=model.config.to_dict(), seed=number, shards_digest=""
            ),
            step=2,
        )
        run_id = tracking.open_run(key, BIG)
        ledger.record_run(
            key, experiment=BIG, experiment_digest="e", family="clip", shards_digest="s",
            seed=number, attempt=number, checkpoint_digest=made.digest, mlflow_run_id=run_id,
        )  # fmt: skip
        assert versions.register(run_id, BIG, made, key=key, example=b"") == number
        ledger.record_version(BIG, number, key, made.digest)
        shutil.rmtree(settings.runs / key)  # its run's folder was cleared since
    found = Services(settings=settings, ledger=ledger, tracking=tracking, versions=versions)
    monkeypatch.setattr(decisions, "services", lambda: found)
    # The function that the task runs, without Prefect around it.
    monkeypatch.setattr(stages, "fetch_version", decisions.fetch_version.fn)
    return found


def _make_champion(doors: Services, number: int, score: float) -> None:
    def report(version: int, value: float) -> Report:
        entry = doors.ledger.version(BIG, version)
        return Report(
            checkpoint_digest=entry.checkpoint_digest, shards_digest="s", split="test", count=1,
            values={"image_to_text_r1": value},
        )  # fmt: skip

    champion = doors.ledger.champion(BIG)
    verdict = judge(
        report(number, score),
        champion and report(champion.number, score),
        [Rule(metric="image_to_text_r1", at_least=0.5)],
    )
    entry = doors.ledger.record_verdict(f"{BIG}-{number}", verdict)
    promotion.promote(
        doors.ledger, doors.versions, model=BIG, number=number, verdict=entry, by="test"
    )


def test_a_version_that_teaches_is_fetched_from_the_registry_and_pinned_by_its_digest(
    read, doors: Services
) -> None:
    digests = {number: doors.ledger.version(BIG, number).checkpoint_digest for number in (1, 2)}
    assert digests[1] != digests[2]

    def asked(number: str):
        text = f"{{teacher: 'version:{BIG}/{number}', terms: {{affinity: 1}}}}"
        return filled(read(text), None, stages._version)

    with pytest.raises(VersionMissing, match=f"no champion of {BIG}"):
        asked("champion")
    with pytest.raises(VersionMissing, match=f"no version 3 of {BIG}"):
        asked("3")
    first, second = asked("1"), asked("2")
    for number, experiment in ((1, first), (2, second)):
        teacher = experiment.distill.teacher
        assert teacher.digest == digests[number]
        assert Path(teacher.path).is_relative_to(doors.settings.home / "versions")
        part = load_part(Path(teacher.path), teacher)
        assert part.module.config.image_px == 32
        assert part.origin == Named(
            kind="version", name=f"{BIG}/{number}", digest=teacher.digest, path=teacher.path
        )
    assert first.digest != second.digest, "another version is another run"

    _make_champion(doors, 1, 0.6)
    named = asked("champion").distill.teacher
    assert named.digest == digests[1]
    _make_champion(doors, 2, 0.7)
    assert asked("champion").distill.teacher.digest == digests[2]
    # Who began with the one before goes on with it, or not at all.
    load_part(Path(named.path), named)
    shutil.rmtree(named.path)
    shutil.copytree(second.distill.teacher.path, named.path)
    with pytest.raises(CheckpointDamaged, match="asked for is"):
        load_part(Path(named.path), named)
    assert asked("1").distill.teacher == first.distill.teacher, "fetched anew"
    load_part(Path(named.path), named)
