"""The others wait for what rank 0 does alone, however long: it tells that it lives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.training import job as job_module
from components.training.checkpoints.checkpoint import latest
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob

ROOT = Path(job_module.__file__).parents[2]
CONFIG = {"image_px": 32, "vision": "vit", "vision_layers": 1, "vision_heads": 2, "text_width": 32}
CONFIG |= {"text_layers": 1, "text_heads": 2, "embed_width": 16}
PLAN = TrainingPlan(
    steps=6, batch_size=8, warmup_steps=2, checkpoint_every=4, report_every=3, vocab_size=300,
    workers=2,
)  # fmt: skip
# Longer than the group waits, or this shows nothing; that is as long as two starting processes may be apart here.
GROUP_S, MIRROR_S = 8, 10
WORK = f"""
import sys, time
from datetime import timedelta
from pathlib import Path

import fsspec
import torch
from fsspec.implementations.local import LocalFileSystem
from components.training.job import run_job
from components.training.training_job import TrainingJob

class Slow(LocalFileSystem):
    protocol = "slow"

    def get_file(self, there, here, **options):
        time.sleep({MIRROR_S} * there.endswith("/weights.safetensors"))
        super().get_file(there, here, **options)

    def put_file(self, here, there, **options):
        time.sleep({MIRROR_S} * there.endswith("6/weights.safetensors"))
        super().put_file(here, there, **options)

fsspec.register_implementation("slow", Slow)
file, rank, meeting = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
Path(f"{{meeting}}-{{rank}}").touch()  # imports take their time
while not Path(f"{{meeting}}-{{1 - rank}}").exists():
    time.sleep(0.01)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{{meeting}}", rank=rank, world_size=2,
    timeout=timedelta(seconds={GROUP_S}),
)
run_job(TrainingJob.read(file), rank=rank, world=2)
"""


def run_with_two(job: TrainingJob, meeting: Path) -> list[tuple[int, str]]:
    """Two processes as Ray would join them, who know of slow mirrors; their exit codes and what they said."""
    file = job.folder.with_suffix(".json")
    file.write_text(json.dumps(job.to_dict()))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(file), str(rank), str(meeting)],
            cwd=ROOT, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


# The seconds are those of the mirror: no less shows that a group outwaits its own limit, on the way here and back.
def test_a_mirror_slower_than_a_collective_may_be_ends_no_group(tiny_shards, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    job = TrainingJob(
        family="clip", config=CONFIG, plan=PLAN, shards=tiny_shards.path,
        folder=tmp_path / "run", mirror=str(elsewhere),
    )  # fmt: skip

    def interrupt(step: int, values: object) -> None:
        if step == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_job(replace(job, plan=replace(PLAN, workers=1)), on_step=interrupt)
    shutil.rmtree(job.folder)
    ended = run_with_two(replace(job, mirror=f"slow://{elsewhere}"), tmp_path / "meeting")
    assert [code for code, _ in ended] == [0, 0], ended
    assert latest(job.checkpoints).step == 6
    assert (elsewhere / "run" / "step-00000006" / "MANIFEST.json").exists()
