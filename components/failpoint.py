"""Named places where a process may be told to die, so that crashes are tried and not imagined.

Inert unless the environment says `DIPTYCH_FAIL=name` or `DIPTYCH_FAIL=name:n` (die at the n-th passage, from 1).
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """End this process with SIGKILL, as an out-of-memory killer or a power cut would, if it is told to die here."""
    asked = os.environ.get("DIPTYCH_FAIL")
    if not asked:
        return
    wanted, _, count = asked.partition(":")
    if wanted != name:
        return
    _passages[name] += 1
    if _passages[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
