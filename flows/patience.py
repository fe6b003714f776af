"""Which failure of a task is worth another try: a server that was away is, data or settings that are wrong are not."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.training.cluster.failure import FINAL, TrainingFailed
from components.training.loop import Interrupted


def may_pass(_task: Any, _task_run: Any, state: Any) -> bool:
    """Prefect's question before a retry."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, TrainingFailed):
        return not error.final
    return not isinstance(error, (*FINAL, Interrupted))  # what was asked to stop stays stopped


patient = partial(
    task, retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass, cache_policy=NO_CACHE
)
"""A task that is tried again where that may help; nothing of it is cached, for our own keys say what is done."""
