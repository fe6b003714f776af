"""A page of numbers that `make` writes: its rows made two at a time, kept, and put below the page's mark.

Not for what a row is made of: `flows/pages/seeded_runs.py` trains, each report measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean, pstdev
from typing import TypeVar

from components import atomic
from infra.settings import Settings

T = TypeVar("T")


def as_made(make: Callable[..., T], asked: Iterable[Sequence[object]]) -> Iterator[T]:
    """What `make` gives for each of the arguments, two at a time, as they are made.

    A failure is told at once and keeps no other from being made; the first is raised after all.
    """
    failed: list[BaseException] = []
    with ProcessPoolExecutor(max_workers=2) as pool:
        for future in as_completed([pool.submit(make, *each) for each in asked]):
            if error := future.exception():
                print(f"{type(error).__name__}: {error}", flush=True)
                failed.append(error)
            else:
                yield future.result()
    if failed:
        raise failed[0]


def newest(report: str) -> Path:
    """Where a report keeps the newest of each of its rows, so that a page of some leaves the others as they were."""
    folder = Settings.read().home / report
    folder.mkdir(exist_ok=True)
    return folder


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, as a cell; "n/a" for none."""
    if not values:
        return "n/a"
    around = f" ± {pstdev(values):.3f}" if len(set(values)) > 1 else ""
    return f"{fmean(values):.3f}{around}"


def write_below(page: Path, mark: str, table: str, missing: Sequence[str]) -> None:
    """Put what was measured below the mark of a page, and what could not be; what people wrote above it stays."""
    head = page.read_text(encoding="utf-8").partition(mark)[0] if page.exists() else ""
    atomic.write_text(page, f"{head}{mark}\n\n{table}{_left_out(missing)}")


def _left_out(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    return f"\nNot measured here, as their source is not prepared on this machine: {', '.join(missing)}.\n"
