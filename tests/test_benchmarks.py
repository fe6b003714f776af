"""The benchmark for a GPU box runs where there is none, on models so small that only its working is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
