"""What Ray Train costs: the same job in Ray and as bare processes, turn about.

    python tests/benchmarks/ray_train.py [steps [rounds]]

Prints milliseconds and CPU milliseconds a step of rank 0 past its start (the median of its reports), the seconds from
the call to the first report, and of each round the ratios: one worker in Ray over the plain call, and two workers in Ray
over two bare processes that meet over gloo. CPU only; on a busy machine trust the CPU times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from components.data.shards import write_shards  # noqa: E402
from components.data.sources.shapes import scene  # noqa: E402
from components.training import progress  # noqa: E402
from components.training.cluster.local import local_ray  # noqa: E402
from components.training.plan import TrainingPlan  # noqa: E402
from components.training.ray_trainer import train  # noqa: E402
from components.training.training_job import TrainingJob  # noqa: E402
from tests.components.training import group  # noqa: E402

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
CONFIG = {
    "vision": "vit", "image_px": 32, "patch_px": 8, "vision_width": 192, "vision_layers": 4,
    "vision_heads": 3, "text_width": 192, "text_layers": 4, "text_heads": 3, "embed_width": 64,
}  # fmt: skip
PLAN = TrainingPlan(
    steps=STEPS, batch_size=32, warmup_steps=2, report_every=10, checkpoint_every=10**6, vocab_size=300,
    cpus_per_worker=0.5,
)  # fmt: skip
INLINE = (
    "import sys; from pathlib import Path; from components.training.job import run_job; "
    "from components.training.training_job import TrainingJob; run_job(TrainingJob.read(Path(sys.argv[1])))"
)


def bare(job: TrainingJob) -> None:
    """In new processes, as Ray's workers are."""
    if job.plan.workers > 1:
        group.run_all([(job, 0)], job.folder.with_suffix(".meet"), job.plan.workers)
        return
    file = job.folder.with_suffix(".json")
    file.write_text(json.dumps(job.to_dict()))
    subprocess.run([sys.executable, "-c", INLINE, str(file)], cwd=ROOT, check=True)


def in_ray(job: TrainingJob) -> None:
    train(job, launcher="local")


def measured(name: str, run: Callable[[TrainingJob], None], job: TrainingJob) -> dict[str, float]:
    began_s = time.time()
    run(job)
    lines = progress.read(job.progress)
    later = lines[1:-1]  # the last report has the checkpoint beside it
    cpu_ms = median(1000 * line.values["cpu_s"] / PLAN.report_every for line in later)
    wall_ms = median(1000 * PLAN.batch_size / line.values["samples_per_s"] for line in later)
    start_s = lines[0].time - began_s
    print(
        f"{name:24} {wall_ms:7.2f} ms/step {cpu_ms:7.2f} CPU ms/step, first report after {start_s:5.1f} s",
        flush=True,
    )
    return {"wall": wall_ms, "cpu": cpu_ms, "start": start_s}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, local_ray():
        shards = write_shards([scene(index, 0) for index in range(96)], Path(folder) / "shards")
        for workers in (1, 2):
            ratios: dict[str, list[float]] = {"wall": [], "cpu": [], "start": []}
            for turn in range(ROUNDS):
                found = {}
                for name, run in (("bare", bare), ("ray", in_ray)):
                    job = TrainingJob(
                        family="clip", config=CONFIG, plan=replace(PLAN, workers=workers),
                        shards=shards.path, folder=Path(folder) / f"{name}-{workers}-{turn}",
                    )  # fmt: skip
                    found[name] = measured(f"{workers} worker(s), {name}", run, job)
                for what, each in ratios.items():
                    each.append(found["ray"][what] / found["bare"][what])
            for what, each in ratios.items():
                rounds = ", ".join(f"{ratio:.3f}" for ratio in each)
                print(
                    f"{workers} worker(s), Ray over bare, {what}: {median(each):.3f} of {rounds}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
