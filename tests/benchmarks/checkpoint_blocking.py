"""How long a step waits for a checkpoint: all of it, as before, or the copy into host memory alone.

    python tests/benchmarks/checkpoint_blocking.py [FOLDER]

Writes under FOLDER (a disk, not a memory file system) for a minute. Prints the median wait of either kind in ms, and the
first, which is the longest: it takes the host's memory.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from turns import in_turns

from components.training.checkpoints import checkpoint
from components.training.checkpoints.saver import Saver
from components.training.checkpoints.snapshot import HostMemory, Snapshot, as_they_are

TENSORS, SIDE = 100, 1024
ROUNDS = 6


def taken(tensors: dict[str, torch.Tensor], step: int, memory: HostMemory | None) -> Snapshot:
    """A checkpoint of 420 MB: weights and two moments of 35 million parameters."""
    about = {"family": "clip", "step": step, "seed": 0, "shards_digest": "made"}
    hold = memory.hold if memory else as_they_are
    return Snapshot(step=step, about=about, tensors={"state.safetensors": hold("s", tensors)})


def main(folder: Path) -> None:
    """Turn about, so that both meet the same disk."""
    torch.set_num_threads(1)
    tensors = {f"t{number}": torch.randn(SIDE, SIDE) for number in range(TENSORS)}
    saver, steps = Saver(folder, lambda made: checkpoint.sweep(folder, 1)), count(1)

    def waited_s(save: Callable[[], object]) -> float:
        began_s = time.perf_counter()
        save()
        took_s = time.perf_counter() - began_s
        saver.settle()
        return took_s

    sides = {
        "whole": lambda: checkpoint.put(folder, taken(tensors, next(steps), None)),
        "copy": lambda: saver.save(partial(taken, tensors, next(steps))),
    }
    blocked = in_turns(sides, ROUNDS, waited_s, unseen=0)
    size_mb = sum(value.nbytes for value in tensors.values()) / 1e6
    print(f"{size_mb:.0f} MB; median of {ROUNDS} in ms, and the first")
    for name, seconds in blocked.items():
        print(f"{name:6} {1e3 * statistics.median(seconds):8.0f} {1e3 * seconds[0]:8.0f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as made:
        main(Path(made))
