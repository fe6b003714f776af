"""What a plan asks of torch as a whole: device, threads and determinism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from components.config import ConfigError
from components.training.plan import TrainingPlan


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
    """Threads and determinism as the plan has them; as the caller had them afterwards.

    What has no deterministic algorithm runs with a warning. Without determinism cuDNN tries which algorithm is fastest.
    """
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
