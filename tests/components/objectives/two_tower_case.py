"""Two linear towers under InfoNCE, on one worker's slice; run as a program it is one of two gloo processes."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from components.objectives.contrastive import info_nce


def gradients(rank: int, world: int) -> dict[str, Tensor]:
    """The loss, and the gradients of both towers and the scale, averaged over workers as DDP does."""
    torch.manual_seed(0)
    images, texts = torch.randn(2, 12, 6)
    groups = torch.tensor([0, 1, 2, 0, 4, 5, 6, 1, 8, 9, 0, 11])
    image_tower, text_tower = (torch.randn(6, 5, requires_grad=True) for _ in range(2))
    log_scale = torch.tensor(2.0, requires_grad=True)
    mine = slice(rank * 12 // world, (rank + 1) * 12 // world)
    image, text = (
        F.normalize(x[mine] @ tower, dim=1)
        for x, tower in ((images, image_tower), (texts, text_tower))
    )
    loss = info_nce(image, text, log_scale.exp(), groups[mine])
    loss.backward()
    params = {"image_tower": image_tower, "text_tower": text_tower, "log_scale": log_scale}
    found = {"loss": loss.detach()} | {
        name: param.grad for name, param in params.items() if param.grad is not None
    }
    if world > 1:
        for value in found.values():
            dist.all_reduce(value)
            value.div_(world)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    meeting, rank, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    save_file(gradients(rank, 2), out)
    dist.destroy_process_group()
