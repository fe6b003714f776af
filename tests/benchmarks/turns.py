"""Sides measured turn about in one process, so that a busy machine is as hard on each; ratios are of CPU seconds.

CPU seconds of the process, one torch thread: time-sharing does not count, contention for memory does, and a ratio is the
median of the rounds' own ratios, which it hits alike.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Sides = Mapping[str, Callable[[], Any]]


def cpu_s(work: Callable[[], Any]) -> float:
    """CPU seconds of this process that `work` takes."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def in_turns(
    sides: Sides,
    rounds: int,
    seconds_of: Callable[[Callable[[], Any]], float] = cpu_s,
    *,
    unseen: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each side in each round, of CPU if nothing else is said; every side runs `unseen` times before."""
    for _ in range(unseen):
        for work in sides.values():
            work()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            found[name].append(seconds_of(work))
    return found


def ratio(peer: list[float], ours: list[float]) -> tuple[float, float, float]:
    """Peer over ours: median, lowest and highest of the rounds."""
    each = [theirs / mine for theirs, mine in zip(peer, ours, strict=True)]
    return statistics.median(each), min(each), max(each)


def table(found: Mapping[str, list[float]], *, unit: str = "ms", per_s: float = 0) -> None:
    """One line a side: its median, and how much faster it is than the first. per_s: items of a turn, for a rate."""
    peer = next(iter(found.values()))
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        shown = f"{per_s / middle:10.2f} {unit}" if per_s else f"{1000 * middle:10.1f} {unit}"
        median, least, most = ratio(peer, seconds)
        print(f"  {name:44}{shown}   {median:5.2f} [{least:.2f}–{most:.2f}]", flush=True)


def compare(
    what: str, sides: Sides, rounds: int, wanted: float, *, unit: str = "ms", per_s: float = 0
) -> None:
    """A peer and ours turn about, a line each, and whether ours is as much faster as is wanted."""
    print(f"\n{what}")
    found = in_turns(sides, rounds)
    table(found, unit=unit, per_s=per_s)
    peer, ours = found.values()
    aim("ratio", ratio(peer, ours)[0], wanted)


def aim(what: str, found: float, wanted: float) -> None:
    """A goal of the project and what was measured, said plainly."""
    verdict = "reached" if found >= wanted else "MISSED"
    print(f"  aim: {what} >= {wanted:g}: {found:.2f}, {verdict}", flush=True)


def peak_mb(work: Callable[[], Any]) -> float:
    """MB that `work` needs beyond what is there before it, in a forked child."""
    # Memory that is free but still held (glibc) would hide what is needed.
    ctypes.CDLL(None).malloc_trim(0)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_peak, args=(work, there))
    child.start()
    found: float = here.recv()
    child.join()
    return found


def memory(what: str, sides: Sides) -> dict[str, float]:
    """One line with what each side needs, in MB."""
    found = {name: peak_mb(work) for name, work in sides.items()}
    print(f"  {what}: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in found.items()))
    return found


def _peak(work: Callable[[], Any], out: Any) -> None:
    # A fork starts with its present size as its peak.
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    work()
    out.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6)


def matmul_gflops(dtype: torch.dtype = torch.float32, side: int = 2048) -> float:
    """What one product of two square matrices reaches here and now, in GFLOP per CPU second."""
    a, b = torch.randn(2, side, side).to(dtype)
    _ = a @ b
    return max(2 * side**3 / cpu_s(lambda: a @ b) for _ in range(3)) / 1e9


def settle() -> None:
    """One thread, and what the machine is doing, for whoever reads the figures."""
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, one thread; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; "
        f"matmul {matmul_gflops():.0f} fp32, {matmul_gflops(torch.bfloat16):.0f} bf16 GFLOP per CPU second",
        flush=True,
    )
