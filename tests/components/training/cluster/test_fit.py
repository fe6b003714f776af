"""What a worker of Ray is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import components
from components.training.cluster.fit import worker_settings
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob


def test_a_worker_imports_the_code_that_sent_it_its_job_from_any_folder(tmp_path):
    job = TrainingJob(
        family="clip", config={}, plan=TrainingPlan(), shards=tmp_path, folder=tmp_path / "run"
    )
    # -S: no site packages, where an installed copy could be found instead.
    found = subprocess.run(
        [sys.executable, "-S", "-c", "import components; print(components.__file__)"],
        env={"PATH": os.environ["PATH"], **worker_settings(job)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == Path(components.__file__)
