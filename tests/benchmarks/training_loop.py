"""What the training loop costs beyond a bare one, and what each setting costs a step: CPU seconds, taken in turns.

    python tests/benchmarks/training_loop.py [--rounds 7] [--steps 10] [--only NAME]

Prints the microseconds of the loop itself, then for each setting the median over rounds of its ratio to a bare loop, with
the lowest and highest. Bare is the five lines that anybody writes: zero_grad, loss, backward, clip, step, on the same
model, batches and optimiser. The loop's own cost is first taken at a model of one number, where nothing else is to be seen,
then set against a step of CLIP. A training's first step, whose arithmetic is counted, is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from operator import sub
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import nn
from turns import in_turns, ratio, settle

from components.models.clip import Clip, ClipConfig
from components.records import Batch, Loss
from components.training.loop import fit
from components.training.plan import TrainingPlan
from components.training.steps.gradients import LossOf
from components.training.steps.repeated import prepared
from components.training.steps.state import begin

ROWS, TOKENS, VOCAB = 64, 16, ClipConfig().vocab_size
SETTINGS = {
    "as it is": {},
    "ema": {"ema": 0.999},
    "lamb": {"optimiser": "lamb"},
    "sgd, lookahead 5": {"optimiser": "sgd", "lookahead": 5},
    "accumulate 4 (cached features)": {"accumulate": 4},
    "activation checkpointing": {"activation_checkpointing": True},
    "bf16": {"precision": "bf16"},
}


class One:
    """One made batch at every step: 64 pairs of 64 px and 16 tokens."""

    def __init__(self, vocab: int) -> None:
        torch.manual_seed(0)
        tokens_BT = torch.randint(3, vocab - 1, (ROWS, TOKENS))
        tokens_BT[:, -1] = vocab - 1
        self._batch = Batch(
            pixels_BCHW=torch.randint(0, 256, (ROWS, 3, 64, 64), dtype=torch.uint8),
            tokens_BT=tokens_BT,
            lengths_B=torch.full((ROWS,), TOKENS),
            groups_B=torch.arange(ROWS),
            keys_B=torch.arange(ROWS) * 2,
            prompts_B=torch.ones(ROWS, dtype=torch.int64),
        )

    def batch(self, step: int) -> Batch:
        """The batch."""
        return self._batch


class Number(nn.Module):
    """The least there is to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def loss(self, batch: Batch) -> Loss:
        """The number's square."""
        return Loss(self.weight.square())

    def param_groups(self) -> list[dict[str, Any]]:
        """One."""
        return [{"name": "all", "params": [self.weight], "lr_scale": 1.0, "weight_decay": False}]

    def after_step(self) -> None:
        """Nothing to clamp."""


def main() -> None:
    """Print the loop's own cost, then each setting's over the bare loop."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=7)
    asked.add_argument("--steps", type=int, default=10)
    asked.add_argument("--only", choices=SETTINGS)
    args = asked.parse_args()
    settle()
    plan = TrainingPlan(steps=args.steps, batch_size=ROWS, warmup_steps=0, checkpoint_every=1)
    bare = _bare(tiny_clip(), plan)
    step_s = statistics.median(bare() for _ in range(args.rounds))
    own_s = _own_s(args.rounds)
    print(
        f"the loop itself {own_s * 1e6:.0f} us a step, {own_s / step_s:.2%} of CLIP's {step_s:.3f} s"
    )
    for name, changes in SETTINGS.items():
        if args.only in (None, name):
            ours = by_the_loop(tiny_clip(), replace(plan, **changes))
            found = _in_turns(ours, bare, args.rounds)
            median, least, most = ratio(found["ours"], found["bare"])
            print(f"{name:32} {median:.3f} x the bare loop ({least:.3f} to {most:.3f})")


def _own_s(rounds: int) -> float:
    """CPU seconds a step beyond the bare loop's, reports every 10 steps among them."""
    plan = TrainingPlan(steps=1001, batch_size=ROWS, warmup_steps=0, checkpoint_every=1)
    found = _in_turns(by_the_loop(Number(), plan), _bare(Number(), plan), rounds + 1)
    return statistics.median(map(sub, found["ours"], found["bare"]))


def _in_turns(
    ours: Callable[[], float], bare: Callable[[], float], rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of a step, as each tells them itself."""
    return in_turns({"ours": ours, "bare": bare}, rounds, lambda side: side(), unseen=0)


def tiny_clip() -> nn.Module:
    torch.manual_seed(0)
    return Clip(ClipConfig(vision="vit", patch_px=8))


def _bare(model: Any, plan: TrainingPlan) -> Callable[[], float]:
    """A training by five lines, and the seconds of one of its steps."""
    state, batches = begin(model, plan), One(VOCAB)
    model.train()

    def run() -> float:
        begun_s = time.process_time()
        for step in range(plan.steps):
            state.optimiser.zero_grad(set_to_none=True)
            model.loss(batches.batch(step)).total.backward()
            nn.utils.clip_grad_norm_(state.moved(), plan.clip_norm)
            state.optimiser.step()
            model.after_step()
        return (time.process_time() - begun_s) / plan.steps

    return run


def by_the_loop(model: Any, plan: TrainingPlan) -> Callable[[], float]:
    """A training by the loop, and the seconds of one of its steps but the first."""
    state, batches = begin(model, plan), One(VOCAB)
    loss = prepared(LossOf(model), plan)

    def run() -> float:
        begun: list[float] = []
        fit(
            state, batches, plan, loss=loss,
            on_checkpoint=lambda step: begun.append(time.process_time()) if step == 1 else None,
        )  # fmt: skip
        return (time.process_time() - begun[0]) / (plan.steps - 1)

    return run


if __name__ == "__main__":
    main()
