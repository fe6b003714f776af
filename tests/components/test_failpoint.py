"""Failpoints: inert, or the end of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

CODE = "from components.failpoint import failpoint\nfor i in range(3):\n    failpoint('saved')\n    print(i, flush=True)"


def passages(fail: str | None) -> tuple[int, list[str]]:
    env = {key: value for key, value in os.environ.items() if key != "DIPTYCH_FAIL"}
    if fail is not None:
        env["DIPTYCH_FAIL"] = fail
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("fail", "printed"), [("saved", []), ("saved:1", []), ("saved:3", ["0", "1"])]
)
def test_a_named_failpoint_kills_at_the_passage_asked_for(fail, printed):
    assert passages(fail) == (-signal.SIGKILL, printed)


@pytest.mark.parametrize("fail", [None, "", "other", "saved:4"])
def test_a_failpoint_is_inert_unless_it_is_named(fail):
    assert passages(fail) == (0, ["0", "1", "2"])
