"""What rank 0 does alone and may be long at: the others wait for it as long as it tells them that it lives.

A collective waits no longer than the process group's limit, which is a few steps' time; a mirror may take hours.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

_BEAT_S = 1.0


@contextmanager
def awaited(rank: int, world: int, device: torch.device | str) -> Iterator[None]:
    """A block that no worker leaves before rank 0 does; all must come to it, and nobody calls a collective inside.

    device: one the process group's backend serves. Where rank 0 leaves by an error the others wait as long as for any
    collective of a worker that is lost.
    """
    if world == 1:
        yield
        return
    # Made here: a thread has a current GPU of its own.
    left = torch.zeros(1, device=device)
    if rank:
        yield
        while not _told(left):
            """Rank 0 lives."""
        return
    leaving = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        telling = pool.submit(_tell, left, leaving)
        try:
            yield
        finally:
            leaving.set()
    telling.result()
    _told(left.fill_(1))


def _tell(left: Tensor, leaving: threading.Event) -> None:
    while not leaving.wait(_BEAT_S):
        _told(left)


def _told(left: Tensor) -> bool:
    """What rank 0 says, on every worker."""
    dist.broadcast(left, 0)
    return bool(left)
