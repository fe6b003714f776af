"""The launcher `local`: Ray Train in a Ray that this process starts, on loopback, gone with it."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from components.config import ConfigError
from components.training.cluster.beside import beside
from components.training.cluster.fit import fit, train_settings
from components.training.cluster.stopping import ask_to_stop
from components.training.cluster.surroundings import (
    end,
    environment,
    kept_signals,
    processes_of,
    short_folder,
)
from components.training.plan import TrainingPlan
from components.training.progress import Follower
from components.training.training_job import TrainingJob


@contextmanager
def local_ray() -> Iterator[None]:
    """A Ray of this process: started here, gone afterwards with its processes and files.

    Inside another `local_ray`, or where Ray runs already, that one is used. Around several `train(launcher="local")`
    it saves starting Ray for each.
    """
    with environment(_settings()):  # before the import, which reads some of them
        import ray

        if ray.is_initialized():
            yield
            return
        temp = short_folder("dipray")
        try:
            with kept_signals():
                ray.init(
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(temp),
                )
            yield
        finally:
            running = processes_of(temp)
            ray.shutdown()
            end(running)
            shutil.rmtree(temp, ignore_errors=True)


def run_local(job: TrainingJob, follower: Follower) -> None:
    """Train a job here. Raises as `fit`, and `ConfigError` where this machine has too little for its workers."""
    with local_ray():
        check_room(job.plan, elsewhere=", or give the launcher jobs a cluster that has them")
        # Whatever ends this one leaves a checkpoint of the step it was at.
        beside(
            functools.partial(fit, job),
            ask_to_end=functools.partial(ask_to_stop, job.folder),
            look=follower.poll,
        )


def check_room(plan: TrainingPlan, *, elsewhere: str = "") -> None:
    """Raise `ConfigError` for a plan that Ray, the one here, would wait with for a machine that never comes.

    elsewhere: what else would work, as the end of the sentence.
    """
    import ray

    has = ray.cluster_resources()
    least = plan.min_workers or plan.workers
    fewer = " or fewer workers" if least > 1 else ""
    for resource, field in (("CPU", "cpus_per_worker"), ("GPU", "gpus_per_worker")):
        there, each = has.get(resource, 0.0), getattr(plan, field)
        if each * least > there:
            raise ConfigError(
                f"workers={least} with {field}={each:g} need {each * least:g} {resource}s, and this machine has "
                f"{there:g}: set training.{field}={_down(there / least):g}{fewer}{elsewhere}."
            )


def _down(value: float) -> float:
    return int(value * 100) / 100


def _settings() -> dict[str, str | None]:
    settings: dict[str, str | None] = {
        **train_settings(nodes_may_leave=False),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Off, all that Ray opens listens on 127.0.0.1; on, it looks up the host's outward address and listens there.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Unset, a new local Ray asks for a token by itself; set after `import ray` it would not be seen.
        "RAY_AUTH_MODE": None,
    }
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Else Ray writes one into the home directory, readable by everybody.
        settings["RAY_AUTH_TOKEN"] = _token()
    return settings


@functools.cache
def _token() -> str:
    """One for the whole process: Ray reads it once."""
    return secrets.token_hex(32)
