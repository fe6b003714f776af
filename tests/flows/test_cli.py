"""The command line without servers: mistakes are told in words before anything starts, exit codes mean what they say."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import psutil
import pytest
from typer.testing import CliRunner

from components.catalog import FAMILIES
from flows.cli import app
from infra import stack_state
from infra.settings import PORT_VARIABLES, Settings
from registry.ledger.store import Ledger

QUICK = "clip_tiny"


@pytest.fixture
def home(tmp_path, free):
    before = os.environ.copy()  # a command makes the process's environment its own
    os.environ.update({"DIPTYCH_HOME": str(tmp_path / "home"), **free})
    yield tmp_path / "home"
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def free():
    from infra.ports import free_ports

    ports = map(str, free_ports(len(PORT_VARIABLES)))
    return dict(zip(PORT_VARIABLES.values(), ports, strict=True))


def diptych(*words):
    return CliRunner().invoke(app, list(words))


def assert_refused(result, *said):
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert len(result.stderr) < 1500, "a wall of text is no help"
    for word in said:
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "clip_emoji_mni"], ['Did you mean "clip_emoji_mini"', "flows/experiments"]),
        (["retrain", QUICK, "clip_emoji_mni"], ['Did you mean "clip_emoji_mini"']),
        (["evaluate", "clip_emoji_mni"], ['Did you mean "clip_emoji_mini"']),
        (["promote", "clip_emoji_mni", "1"], ['Did you mean "clip_emoji_mini"']),
        (["rollback", "clip_emoji_mni", "--reason", "x"], ['Did you mean "clip_emoji_mini"']),
        (["prepare", "shape_l0"], ['Did you mean "shapes_l0"', "components/catalog.py"]),
        (["train", QUICK, "-o", "trainin.lr=1"], ['Did you mean "training"', "model"]),
        (["train", QUICK, "-o", "training.lrr=1"], ['Did you mean "lr"', "warmup_steps"]),
        (["train", QUICK, "-o", "model.visoin=vit"], ['Did you mean "vision"']),
        (["train", QUICK, "-o", "gate.metric=bleu_1"], ["can be overridden"]),
        (["train", QUICK, "-o", "training.lr"], ["section.key=value"]),
        (["train", QUICK, "-o", "training.steps=-3"], ["training", "-3"]),
        (["train", QUICK, "-o", "evaluation.split=tset"], ["tset", "test"]),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_before_anything_starts(home, words, said):
    assert_refused(diptych(*words), *said)
    assert not home.exists()


@pytest.mark.parametrize(
    "name",
    "../../etc/passwd|/etc/passwd|../experiments/clip_tiny|x.yaml||%2e%2e|$(id)|clip_tiny\n"
    "|clip_tiny\x00|\x1b[31mred|ﬁ\u202e|aaaa".replace("aaaa", "a" * 4096).split("|"),
)
@pytest.mark.parametrize("command", ["train", "promote"])
def test_a_hostile_name_is_no_experiment(home, command, name):
    words = [command, name, "1"] if command == "promote" else [command, name]
    result = diptych(*words)
    assert_refused(result, "No experiment", "Known:")
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", result.stderr), "it would steer the terminal"
    assert not home.exists()


@pytest.mark.parametrize(
    "value",
    [
        *("!!python/object/apply:os.system [touch hacked]", "&a [*a", "2025-02-30", "\x00"),
        *("\x1b[31m", "ü€😀", "1e-4 :", ".nan", ".inf", "{a: 1, a: 2}", "!!binary x"),
        *("[" * 5000, "9" * 5000),
    ],
)
def test_a_hostile_override_is_refused_and_runs_nothing(home, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    assert_refused(diptych("train", QUICK, "-o", f"training.lr={value}"))
    assert not home.exists()
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "reason", ["", "  ", "a" * 10_000, "red \x1b[31m", "nul \x00", "rtl \u202e"]
)
def test_a_reason_nobody_could_read_is_refused_before_anything_starts(home, reason):
    assert_refused(diptych("rollback", QUICK, "--reason", reason), "The reason", "plain text")
    assert not home.exists()


def test_the_ledger_shows_a_reason_with_markup_as_it_was_written(home):
    reason = "bad [link=javascript:x]colours[/link]\n[/] <script>"
    ledger = Ledger(f"sqlite:///{home}/ledger.db").migrate()
    run = dict.fromkeys(("experiment", "experiment_digest", "family", "shards_digest"), "x")
    ledger.record_run("r", **run, seed=0, attempt=0, checkpoint_digest="c", mlflow_run_id="m")
    ledger.record_version("mine", 1, "r", "c")
    ledger.open_move("mine", 1, after=0, kind="rollback", key="k", by="me", reason=reason)
    result = diptych("ledger")
    assert result.exit_code == 0, result.output
    shown = "".join(re.findall(r"[^\s│]+", result.stdout))
    assert "".join(reason.split()) in shown


def test_a_ledger_without_decisions_says_so(home):
    result = diptych("ledger")
    assert result.exit_code == 0
    assert "Nothing was decided yet" in result.stdout


def test_a_ledger_that_is_no_database_is_told_with_its_place(home):
    home.mkdir()
    (home / "ledger.db").write_bytes(b"not a database" * 100)
    assert_refused(diptych("ledger"), str(home / "ledger.db"), "not a database", "Nothing was")


@pytest.mark.parametrize(
    "address",
    [
        "mysql://me:hunter2@host/ledger",
        "postgresql:me:hunter2",
        "postgresql+nobody://me:hunter2@host/ledger",
        "postgresql+psycopg://me:hunter2@127.0.0.1:1/ledger",
    ],
)
def test_a_ledger_out_of_reach_is_told_without_its_password(home, address):
    os.environ["DIPTYCH_LEDGER_URL"] = address
    result = diptych("ledger")
    assert_refused(result, "DIPTYCH_LEDGER_URL")
    assert "hunter2" not in result.output


def test_status_and_down_of_nothing_are_no_errors(home):
    shown = diptych("status")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.count(" down") == 4
    ended = diptych("down")
    assert (ended.exit_code, ended.stdout) == (0, "Nothing of ours was running.\n")
    assert not home.exists()


def test_status_of_a_service_that_does_not_answer_ends_with_1(home):
    settings = Settings.read()
    settings.prepare()
    began_s = psutil.Process().create_time()
    # A process that lives, at a port where nothing answers.
    entry = stack_state.Entry(os.getpid(), began_s, False)
    stack_state.write(settings, {"mlflow": entry})
    shown = diptych("status")
    assert (shown.exit_code, shown.stderr) == (1, "")
    assert re.search(r"mlflow +ill .*does not answer", shown.stdout)


def test_a_port_of_another_program_is_told_with_its_holder_and_variable(home, free):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(free["DIPTYCH_MLFLOW_PORT"])))
        other.listen()
        result = diptych("up")
    assert_refused(
        result, free["DIPTYCH_MLFLOW_PORT"], "mlflow", f"pid {os.getpid()}", "DIPTYCH_MLFLOW_PORT="
    )
    assert stack_state.read(Settings.read()) == {}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DIPTYCH_MLFLOW_PORT", "five"),
        ("DIPTYCH_PREFECT_PORT", "80"),
        ("DIPTYCH_HOST", "0.0.0.0"),
        ("DIPTYCH_HOME", "/dev/null"),
        ("DIPTYCH_HOME", "/tmp/what?mode=memory"),
    ],
)
def test_a_setting_that_cannot_work_is_told_by_its_variable(home, variable, value):
    os.environ[variable] = value
    assert_refused(diptych("status"), variable, value)


def test_debug_shows_where_a_mistake_was_found(home):
    result = diptych("train", "nothing", "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "UnknownName"


def test_a_mistake_of_ours_is_not_told_as_the_users(home):
    from flows.terminal import command

    with pytest.raises(KeyError, match="ours"), command(debug=False):
        {}["ours"]


def test_a_full_disk_is_told_by_the_ledger_and_nothing_is_half_written(home, disk_of):
    small_disk = disk_of(64)
    os.environ["DIPTYCH_HOME"] = str(small_disk)
    assert_refused(diptych("ledger"), str(small_disk), "full", "DIPTYCH_HOME")
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert diptych("ledger").exit_code == 0


def test_a_full_disk_is_told_before_servers_start(home, disk_of):
    small_disk = disk_of(64)
    os.environ["DIPTYCH_HOME"] = str(small_disk)
    assert_refused(diptych("up"), str(small_disk), "MiB", "DIPTYCH_HOME")
    assert not (small_disk / "mlflow.db").exists()


def test_help_names_every_command_and_families_every_family(home):
    shown = diptych("--help").stdout
    for command in app.registered_commands:
        assert f" {command.callback.__name__} " in shown
    shown = diptych("families").stdout
    for name in FAMILIES:
        assert name in shown


def test_the_installed_command_ends_as_the_function_does(home):
    """Through a real process once: what CliRunner cannot see are the exit code and streams of `main`."""
    run = [sys.executable, "-m", "flows.cli"]
    done = subprocess.run(
        [*run, "status"], check=False, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        [*run, "train", "nope"], check=False, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("diptych: No experiment")


def test_an_override_of_a_stage_is_refused_and_not_dropped(home):
    result = diptych("train", "lm_shapes_l0", "-o", "training.steps=900")
    assert_refused(result, "lm_shapes_l0 is a stage", "change the file")
