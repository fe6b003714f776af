"""Benchmarks run where nothing can be timed, so small that only their working is shown; each checks equal results first."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def test_the_gpu_benchmark_runs_on_torch_and_transformers_alone() -> None:
    """Everything else the platform installs is out of reach, as on a bare box."""
    hidden = ("open_clip", "ray", "pydantic", "mlflow", "prefect", "sqlalchemy", "numba", "scipy")
    program = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({hidden!r})); "
        f"sys.path.insert(0, {str(BENCHMARKS)!r}); sys.argv = ['gpu.py', '--tiny']; "
        f"runpy.run_path({str(BENCHMARKS / 'gpu.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rates = [float(rate) for rate in re.findall(r"([\d.]+) samples/s", done.stdout)]
    assert len(rates) == 3 and min(rates) > 0
    losses = re.findall(r"(?:transformers|cut|ours) (\d\.\d{4})", done.stdout)
    assert len(losses) == 3 and max(map(float, losses)) - min(map(float, losses)) < 0.05
    assert re.findall(r"(\d+) of (\d+) captions identical", done.stdout) == [
        ("1", "1"), ("1", "1"), ("4", "4"), ("4", "4"),
    ]  # fmt: skip
    assert re.search(r"info_nce, N=512.*%", done.stdout)


@pytest.mark.parametrize(
    ("script", "small", "aims"),
    [
        ("asif_million", ["--anchors", "10000", "--queries", "8", "--k", "50"], 3),
        ("feature_cache", ["--rows", "4", "--parts", "2"], 2),
        ("images", ["--files", "2"], 2),
    ],
)
def test_a_benchmark_finds_equal_results_and_says_what_was_aimed_at(
    script: str, small: list[str], aims: int
) -> None:
    done = subprocess.run(
        [sys.executable, f"{script}.py", *small, "--rounds", "1"],
        cwd=BENCHMARKS, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"aim: .* (?:reached|MISSED)", done.stdout)) == aims
    assert re.search(r"memory: .* \d+ MB|\d+ MB beyond", done.stdout)


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_a_benchmark_that_fails_hides_no_other_and_fails_the_whole(tmp_path: Path) -> None:
    """The real recipe, with an interpreter that runs nothing and stumbles over one of the scripts."""
    for name, body in {
        "pip": "true",
        "python": 'echo "ran $1"; case $1 in */two.py) exit 3; esac',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["make", "-o", ".venv/.installed", "bench", f"BIN={tmp_path}", "BENCHMARKS=one two three"],
        cwd=BENCHMARKS.parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert re.findall(r"ran tests/benchmarks/(\w+)", done.stdout) == ["one", "two", "three"]
    assert "Failed: two." in done.stdout
