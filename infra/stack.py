"""The local stack: Prefect server and worker, MLflow and a Ray head, on loopback.

`up` twice is `up` once; `down` ends what `up` started and nothing else; `short_lived` does both
around a block. How each service is started stands in ``services.py``.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from infra import ports, processes, stack_state
from infra.services import SERVICES, Service
from infra.settings import PORT_VARIABLES, Settings
from infra.stack_state import Entry

NEEDED_BYTES = 2**30  # databases, logs, Ray's session and a first run
START_PATIENCE_S = 180  # twelve seconds on a quiet laptop, 44 were seen on a busy one
STOP_PATIENCE_S = 10

Say = Callable[[str], None]
Ended = TypeVar("Ended")


class ServiceFailed(RuntimeError):
    """A service ended while it started, or did not get well in time."""


class UnknownService(ValueError):
    """No service of that name."""


class DiskTooFull(RuntimeError):
    """Too little room to start servers that write."""


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now."""

    name: str
    state: Literal["up", "ill", "down"]
    """ill: its process runs but it does not answer as it should."""
    url: str | None
    """Where a person or client finds it; the worker has none."""
    pid: int | None
    since_s: float | None
    """When it was started, in seconds since 1970."""
    log: Path
    detail: str
    """For a person: what is wrong, who holds its port, or nothing."""


def up(
    settings: Settings,
    services: Iterable[str] = tuple(SERVICES),
    *,
    say: Say = lambda line: None,
    patience_s: float = START_PATIENCE_S,
    short_lived: bool = False,
) -> list[ServiceStatus]:
    """Start what does not run, with what it needs; returns the state of what was asked for.

    A service that is well is left alone, one that is dead or ill is started again. If one fails,
    or on a signal, all that this call started is stopped. Raises PortInUse, DiskTooFull,
    ServiceFailed, UnknownService, SettingsError, StackBusy.
    """
    wanted = _with_needs(services)
    settings.prepare()
    _require_disk(settings)
    with processes.signals_raise(), stack_state.locked(settings, patience_s=2 * patience_s):
        missing = [s for s in wanted if not _keep(settings, s, say, short_lived)]
        _clear(settings, missing)
        try:
            for wave in _waves(missing):
                _start_wave(settings, wave, say, patience_s, short_lived)
        except BaseException:
            _surely(lambda patience_s: _stop(settings, missing, patience_s))
            raise
    return [_status(settings, service) for service in wanted]


def down(
    settings: Settings,
    services: Iterable[str] = tuple(SERVICES),
    *,
    say: Say = lambda line: None,
    patience_s: float = STOP_PATIENCE_S,
) -> list[str]:
    """Stop these services, with every process they left; returns the names of those that ran.

    Raises UnknownService, StackBusy, StackStateDamaged.
    """
    chosen = [_find(name) for name in services]
    if not settings.home.is_dir():
        return []
    with (
        processes.signals_raise(),
        stack_state.locked(settings, patience_s=2 * START_PATIENCE_S),
    ):
        stopped = _surely(lambda wait_s: _stop(settings, chosen, wait_s), patience_s)
    for name in stopped:
        say(f"{name}: stopped")
    return stopped


def status(settings: Settings) -> list[ServiceStatus]:
    """Every service as it is now, asked over its own door. Changes nothing."""
    return [_status(settings, service) for service in SERVICES.values()]


