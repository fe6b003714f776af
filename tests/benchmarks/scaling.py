"""A CLIP training on 1 to 1000 GPUs on paper: compute, bytes between GPUs, bytes of input.

    python tests/benchmarks/scaling.py            the tables, then what 1, 2 and 4 gloo processes can check
    python tests/benchmarks/scaling.py --paper    the tables alone

Prints a table a model: ms of the loss, MB and ms of what is exchanged, images/s, efficiency. They are formulas over the
constants below and nothing was measured for them; what a machine without GPUs can check, `check` does: which bytes the loss
hands to the network, its memory and how its work is shared out.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from clip_step import whole_flops
from torch import distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional as F

from components.models.clip import Clip, ClipConfig
from components.objectives.contrastive import info_nce
from components.objectives.pairs import CELLS, ROWS

MATMUL = 790e12
"""bf16 FLOP/s of one H100, measured (798) and rounded down."""
MFU = 0.40
"""Share of it that a step reaches: of training on H100 published ones are 33 to 40 %."""
FP32 = 50e12
"""FLOP/s of the loss, whose products are fp32 (67 by the data sheet); TF32 would be 6 times that."""
NVLINK, NIC = 300e9, 40e9
"""Bytes/s a GPU has to the others of its machine (8), and to other machines."""
HOP_S = 15e-6
"""Delay of one step of a ring."""
GPUS = (1, 8, 64, 256, 1000)
MODELS = {
    "ViT-B/32, 1024 a GPU": (ClipConfig.small(), 1024),
    "ViT-L/14@336, 128 a GPU": (ClipConfig.paper(), 128),
}


@dataclass(frozen=True)
class Share:
    """What one GPU does in a step of `gpus` with `rows` pairs each."""

    gpus: int
    rows: int
    config: ClipConfig
    params: int

    @property
    def columns(self) -> int:
        """Texts of all."""
        return self.gpus * self.rows

    @property
    def step_s(self) -> float:
        return self.rows * whole_flops(self.config) / (MATMUL * MFU)

    @property
    def loss_s(self) -> float:
        """Four products of (rows x columns x width), three where the logits are kept."""
        products = 3 if self.rows * self.columns <= CELLS else 4
        return products * 2 * self.rows * self.columns * self.config.embed_width / FP32

    @property
    def feature_bytes(self) -> float:
        """Received by one GPU: texts and groups of the others, the gradients of its texts, two numbers a column twice."""
        others = self.columns - self.rows
        width = self.config.embed_width
        return others * (4 * width + 8) + others * 4 * width + self.sum_bytes

    @property
    def sum_bytes(self) -> float:
        """Of the two all-reduces over columns, highest logit and sum."""
        return 2 * ring(self.gpus) * 4 * self.columns

    @property
    def gradient_bytes(self) -> float:
        """Of one all-reduce of fp32 gradients."""
        return ring(self.gpus) * 4 * self.params

    @property
    def exchange_s(self) -> float:
        return moved_s(self.feature_bytes, self.gpus, collectives=4)

    @property
    def gradient_s(self) -> float:
        return moved_s(self.gradient_bytes, self.gpus, collectives=1)

    @property
    def shown_s(self) -> float:
        """Gradients travel behind the backward pass (two thirds of the step); what is left over shows."""
        return max(self.gradient_s - self.step_s * 2 / 3, 0)

    @property
    def efficiency(self) -> float:
        return self.step_s / (self.step_s + self.loss_s + self.exchange_s + self.shown_s)

    @property
    def logit_bytes(self) -> float:
        """Two blocks of logits, or all that are kept and their slopes."""
        rows = self.rows if self.rows * self.columns <= CELLS else min(ROWS, self.rows)
        return 2 * 4 * rows * self.columns

    @property
    def input_bytes_s(self) -> float:
        """uint8 pixels per second."""
        return self.rows * 3 * self.config.image_px**2 / self.step_s


def ring(gpus: int) -> float:
    """How often its size one GPU sends in a ring's all-reduce."""
    return 2 * (gpus - 1) / gpus


def moved_s(size: float, gpus: int, collectives: int) -> float:
    if gpus == 1:
        return 0.0
    return size / (NVLINK if gpus <= 8 else NIC) + collectives * min(gpus, 64) * HOP_S


