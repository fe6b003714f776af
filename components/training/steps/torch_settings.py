"""What a plan asks of torch and of the process as a whole: device, threads, determinism, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from components.config import ConfigError
from components.training.plan import TrainingPlan

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def device_for(plan: TrainingPlan, asked: torch.device | str | None = None) -> torch.device:
    """Where to train: what was asked for, else a GPU if the plan has any. ConfigError for one that is not there."""
    device = torch.device(asked or ("cuda" if plan.gpus_per_worker else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"gpus_per_worker={plan.gpus_per_worker:g}, and this machine shows no GPU; 0 trains on its CPU."
        )
    return device


@contextmanager
def settled(plan: TrainingPlan) -> Iterator[None]:
    """Threads and determinism as the plan has them; as the caller had them afterwards. Freed memory stays kept.

    What has no deterministic algorithm runs with a warning. Without determinism cuDNN tries which algorithm is fastest.
    """
    keep_freed_memory()
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tuned = torch.backends.cudnn.benchmark
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(plan.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not plan.deterministic
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.cudnn.benchmark = tuned
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Let the process keep what it frees, up to 2 GiB, for as long as it lives; nothing where the C library is not glibc.

    A step frees its activations and the next one needs them: by glibc's defaults they go back to the system each time,
    and getting them again, page by page, takes up to a tenth of a small model's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most it allows; larger blocks always go back
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
