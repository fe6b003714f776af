"""Two linear towers under a contrastive loss, on one worker's slice; run as a program it is so many gloo processes.

The processes are forked from one that has imported torch, which is most of what each would cost.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional as F

from components.objectives import pairs
from components.objectives.contrastive import info_nce
from components.objectives.sigmoid import sigmoid_loss

ROWS = 24
CASES = ("softmax", "groups", "smoothing", "smoothing_groups", "sigmoid", "sigmoid_groups")


def gradients(case: str, rank: int, world: int) -> dict[str, Tensor]:
    """The loss, and the gradients of both towers, the scale and the bias, averaged over workers as DDP does."""
    torch.manual_seed(0)
    images, texts = torch.randn(2, ROWS, 6)
    groups = torch.tensor([0, 1, 2, 0, 4, 5, 6, 1, 8, 9, 0, 11, 20, 1, *range(30, 40)])
    learnt = {name: torch.randn(6, 5, requires_grad=True) for name in ("image", "text")}
    learnt |= {"log_scale": torch.tensor(2.0, requires_grad=True)}
    learnt |= {"bias": torch.tensor(-3.0, requires_grad=True)} if "sigmoid" in case else {}
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    image = F.normalize(images[mine] @ learnt["image"], dim=1)
    text = F.normalize(texts[mine] @ learnt["text"], dim=1)
    doubles, scale = groups[mine] if "groups" in case else None, learnt["log_scale"].exp()
    if "sigmoid" in case:
        loss = sigmoid_loss(image, text, scale, learnt["bias"], doubles)
    else:
        smoothing = 0.1 if "smoothing" in case else 0.0
        loss = info_nce(image, text, scale, doubles, smoothing=smoothing)
    loss.backward()
    found = {"loss": loss.detach()} | {name: value.grad for name, value in learnt.items()}
    if world > 1:
        for value in found.values():
            dist.all_reduce(value)
            value.div_(world)
    return found


def worker(rank: int, world: int, folder: Path) -> None:
    """One of `world` processes; writes what it found."""
    meeting = f"file://{folder}/meeting_{world}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    # Blocks of five rows, the last one short: what larger batches do.
    pairs.CELLS, pairs.ROWS = 0, 5
    found = {
        f"{case}/{name}": value
        for case in CASES
        for name, value in gradients(case, rank, world).items()
    }
    save_file(found, folder / f"{rank}_of_{world}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number in map(int, sys.argv[2:]):
        start_processes(worker, (number, Path(sys.argv[1])), nprocs=number, start_method="fork")
