"""A large contrastive batch by cached features (GradCache) beside the same batch at once: memory, time, equal gradients."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from clip_peers import CONFIG, batch_of
from torch import Tensor
from turns import aim, in_turns, peak_mb, ratio, settle, table

from components.models.clip import Clip
from components.records import Batch
from components.training.plan import TrainingPlan
from components.training.steps.gradients import LossOf, gradients
from components.training.steps.state import State, begin


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=128)
    asked.add_argument("--parts", type=int, default=4)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    settle()
    torch.manual_seed(0)
    model, batch = Clip(CONFIG).train(), batch_of(given.rows, CONFIG)
    # Moments of the optimiser are the same for both, and so are weights: what differs is the gradient.
    state = begin(model, TrainingPlan(steps=1, warmup_steps=0, batch_size=given.rows))
    sides = {
        "at once": pulled(state, batch, 1),
        f"by cached features, {given.parts} parts": pulled(state, batch, given.parts),
    }
    (whole_loss, whole), (loss, parted) = (run() for run in sides.values())
    largest = max(each.abs().max().item() for each in whole)
    off = max((one - other).abs().max().item() for one, other in zip(whole, parted, strict=True))
    torch.testing.assert_close(loss, whole_loss, atol=1e-6, rtol=1e-6)
    assert off < 1e-5 * max(1.0, largest), off
    print(
        f"\nCLIP of 17.8 M parameters, B={given.rows}, 224 px: gradients differ by at most {off:.0e}"
        f", the largest is {largest:.0e}"
    )
    del whole, parted
    found = in_turns(sides, given.rounds)
    table(found, unit="samples/s", per_s=given.rows)
    memory = {name: peak_mb(run) for name, run in sides.items()}
    print("  memory: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in memory.items()))
    (at_once_s, parted_s), (at_once_mb, parted_mb) = found.values(), memory.values()
    aim("speed of the batch at once", ratio(at_once_s, parted_s)[0], 0.7)
    aim("its memory over ours", at_once_mb / parted_mb, 1 / 0.4)


def pulled(state: State, batch: Batch, parts: int) -> Callable[[], tuple[Tensor, list[Tensor]]]:
    """Loss and gradients of one batch, as the loop makes them, in so many parts."""
    plan = TrainingPlan(steps=1, warmup_steps=0, batch_size=len(batch.tokens_BT), accumulate=parts)
    loss = LossOf(state.learner)

    def run() -> tuple[Tensor, list[Tensor]]:
        state.optimiser.zero_grad(set_to_none=True)
        found = gradients(loss, batch, state, plan, lambda number: None)
        return found.total, [value.grad for value in state.moved()]

    return run


if __name__ == "__main__":
    main()
