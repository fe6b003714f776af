"""Contrastive losses, forward and backward, beside open_clip's.

    python tests/benchmarks/contrastive_loss.py [--sizes 1024 4096] [--width 512] [--rounds 5]

Equality of loss and gradients is checked first. Prints for softmax and sigmoid at each size the CPU ms of each side, ours
over open_clip's with the lowest and highest of the rounds, memory beyond the inputs, and the aims. Needs open_clip, which
`make bench` installs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import open_clip_peer
import torch
from torch import Tensor
from torch.nn import functional as F
from turns import aim, in_turns, matmul_gflops, memory, ratio, settle, table

from components.objectives.contrastive import info_nce
from components.objectives.sigmoid import sigmoid_loss

Run = Callable[[], list[Tensor]]


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--sizes", type=int, nargs="+", default=(1024, 4096))
    asked.add_argument("--width", type=int, default=512)
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    if why := open_clip_peer.absent():
        raise SystemExit(why)
    settle()
    for rows in given.sizes:
        torch.manual_seed(0)
        image, text = F.normalize(torch.randn(2, rows, given.width), dim=-1)
        measure("softmax", _softmax(image, text), rows, given)
        measure("sigmoid", _sigmoid(image, text), rows, given)


def measure(kind: str, sides: dict[str, Run], rows: int, given: argparse.Namespace) -> None:
    """One loss at one size."""
    values = {name: run() for name, run in sides.items()}
    theirs, ours = values["open_clip"], values["ours"]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
    off = max((mine - other).abs().max().item() for mine, other in zip(ours, theirs, strict=True))
    print(f"\n{kind}, N={rows}, D={given.width}; loss and gradients differ by at most {off:.0e}")
    found = in_turns(sides, given.rounds)
    table(found)
    least = 3 * 2 * rows**2 * given.width / matmul_gflops() / 1e9
    share = least / min(found["ours"])
    print(f"  ours runs at {share:.0%} of three bare products")
    needed = memory("memory beyond the inputs", sides)
    if rows >= 4096:
        aim(f"{kind} over open_clip", ratio(found["open_clip"], found["ours"])[0], 1.3)
        aim("open_clip's memory over ours", needed["open_clip"] / needed["ours"], 2)


def _leaves(*values: Tensor) -> list[Tensor]:
    return [value.detach().clone().requires_grad_() for value in values]


def _run(loss: Callable[..., Tensor], *values: Tensor) -> list[Tensor]:
    leaves = _leaves(*values)
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


def _softmax(image: Tensor, text: Tensor) -> dict[str, Run]:
    _, losses = open_clip_peer.load()
    peer, scale = losses.ClipLoss(cache_labels=True), torch.tensor(20.0)
    return {
        "open_clip": lambda: _run(peer, image, text, scale),
        "ours": lambda: _run(info_nce, image, text, scale),
    }


def _sigmoid(image: Tensor, text: Tensor) -> dict[str, Run]:
    _, losses = open_clip_peer.load()
    peer, scale, bias = losses.SigLipLoss(), torch.tensor(10.0), torch.tensor(-10.0)
    return {
        "open_clip": lambda: _run(peer, image, text, scale, bias),
        "ours": lambda: _run(sigmoid_loss, image, text, scale, bias),
    }


if __name__ == "__main__":
    main()
