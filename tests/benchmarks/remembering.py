"""A distilled CLIP's step whose teacher is asked, and the same step whose teacher is quoted.

    python tests/benchmarks/remembering.py [--rounds 9]

Prints for two sizes the CPU ms of a step of each kind, and how much faster it is than one whose teacher is asked.
`first time` is a step about which nothing is known yet: the teacher is asked, and what it says is kept in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from clip_peers import CONFIG, batch_of
from turns import in_turns, settle, table

from components.data.text import Tokenizer
from components.models.clip import Clip, ClipConfig
from components.models.parts import Origin, Part
from components.records import Batch
from components.training.distillation import Distilled
from components.training.plan import TrainingPlan
from components.training.steps.state import State, begin
from components.training.teachers.teacher_cache import TeacherCache
from components.training.teachers.teaching import Distillation

TINY = replace(
    ClipConfig.tiny(), image_px=32, vision_widths=(32, 64), max_tokens=40, vocab_size=512
)
SMALLER = replace(
    TINY, vision_widths=(16, 32), text_width=64, text_layers=2, text_heads=2, embed_width=64
)
HALF = replace(CONFIG, vision_layers=3, text_layers=3, vision_width=192, vision_heads=3)
CASES = {
    "clip_distilled_tiny beside clip_tiny, 32 pairs of 32 px": (SMALLER, TINY, 32),
    "5.5 M parameters beside 17.8 M, 16 pairs of 224 px": (HALF, CONFIG, 16),
}
TERMS = {"affinity": 1.0, "icl": 1.0, "feature": 1.0}


def _stepping(learner: Distilled, batch: Batch) -> Callable[[], None]:
    state: State = begin(learner, TrainingPlan(steps=1, warmup_steps=0), learner.student)

    def step() -> None:
        state.optimiser.zero_grad()
        learner.loss(batch).total.backward()
        state.optimiser.step()
        learner.after_step()

    return step


def _forgetting(learner: Distilled, cache: TeacherCache, step: Callable[[], None]) -> Callable:
    def forgotten() -> None:
        cache._known.clear()
        step()

    return forgotten


def main() -> None:
    """Print a table a case."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=9)
    rounds = asked.parse_args().rounds
    settle()
    tokenizer, origin = Tokenizer.train(["a red circle"], 280), Origin(kind="stage", name="teacher")
    for name, (smaller, larger, rows) in CASES.items():
        torch.manual_seed(0)
        part = Part(module=Clip(larger), tokenizer=tokenizer, origin=origin)
        batch = batch_of(rows, larger)
        plan = Distillation(teacher=origin, terms=TERMS)
        sides: dict[str, Callable[[], None]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for side in ("asked", "first time", "quoted"):
                cache = None if side == "asked" else TeacherCache(Path(folder), {"side": side})
                learner = Distilled(Clip(smaller), tokenizer, part, plan, batch, cache)
                step = _stepping(learner, batch)
                sides[side] = _forgetting(learner, cache, step) if side == "first time" else step
            print(name)
            table(in_turns(sides, rounds))


if __name__ == "__main__":
    main()
