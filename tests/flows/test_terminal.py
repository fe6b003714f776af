"""How a command meets a terminal."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from flows import terminal
from infra.settings import Settings


def test_a_command_that_is_stopped_says_how_to_go_on(monkeypatch, capsys):
    # The services are started for real in the tests of nights and trainings; here only the end matters.
    monkeypatch.setattr(terminal.stack, "short_lived", lambda *_, **__: nullcontext())
    with pytest.raises(KeyboardInterrupt), terminal.platform(debug=False):
        raise KeyboardInterrupt
    assert "same command goes on" in capsys.readouterr().out


def test_a_cluster_that_is_named_trains_whatever_runs_here(tmp_path):
    here = Settings(home=tmp_path, repo=tmp_path)
    assert terminal.launcher(here) == "local"
    assert terminal.launcher(replace(here, ray_cluster="http://head:8265")) == "jobs"
