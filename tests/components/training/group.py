"""Jobs run by several bare processes over gloo, without Ray: `python group.py <jobs.json> <rank> <world> <meet>`.

jobs.json: `[[job, stop], …]`; a job is stopped after `stop` steps, 0 lets it end. They share one start of the processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run_all(jobs: list, folder: Path, world: int) -> None:
    """Run `(job, stop)` one after another in `world` new processes; AssertionError if one fails."""
    folder.mkdir(parents=True)
    file, meet = folder / "jobs.json", folder / "meet"
    file.write_text(json.dumps([[job.to_dict(), stop] for job, stop in jobs]))
    words = [sys.executable, __file__, str(file)]
    started = [
        subprocess.Popen([*words, str(rank), str(world), str(meet)], cwd=ROOT)
        for rank in range(world)
    ]
    try:
        codes = [process.wait(timeout=500) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0] * world


def main(file: str, rank: str, world: str, meet: str) -> None:
    sys.path.insert(0, str(ROOT))
    from torch import distributed as dist

    from components.training.job import run_job
    from components.training.loop import Interrupted
    from components.training.training_job import TrainingJob

    dist.init_process_group(
        "gloo", init_method=f"file://{meet}", rank=int(rank), world_size=int(world)
    )
    for saved, last in json.loads(Path(file).read_text()):
        job = TrainingJob.from_dict(saved)
        try:
            run_job(
                job, rank=int(rank), world=int(world), stop=lambda step, last=last: step == last
            )
        except Interrupted:
            assert last
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
