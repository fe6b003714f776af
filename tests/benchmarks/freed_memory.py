"""What it is worth that a training keeps the memory it frees: processes that keep it and that give it back, turn about.

    python tests/benchmarks/freed_memory.py [--rounds 5] [--steps 30]

Prints CPU milliseconds and new pages a step of the loop on CLIP's tiny preset, 64 pairs, and the ratio of the times. Each
process is new, for what it was told of its memory holds until its end.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

from turns import ratio


def main() -> None:
    """Measure and print; as a child (`--keep 0` or `1`), train and print one line."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--steps", type=int, default=30)
    asked.add_argument("--keep", type=int)
    args = asked.parse_args()
    if args.keep is not None:
        _train(args.steps, keep=bool(args.keep))
        return
    found: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    for _ in range(args.rounds):
        for keep, each in found.items():
            words = [sys.executable, __file__, "--keep", str(keep), "--steps", str(args.steps)]
            line = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            ms, pages = map(float, line.split())
            each.append((ms, pages))
    for keep, name in enumerate(("given back", "kept")):
        ms, pages = (median(column) for column in zip(*found[keep], strict=True))
        print(f"{name:12} {ms:7.1f} CPU ms and {pages:7.0f} new pages a step")
    times = [[ms for ms, _ in found[keep]] for keep in (0, 1)]
    middle, least, most = ratio(*times)
    print(f"ratio {middle:.3f} [{least:.3f}-{most:.3f}]")


def _train(steps: int, *, keep: bool) -> None:
    import torch
    from training_loop import ROWS, by_the_loop, tiny_clip

    from components.training.plan import TrainingPlan
    from components.training.steps.torch_settings import keep_freed_memory

    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    plan = TrainingPlan(steps=steps, batch_size=ROWS, warmup_steps=0, checkpoint_every=1)
    run = by_the_loop(tiny_clip(), plan)
    run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step_s = run()
    pages = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps
    print(1000 * step_s, pages)


if __name__ == "__main__":
    main()