def main() -> None:
    """Print the tables, or check them."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument(
        "--paper",
        action="store_true",
        help="the tables alone, nothing on 1, 2 and 4 gloo processes",
    )
    given = asked.parse_args()
    for name, (config, rows) in MODELS.items():
        with torch.device("meta"):
            params = sum(value.numel() for value in Clip(config).parameters())
        paper(name, [Share(gpus, rows, config, params) for gpus in GPUS])
    if not given.paper:
        check()


def paper(name: str, shares: list[Share]) -> None:
    """One model."""
    print(
        f"\n{name}: {shares[0].params / 1e6:.0f} M parameters, step {1000 * shares[0].step_s:.0f} ms\n"
    )
    print(
        "| GPUs | batch | loss ms | features MB (ms) | gradients MB (ms, of them seen) | logits MB | images/s in all | input GB/s a GPU | efficiency |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for each in shares:
        rate = each.columns / each.step_s * each.efficiency
        print(
            f"| {each.gpus} | {each.columns:,} | {1000 * each.loss_s:.1f} "
            f"| {each.feature_bytes / 1e6:.0f} ({1000 * each.exchange_s:.1f}) "
            f"| {each.gradient_bytes / 1e6:.0f} ({1000 * each.gradient_s:.1f}, {1000 * each.shown_s:.1f}) "
            f"| {each.logit_bytes / 1e6:.0f} | {rate:,.0f} "
            f"| {each.input_bytes_s / 1e9:.2f} | {each.efficiency:.0%} |"
        )


def check(batch: int = 4096, width: int = 512) -> None:
    """The same global batch on 1, 2 and 4 processes."""
    print(f"\nInfoNCE of {batch} pairs, D={width}, on gloo processes; one of them:\n")
    print(
        "| processes | bytes the loss hands over | by the formula | CPU ms | over one process | memory MB |"
    )
    print("|---|---|---|---|---|---|")
    alone = 0.0
    for world in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            start_processes(
                _worker, (world, batch, width, folder), nprocs=world, start_method="fork"
            )
            found = json.loads((Path(folder) / "found.json").read_text())
        alone = alone or found["cpu_ms"]
        share = Share(world, batch // world, ClipConfig(embed_width=width), 0)
        others = share.columns - share.rows
        wanted = share.feature_bytes - share.sum_bytes + (2 * 4 * batch if others else 0)
        print(
            f"| {world} | {found['bytes']:,} | {wanted:,.0f} | {found['cpu_ms']:.0f} "
            f"| {alone / found['cpu_ms']:.2f} | {found['memory_mb']:.0f} |"
        )
        assert found["bytes"] == wanted, (found, wanted)


def _worker(rank: int, world: int, batch: int, width: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    counted = _count_bytes()
    torch.manual_seed(rank)
    image, text = F.normalize(torch.randn(2, batch // world, width), dim=-1)
    groups = torch.arange(batch // world) + rank * batch

    def run() -> None:
        leaves = [each.clone().requires_grad_() for each in (image, text)]
        info_nce(*leaves, 20.0, groups).backward()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    memory_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    handed = sum(counted)
    # gloo waits in a thread that sleeps; what spins is in the process's CPU time and counts.
    spent = []
    for _ in range(3):
        began_s = time.process_time()
        run()
        spent.append(1000 * (time.process_time() - began_s))
    if rank == 0:
        found = {"bytes": handed, "cpu_ms": sorted(spent)[1], "memory_mb": memory_mb}
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _count_bytes() -> list[int]:
    """Each collective's bytes of and for other workers, from now on; of an all-reduce its tensor."""
    counted: list[int] = []

    def counting(name: str, size) -> None:
        whole = getattr(dist, name, None)
        if whole is not None:

            def call(*tensors, **how):
                counted.append(size(*tensors))
                return whole(*tensors, **how)

            setattr(dist, name, call)

    for name in ("all_gather_single", "all_gather_into_tensor"):
        counting(name, lambda out, mine: out.nbytes - mine.nbytes)
    for name in ("reduce_scatter_single", "reduce_scatter_tensor"):
        counting(name, lambda out, every: every.nbytes - out.nbytes)
    counting("all_reduce", lambda value, *_: value.nbytes)
    return counted


if __name__ == "__main__":
    main()
