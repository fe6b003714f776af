"""Damaged data, models, servers and settings against real Prefect and MLflow: a named error, and nothing half-done.

Everything runs in a copy of the checkout, whose shards, cache and sources may be damaged.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.ports import free_ports
from infra.settings import Settings

ROOT = Path(__file__).parents[2]
NIGHT = ROOT / "tests" / "flows" / "night.py"
pytestmark = [pytest.mark.stack, pytest.mark.faults]

EXPERIMENT = """
family: virtex
source: shapes_l0
model: {preset: tiny, vision: conv, image_px: 32, vision_widths: [16, 32], max_tokens: 16}
training: {steps: 20, batch_size: 16, lr: 2.0e-3, warmup_steps: 5, checkpoint_every: 10, report_every: 10}
evaluation: {decoder: greedy, max_tokens: 16}
gate: [{metric: rouge_l, at_least: 0.0}]
"""


@dataclass(frozen=True)
class Place:
    """A checkout of the tests' own; the servers are those of the other files too."""

    checkout: Path
    settings: Settings

    @property
    def tar(self):
        return self.checkout / "data" / "shards" / "shapes_l0" / "train-00000.tar"

    def run(self, *words, **variables):
        environ = {**self.settings.inherited, "PYTHONPATH": str(self.checkout), **variables}
        return subprocess.run(
            [sys.executable, *words],
            check=False,
            cwd=self.checkout,
            env=environ,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def night(self, *flags, **variables):
        return self.run(str(NIGHT), "flows/experiments/quick.yaml", "inline", *flags, **variables)

    def diptych(self, *words):
        return self.run("-m", "flows.cli", *words)

    def runs(self):
        return sorted(path.name for path in self.settings.runs.iterdir())


@pytest.fixture(scope="module")
def place(tmp_path_factory, home):
    checkout = tmp_path_factory.mktemp("bad") / "checkout"
    for name in ("flows", "components", "registry", "infra"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", checkout)
    (checkout / "params.yaml").write_text("shapes_l0: {scenes: 500}\nshapes_l1: {scenes: 500}\n")
    (checkout / "flows" / "experiments" / "quick.yaml").write_text(EXPERIMENT)
    (checkout / ".dvc").mkdir()
    (checkout / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return Place(checkout, home)


@pytest.fixture(scope="module")
def champion(place):
    """Version 1 of `quick`, promoted: what every mishap below has to leave as it is."""
    done = place.night()
    assert done.returncode == 0, done.stdout + done.stderr
    return doors(place)


@pytest.fixture
def unharmed(place, champion):
    """The champion and its move are the same after the test."""
    ledger, _, versions = champion
    before = (ledger.champion("quick"), ledger.moves("quick"), versions.alias("quick"))
    yield
    assert (ledger.champion("quick"), ledger.moves("quick"), versions.alias("quick")) == before


def doors(place):
    from registry.ledger.store import Ledger
    from registry.tracking import Tracking
    from registry.versions import Versions

    url = place.settings.mlflow_url
    return Ledger(place.settings.ledger_url).migrate(), Tracking(url, "diptych"), Versions(url)


def assert_refused(done, *said):
    assert done.returncode == 2, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    for word in said:
        assert word in done.stderr, done.stderr
    assert "Retry" not in done.stdout + done.stderr, "what cannot pass was tried again"


# What a night does first, without the servers.
FETCH = """
from pathlib import Path
from components.data.revision import fetch
from flows.terminal import command
with command(False):
    fetch("shapes_l0", Path())
"""


def flip(path, at):
    """Change one bit and leave size and time as they were, as a dying disk would."""
    found, mode = path.stat(), path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    path.chmod(mode)


def prefect(place, path, body):
    from infra.http_json import ask_prefect

    return ask_prefect(place.settings, path, body)[1]


def last_night(place):
    nights = {"name": {"any_": ["nightly-retrain"]}}
    found = {"flows": nights, "sort": "START_TIME_DESC", "limit": 1}
    (last,) = prefect(place, "/flow_runs/filter", found)
    return last


def test_a_bit_flipped_in_a_shard_ends_the_night_before_training_and_the_advice_mends_it(
    place, unharmed
):
    before = place.runs()
    flip(place.tar, 600)
    done = place.night("force")
    assert_refused(done, "train-00000.tar", "sha256")
    assert place.runs() == before
    (advice,) = set(re.findall(r"`diptych (prepare [^`]+)`", done.stderr))
    assert place.diptych(*advice.split()).returncode == 0
    from components.data.shards import open_shards, verify_shards

    verify_shards(open_shards(place.tar.parent))


def test_a_damaged_row_is_told_and_dvc_puts_it_right_once_it_looks(place, unharmed):
    manifest = place.tar.parent / "manifest.jsonl"
    content = manifest.read_bytes()
    assert place.run("-c", FETCH).returncode == 0  # DVC takes note of size and time
    flip(manifest, content.index(b'"captions"') + 3)
    assert_refused(place.run("-c", FETCH), "manifest.jsonl", "diptych prepare")
    os.utime(manifest)
    assert place.run("-c", FETCH).returncode == 0
    assert manifest.read_bytes() == content


def test_damage_in_dvcs_own_cache_is_not_trained_on(place, unharmed):
    stored = cached(place, place.tar)
    flip(stored, 600)
    shutil.rmtree(place.tar.parent)
    assert_refused(place.run("-c", FETCH), "train-00000.tar", "diptych prepare")
    flip(stored, 600)
    assert place.diptych("prepare", "shapes_l0").returncode == 0


def test_an_unreadable_image_and_a_leak_end_the_night_with_the_reasons_on_both_pages(
    place, unharmed
):
    source = place.checkout / "components" / "data" / "sources" / "shapes.py"
    good, before = source.read_text(), place.runs()
    source.write_text(good + SPOILT)
    try:
        done = place.night("force")
    finally:
        source.write_text(good)
    assert_refused(done, "image_readable", "no_pixel_leak", "expectations-", "mend the source")
    assert place.runs() == before
    (page,) = set(re.findall(r"page (\S+\.html)", done.stderr))
    assert "l0-000003" in Path(page).read_text()
    artifacts = prefect(place, "/artifacts/filter", {"sort": "CREATED_DESC", "limit": 20})
    told = next(each for each in artifacts if each["key"] == "expectations-shapes-l0")
    assert "refused" in told["data"]
    assert "image_readable" in told["data"]
    assert "l0-000003" in told["data"]
    assert last_night(place)["state"]["type"] == "FAILED"


SPOILT = """

def shapes_l0(scenes: int = 0) -> Iterator[Sample]:
    from dataclasses import replace

    made = [scene(index, 0) for index in range(scenes)]
    made[3] = replace(made[3], image=made[3].image[:60])
    train = next(each for each in made[4:] if each.split == "train")
    leak = next(index for index, each in enumerate(made) if each.split == "test")
    made[leak] = replace(made[leak], image=train.image)
    return iter(made)
"""


def test_a_stage_whose_input_is_gone_is_told_with_what_brings_it_back(place, unharmed):
    shape = place.checkout / "components" / "data" / "sources" / "svg.py"
    shape.rename(shape.with_suffix(".away"))
    try:
        done = place.run("-c", FETCH)
    finally:
        shape.with_suffix(".away").rename(shape)
    assert_refused(done, "svg.py", "git checkout -- ")


def test_a_loss_that_explodes_fails_by_name_everywhere(place, champion, unharmed):
    _, tracking, _ = champion
    bad = ("training.lr=1e9", "training.warmup_steps=0", "training.clip_norm=0")
    done = place.night(*bad)
    assert_refused(done, "not finite", "loss=nan", "lower lr")
    runs = tracking._client.search_runs([tracking.experiment_id])
    mine = [run for run in runs if run.data.tags.get("diptych.experiment") == "quick"]
    nights = {run.data.tags["mlflow.parentRunId"] for run in mine}
    ended = {run.info.status for run in runs if run in mine or run.info.run_id in nights}
    assert ended == {"FAILED", "FINISHED"}
    assert last_night(place)["state"]["type"] == "FAILED"


def test_after_that_a_good_rate_trains_and_a_damaged_checkpoint_costs_it_one_interval(
    place, champion
):
    ledger, _, versions = champion
    killed = place.night("force", "training.seed=7", DIPTYCH_FAIL="trained")
    assert killed.returncode < 0, killed.stderr
    run = max(place.settings.runs.iterdir(), key=lambda path: path.stat().st_mtime)
    flip(run / "checkpoints" / "step-00000020" / "weights.safetensors", 5000)
    done = place.night("force", "training.seed=7")
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (run / "progress.jsonl").read_text().splitlines()]
    assert steps == [10, 20]
    assert ledger.run(run.name).checkpoint_digest
    assert versions.alias("quick") == 2


def test_a_champion_whose_files_were_altered_is_not_measured_and_stays_for_a_rollback(
    place, champion
):
    ledger, _, versions = champion
    number = ledger.champion("quick").number
    shutil.rmtree(place.settings.home / "versions", ignore_errors=True)
    (weights,) = (
        path
        for path in place.settings.artifacts.rglob("weights.safetensors")
        if version_of(versions, "quick", number) in str(path)
    )
    flip(weights, 5000)
    done = place.diptych("evaluate", "quick")
    assert_refused(done, "weights.safetensors", "damaged", "rollback")
    done = place.diptych("rollback", "quick", "--reason", "its files are damaged")
    assert done.returncode == 0, done.stderr
    assert versions.alias("quick") < number


def version_of(versions, model, number):
    return re.search(r"m-\w+", versions._client.get_model_version(model, str(number)).source)[0]


def cached(place, path):
    import hashlib

    digest = hashlib.md5(path.read_bytes()).hexdigest()
    return place.checkout / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


@pytest.mark.parametrize(
    ("variable", "who", "command"),
    [
        ("DIPTYCH_PREFECT_PORT", "http://127.0.0.1:{}/api", "diptych up"),
        ("DIPTYCH_MLFLOW_PORT", "MLflow does not answer at http://127.0.0.1:{}", "diptych up"),
    ],
)
def test_a_server_out_of_reach_is_told_by_address_and_command(
    place, unharmed, variable, who, command
):
    (port,) = free_ports(1)
    done = place.night(**{variable: str(port)})
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert who.format(port) in done.stderr
    assert command in done.stderr


def test_a_version_nobody_made_is_told_before_anything_moves(place, unharmed):
    assert_refused(place.diptych("promote", "quick", "99"), "no version 99", "diptych ledger")
