"""How one training goes: steps, batch, optimiser, precision, workers. Not what is trained, and not on what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from components.config import ConfigError
from components.data.text import SMALLEST_VOCAB

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]
OptimiserName = Literal["adamw", "lamb", "sgd"]
OnNan = Literal["stop", "rewind"]
Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Every number that training needs beside the model's own; checks itself when it is made.

    Raises `ConfigError` naming the field, what came and what would work. Where pydantic reads YAML into it, unknown
    keys are refused as in `components/config.py`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    steps: int = 400
    """Optimiser steps in all, at least 1."""
    batch_size: int = 64
    """Pairs per step over all workers together; at least 2 for each worker, and a multiple of `workers`."""
    lr: float = 1e-3
    """Peak learning rate; a parameter group multiplies it by its own `lr_scale`."""
    weight_decay: float = 0.1
    """Decoupled decay, on the groups that ask for it."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the first and second moment of adamw and lamb, each in [0, 1)."""
    eps: float = 1e-6
    """Denominator floor of adamw and lamb, above 0."""
    optimiser: OptimiserName = "adamw"
    """`lamb` for very large batches; `sgd` with `momentum`, VirTex's with `lookahead` 5."""
    momentum: float = 0.9
    """Of sgd, in [0, 1)."""
    lookahead: int = 0
    """Steps between those of Lookahead's slow weights; 0 has none."""
    ema: float = 0.0
    """Decay of the weights' moving average, in [0, 1), which is then what a checkpoint is evaluated by; 0 has none."""
    warmup_steps: int = 20
    """Steps over which the rate rises from 0 to its peak; below `steps`."""
    schedule: Schedule = "cosine"
    """What the rate does after warm-up: fall to 0 as a half cosine or a line, or stay."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    seed: int = 0
    """Decides initial weights, batches and dropout."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the last step always makes one."""
    keep: int = 2
    """How many checkpoints stay, the newest; one with the lowest `val_loss` stays beside them."""
    val_batches: int = 0
    """Batches of the split `val` whose mean loss each checkpoint is measured by, as `val_loss`; 0 measures none."""
    report_every: int = 10
    """Steps between lines of progress; the last step always makes one."""
    precision: Precision = "fp32"
    """`bf16` and `fp16` run the forward pass under autocast; weights and optimiser stay in fp32. fp16 scales its loss."""
    accumulate: int = 1
    """Parts that each worker cuts its share of a batch into, one after the other; each holds less in memory."""
    activation_checkpointing: bool = False
    """Repeated blocks are computed again in the backward pass in place of being kept: less memory, a third more work."""
    compile: bool = False
    """Repeated blocks go through torch.compile; a minute or so before the first step."""
    deterministic: bool = True
    """Only algorithms that give the same bits each time, where there is a choice."""
    on_nan: OnNan = "stop"
    """At a loss that is not finite: end, or go back to the last finite checkpoint and pass over that batch."""
    workers: int = 1
    """Processes that share each batch; more than 1 needs the launcher `local` or `jobs`."""
    min_workers: int = 0
    """Fewest workers to go on with when a cluster shrinks; 0 waits until there is room for `workers` again."""
    parallel: Parallel = "ddp"
    """What several workers share: each holds the whole model (`ddp`) or a slice of it (`fsdp`, FSDP2)."""
    gpus_per_worker: float = 0.0
    """GPUs each worker reserves; 0 trains on the CPU."""
    cpus_per_worker: float = 1.0
    """Cores each worker reserves in Ray, above 0; below 1 lets workers share one."""
    threads: int = 1
    """Torch threads within one worker. Two threads on two busy cores were 14 times slower than one."""
    max_failures: int = 2
    """How often a lost worker is replaced before training gives up; 0 never. Notices of preemption are not counted."""
    hang_s: int = 600
    """Seconds without a step after which a worker tells its stack and is replaced; longer than any step or checkpoint."""
    vocab_size: int = 512
    """Entries the tokenizer may have, specials included; it is trained on the training captions."""

    PLACEMENT: ClassVar[frozenset[str]] = frozenset(
        {"workers", "min_workers", "parallel", "gpus_per_worker", "cpus_per_worker", "threads"}
        | {"max_failures", "hang_s"}
        | {"accumulate", "activation_checkpointing", "compile", "deterministic", "on_nan"}
        | {"checkpoint_every", "report_every", "keep", "val_batches"}
    )
    """Where and how it runs and what is told of it: a run may go on with other values of these.

    Dropout is drawn for each worker and micro-batch, so with it another number of these is another draw of the same
    training.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # JSON has no tuples
        for name, least in _WHOLE.items():
            self._check_whole(name, least)
        for name, may_be_zero in _REAL.items():
            self._check_real(name, may_be_zero)
        self._check_choice("schedule", get_args(Schedule))
        self._check_choice("precision", get_args(Precision))
        self._check_choice("parallel", get_args(Parallel))
        self._check_choice("optimiser", get_args(OptimiserName))
        self._check_choice("on_nan", get_args(OnNan))
        for name in ("activation_checkpointing", "compile", "deterministic"):
            self._check_yes_or_no(name)
        for name in ("momentum", "ema"):
            self._check_below_one(name)
        self._check_betas()
        self._check_warmup()
        self._check_batch()
        self._check_elastic()
        self._check_slices()

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The plan that `to_dict` gave; an unknown key is a `ConfigError`."""
        unknown = sorted(set(saved) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(sorted(cls.__dataclass_fields__))
            raise ConfigError(f"A training plan has no {', '.join(unknown)}; it has {known}.")
        return cls(**saved)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "betas": list(self.betas)}

    def decides(self) -> dict[str, Any]:
        """`to_dict` without `PLACEMENT`: what a run is known by."""
        return {name: value for name, value in self.to_dict().items() if name not in self.PLACEMENT}

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` finished steps."""
        return step % self.checkpoint_every == 0 or step == self.steps

    def _check_whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and least <= value < 2**63):
            raise ConfigError(f"{name}={value!r} cannot work; a whole number from {least} does.")

    def _check_real(self, name: str, may_be_zero: bool) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # Written so that NaN is refused too.
        if not (number and math.isfinite(value) and (value > 0 or (value == 0 and may_be_zero))):
            least = "0 or above" if may_be_zero else "above 0"
            raise ConfigError(f"{name}={value!r} cannot work; it takes a finite number, {least}.")

    def _check_choice(self, name: str, known: tuple[str, ...]) -> None:
        if getattr(self, name) not in known:
            raise ConfigError(f'{name}="{getattr(self, name)}" is none of {", ".join(known)}.')

    def _check_yes_or_no(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise ConfigError(f"{name}={getattr(self, name)!r} is neither true nor false.")

    def _check_below_one(self, name: str) -> None:
        if not getattr(self, name) < 1:
            raise ConfigError(f"{name}={getattr(self, name)!r} cannot work; it takes [0, 1).")

    def _check_betas(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"betas={self.betas} cannot work; two numbers in [0, 1), as 0.9, 0.98."
            )

    def _check_warmup(self) -> None:
        if self.warmup_steps >= self.steps:
            raise ConfigError(
                f"warmup_steps={self.warmup_steps} leaves nothing of steps={self.steps} to train at the "
                f"full rate; at most {self.steps - 1} works, {self.steps // 20} is usual."
            )

    def _check_batch(self) -> None:
        parts = self.workers * self.accumulate
        if self.batch_size % parts:
            below = self.batch_size // parts * parts
            cut = f" x accumulate={self.accumulate}" if self.accumulate > 1 else ""
            raise ConfigError(
                f"batch_size={self.batch_size} is not a multiple of workers={self.workers}{cut}; "
                f"{below or parts * 2} or {below + parts} would be."
            )
        if self.batch_size < 2 * self.workers:
            raise ConfigError(
                f"batch_size={self.batch_size} leaves workers={self.workers} fewer than 2 pairs each, and a "
                f"contrastive loss needs something to contrast; the smallest is {2 * self.workers}."
            )

    def _check_slices(self) -> None:
        if self.parallel == "fsdp" and self.precision == "fp16":
            raise ConfigError(
                "parallel=fsdp with precision=fp16 cannot work: torch's scaler takes slices and whole tensors only apart; "
                "fp32 or bf16 does, or parallel=ddp."
            )

    def _check_elastic(self) -> None:
        if self.min_workers > self.workers:
            raise ConfigError(
                f"min_workers={self.min_workers} is above workers={self.workers}, the most there may be; "
                f"1 to {self.workers} works, and 0 for a number that does not change."
            )
        counts = range(self.min_workers or self.workers, self.workers + 1)
        uneven = [count for count in counts if self.batch_size % (count * self.accumulate)]
        if uneven:
            unit = math.lcm(*counts) * self.accumulate
            cut = f" with accumulate={self.accumulate}" if self.accumulate > 1 else ""
            raise ConfigError(
                f"batch_size={self.batch_size} cannot be shared evenly by {', '.join(map(str, uneven))} workers{cut}, and "
                f"min_workers={self.min_workers} to workers={self.workers} allows that; a multiple of {unit} could, "
                f"as {max(1, round(self.batch_size / unit)) * unit}."
            )


_WHOLE = {
    "steps": 1,
    "batch_size": 2,
    "warmup_steps": 0,
    "seed": 0,
    "checkpoint_every": 1,
    "keep": 1,
    "val_batches": 0,
    "report_every": 1,
    "workers": 1,
    "min_workers": 0,
    "threads": 1,
    "max_failures": 0,
    "hang_s": 1,
    "accumulate": 1,
    "lookahead": 0,
    "vocab_size": SMALLEST_VOCAB,
}
"""Whole numbers and the least each may be."""

_REAL = {
    "lr": False,
    "weight_decay": True,
    "eps": False,
    "clip_norm": True,
    "momentum": True,
    "ema": True,
    "gpus_per_worker": True,
    "cpus_per_worker": False,
}
"""Real numbers, and whether 0 works."""