@contextmanager
def short_lived(
    settings: Settings,
    services: Iterable[str] = ("prefect", "mlflow"),
    *,
    say: Say = lambda line: None,
) -> Iterator[Settings]:
    """The services for the length of a block; those that ran before stay, the others end with it.

    Several processes may do so at once in one home: the last one out stops the services. Ctrl-C,
    SIGTERM and a closed terminal end them too, a second Ctrl-C without waiting.
    """
    settings.prepare()
    with processes.signals_raise(), (settings.home / "stack.users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            up(settings, services, say=say, short_lived=True)
            yield settings
        finally:
            ended = _surely(lambda patience_s: _leave(settings, users.fileno(), patience_s))
            if ended:
                say(
                    f"{' and '.join(ended)}: ended with this command; `diptych up` shows the pages again."
                )


def _leave(settings: Settings, users: int, patience_s: float) -> list[str]:
    # While another `up` holds the lock it may take minutes; after a second Ctrl-C nobody waits that
    # long, and the services that stay are its own to keep, or for the next one out to stop.
    with stack_state.locked(settings, patience_s=2 * START_PATIENCE_S if patience_s else 5):
        if not stack_state.try_lock(users):
            return []  # somebody else is still in
        entries = stack_state.read(settings)
        ours = [SERVICES[name] for name, entry in entries.items() if entry.short_lived]
        return _stop(settings, ours, patience_s)


def _surely(end: Callable[[float], Ended], patience_s: float = STOP_PATIENCE_S) -> Ended:
    """`end(patience_s)`; a signal meanwhile takes its patience, but not the ending."""
    try:
        return end(patience_s)
    except (KeyboardInterrupt, SystemExit):
        with processes.deaf():
            end(0)
        raise


def _keep(settings: Settings, service: Service, say: Say, short_lived: bool) -> bool:
    """Whether a service runs and is well; `up` makes a short-lived one stay."""
    entries = stack_state.read(settings)
    entry = entries.get(service.name)
    if entry is None or not processes.is_alive(entry.started):
        return False
    # On a busy machine a well one may answer late; to restart it would end its flow runs.
    if not processes.wait_until(lambda: service.ailment(settings, entry.began_s) is None, 20):
        say(f"{service.name}: {service.ailment(settings, entry.began_s)}; starting it again")
        return False
    if entry.short_lived and not short_lived:
        stack_state.write(settings, {**entries, service.name: replace(entry, short_lived=False)})
    say(f"{service.name}: already up")
    return True


def _clear(settings: Settings, missing: Sequence[Service]) -> None:
    """Sweep what dead or ill services left, then make sure that nobody else has their ports."""
    _stop(settings, missing, STOP_PATIENCE_S)
    for service in missing:
        for name in service.ports:
            port = getattr(settings, name)
            ports.require_free(port, service=service.name, variable=PORT_VARIABLES[name])


def _start_wave(
    settings: Settings, wave: Sequence[Service], say: Say, patience_s: float, short_lived: bool
) -> None:
    began = time.monotonic()
    for service in wave:
        started = processes.start(
            service.argv(settings),
            mark=_mark(settings, service),
            env=settings.child_environment(),
            folder=settings.repo,
            log=_log(settings, service),
        )
        entry = Entry(started.pid, started.began_s, short_lived)
        stack_state.write(settings, {**stack_state.read(settings), service.name: entry})
    for service in wave:
        _await(settings, service, patience_s)
        say(f"{service.name}: up after {time.monotonic() - began:.1f} s")


def _await(settings: Settings, service: Service, patience_s: float) -> None:
    entry = stack_state.read(settings)[service.name]
    ailment: str | None = None

    def settled() -> bool:
        nonlocal ailment
        ailment = service.ailment(settings, entry.began_s)
        return ailment is None or not processes.is_alive(entry.started)

    # Seldom: each look at Prefect writes a token, beside which it refuses who else writes.
    in_time = processes.wait_until(settled, patience_s, every_s=0.5)
    if ailment is not None:
        why = f"is not well after {patience_s:.0f} s" if not in_time else "ended while it started"
        raise ServiceFailed(
            f"{service.name} {why}: {ailment}.\nIts last lines ({_log(settings, service)}):\n"
            + _tail(_log(settings, service))
        )


def _stop(settings: Settings, services: Iterable[Service], patience_s: float) -> list[str]:
    """Stop in the order opposite to starting; returns the names of those that ran."""
    names = {service.name for service in services}
    chosen = [service for service in reversed(SERVICES.values()) if service.name in names]
    return [service.name for service in chosen if _stop_one(settings, service, patience_s)]


def _stop_one(settings: Settings, service: Service, patience_s: float) -> bool:
    entries = stack_state.read(settings)
    entry = entries.pop(service.name, None)
    started = entry.started if entry else None
    count = processes.stop(_mark(settings, service), started, patience_s=patience_s)
    if entry is not None:
        stack_state.write(settings, entries)
    if service.name == "ray":
        shutil.rmtree(settings.ray_temp, ignore_errors=True)  # sessions and sockets, no results
    return count > 0


def _status(settings: Settings, service: Service) -> ServiceStatus:
    entry = stack_state.read(settings).get(service.name)
    alive = entry is not None and processes.is_alive(entry.started)
    if entry is not None and alive:
        ailment = service.ailment(settings, entry.began_s)
        state: Literal["up", "ill", "down"] = "up" if ailment is None else "ill"
        detail = ailment or ""
    else:
        state, detail = "down", _why_down(settings, service, entry)
    return ServiceStatus(
        name=service.name,
        state=state,
        url=service.url(settings),
        pid=entry.pid if entry is not None and alive else None,
        since_s=entry.began_s if entry is not None and alive else None,
        log=_log(settings, service),
        detail=detail,
    )


def _why_down(settings: Settings, service: Service, entry: Entry | None) -> str:
    taken = [p for p in (getattr(settings, n) for n in service.ports) if not ports.is_free(p)]
    if taken:
        return f"port {taken[0]} is taken by {ports.holder(taken[0])}"
    return f"pid {entry.pid} is gone; `diptych up` starts it again" if entry else ""


def _with_needs(services: Iterable[str]) -> list[Service]:
    names = {name for given in services for name in (given, *_find(given).needs)}
    return [service for service in SERVICES.values() if service.name in names]


def _find(name: str) -> Service:
    if name not in SERVICES:
        raise UnknownService(f"No service {name!r}. Known: {', '.join(SERVICES)}.")
    return SERVICES[name]


def _waves(services: Sequence[Service]) -> list[list[Service]]:
    """Those that need nobody start together, the others after them."""
    first = [service for service in services if not service.needs]
    return [first, [service for service in services if service.needs]]


def _require_disk(settings: Settings) -> None:
    for folder in {settings.home, settings.ray_temp.parent}:
        free = shutil.disk_usage(folder).free
        if free < NEEDED_BYTES:
            raise DiskTooFull(
                f"{folder} has {free / 2**20:.0f} MiB left; the servers need "
                f"{NEEDED_BYTES / 2**20:.0f} MiB. Make room, or set DIPTYCH_HOME to a folder on a "
                "larger disk."
            )


def _mark(settings: Settings, service: Service) -> str:
    return f"{service.name}@{settings.home}"


def _log(settings: Settings, service: Service) -> Path:
    return settings.logs / f"{service.name}.log"


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
