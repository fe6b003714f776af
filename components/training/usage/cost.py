"""What a run took: device-seconds, samples, tokens, energy, and how much of it an interruption wasted.

Kept over all attempts in `cost.jsonl` of the run's folder, which only grows: a line when an attempt's training begins,
at each report and at each checkpoint. A kill loses what came after the last line. Start-up before the job is read
(Ray, imports) is not in it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import torch

from components.records import Batch
from components.training.loop import Batches
from components.training.usage.energy import Energy

FILE = "cost.jsonl"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One line: what an attempt took until then, all its workers together."""

    attempt: int
    """From 1."""
    workers: int
    device: str
    """`cpu`, or the GPU's name."""
    begun_step: int
    """Finished steps when the attempt began."""
    step: int
    """Finished steps now."""
    wall_s: float
    """Since the attempt's job began."""
    samples: int
    tokens: int
    energy_j: float | None
    """None where no driver counts it."""
    time: float
    """In seconds since 1970; for people."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A run's cost over all its attempts."""

    device: str
    """Of the last attempt."""
    device_seconds: float
    """Workers times their wall-clock seconds."""
    wasted_seconds: float
    """Of these, what came to nothing: steps that a later attempt began before, and starting anew."""
    samples: int
    """Images and texts that went through the model, those of repeated steps too."""
    tokens: int
    """Of their texts, without padding."""
    energy_joules: float | None
    attempts: int

    @property
    def numbers(self) -> dict[str, float]:
        """What can be charted, by name; what nobody counted is left out."""
        values = {name: value for name, value in asdict(self).items() if name != "device"}
        return {name: float(value) for name, value in values.items() if value is not None}


class Meter:
    """Counts what one worker does; `read` adds up all of them, who must ask together."""

    def __init__(self, batches: Batches, device: torch.device, world: int, began_s: float) -> None:
        """began_s: on the monotonic clock."""
        self._batches, self._device, self._world, self._began_s = batches, device, world, began_s
        self._energy = Energy(device)
        self._samples = self._tokens = 0

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted."""
        made = self._batches.batch(step)
        self._samples += len(made.tokens_BT)
        self._tokens += int(made.lengths_B.sum())
        return made

    def read(self) -> tuple[float, int, int, float | None]:
        """Seconds since the beginning; samples, tokens and joules of all workers."""
        joules = self._energy.joules()
        counted = [self._samples, self._tokens, joules or 0.0, float(joules is not None)]
        summed = torch.tensor(counted, dtype=torch.float64, device=self._device)
        if self._world > 1:
            torch.distributed.all_reduce(summed)
        samples, tokens, all_joules, counting = summed.tolist()
        wall_s = time.monotonic() - self._began_s
        return wall_s, round(samples), round(tokens), all_joules if counting else None


class Account:
    """One attempt's lines."""

    def __init__(self, path: Path, *, workers: int, device: torch.device, begun_step: int) -> None:
        known = read(path)
        self._path, self._workers, self._begun_step = path, workers, begun_step
        self._attempt = known[-1].attempt + 1 if known else 1
        cuda = device.type == "cuda"
        self._device = torch.cuda.get_device_name(device) if cuda else device.type

    def add(self, step: int, counted: tuple[float, int, int, float | None]) -> None:
        """Write down what `Meter.read` gave after `step` finished steps."""
        wall_s, samples, tokens, energy_j = counted
        line = Spent(
            attempt=self._attempt,
            workers=self._workers,
            device=self._device,
            begun_step=self._begun_step,
            step=step,
            wall_s=wall_s,
            samples=samples,
            tokens=tokens,
            energy_j=energy_j,
            time=time.time(),
        )
        # After a line that a kill cut short a new one has to begin.
        begin = "\n" if _ends_midway(self._path) else ""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(begin + json.dumps(asdict(line), sort_keys=True, allow_nan=False) + "\n")


def read(path: Path) -> list[Spent]:
    """All whole lines; one that a kill cut short is left out. No file is no lines."""
    return list(_lines(path.read_text(encoding="utf-8"))) if path.exists() else []


def total(path: Path) -> Cost | None:
    """What a run took so far; None before its first line."""
    lines = read(path)
    if not lines:
        return None
    attempts = [list(group) for _, group in groupby(lines, key=lambda line: line.attempt)]
    last = [attempt[-1] for attempt in attempts]
    joules = [line.energy_j for line in last if line.energy_j is not None]
    return Cost(
        device=last[-1].device,
        device_seconds=sum(line.wall_s * line.workers for line in last),
        wasted_seconds=_wasted_seconds(attempts),
        samples=sum(line.samples for line in last),
        tokens=sum(line.tokens for line in last),
        energy_joules=sum(joules) if joules else None,
        attempts=len(attempts),
    )


def _wasted_seconds(attempts: Sequence[Sequence[Spent]]) -> float:
    wasted = 0.0
    for number, attempt in enumerate(attempts, start=1):
        start_s = attempt[0].wall_s
        # Any later attempt may go back before this one's beginning; then nothing of it is left.
        kept_step = min((later[0].begun_step for later in attempts[number:]), default=math.inf)
        kept_s = max((line.wall_s for line in attempt if line.step <= kept_step), default=start_s)
        again_s = start_s if number > 1 else 0.0  # the first start is needed by any run
        wasted += (attempt[-1].wall_s - kept_s + again_s) * attempt[0].workers
    return wasted


def _lines(text: str) -> Iterator[Spent]:
    for line in text.splitlines():
        try:
            yield Spent(**json.loads(line))
        except (ValueError, TypeError):
            continue


def _ends_midway(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"
