"""What was there before is there afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from components.training.cluster.surroundings import (
    end,
    environment,
    kept_signals,
    processes_of,
    short_folder,
)


def test_the_environment_comes_back_after_an_error_too(monkeypatch):
    monkeypatch.setenv("DIPTYCH_KEPT", "old")
    monkeypatch.delenv("DIPTYCH_NEW", raising=False)
    monkeypatch.delenv("DIPTYCH_WATCHED", raising=False)
    settings = {"DIPTYCH_KEPT": "new", "DIPTYCH_NEW": "1", "DIPTYCH_WATCHED": None}
    with pytest.raises(ValueError), environment(settings):
        assert (os.environ["DIPTYCH_KEPT"], os.environ["DIPTYCH_NEW"]) == ("new", "1")
        os.environ["DIPTYCH_WATCHED"] = "set by somebody else"
        raise ValueError
    assert os.environ["DIPTYCH_KEPT"] == "old"
    assert not {"DIPTYCH_NEW", "DIPTYCH_WATCHED"} & os.environ.keys()


def test_signal_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with kept_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_folder_of_a_process_that_is_gone_is_swept_and_that_of_a_living_one_kept():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    above = Path(tempfile.gettempdir())
    old = above / f"diptest-{gone.pid}-x"
    alive = above / f"diptest-{os.getpid()}-y"
    old.mkdir()
    alive.mkdir()
    vanished = above / f"diptest-{gone.pid}-z"  # as one that another process removes meanwhile
    vanished.symlink_to(above / "nowhere")
    made = short_folder("diptest")
    try:
        assert not old.exists()
        assert alive.exists()
        assert made.stat().st_mode & 0o777 == 0o700
        assert len(str(made)) < 45
    finally:
        vanished.unlink()
        alive.rmdir()
        made.rmdir()


def test_a_process_that_ignores_its_end_is_killed_and_others_are_not(tmp_path):
    stubborn = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen([*stubborn, str(tmp_path / "mine")])
    other = subprocess.Popen([*stubborn, str(tmp_path / "other")])
    try:
        found = processes_of(tmp_path / "mine")
        assert [process.pid for process in found] == [ours.pid]
        end(found, patience_s=1.0)
        assert not psutil.pid_exists(ours.pid)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
