"""A call in a thread of its own, while this one hears signals.

A signal's exception that arrives inside of Ray's C code comes out as a SystemError, and what calls Ray may catch that
and go on: so the thread that hears signals must not be the one that waits for Ray.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

_POLL_S = 0.5
_GRACE_S = 5.0


def beside(
    work: Callable[[], object],
    *,
    ask_to_end: Callable[[], object],
    look: Callable[[], object] = lambda: None,
) -> None:
    """Do the work to its end, and raise what it raised.

    look: called here every half second, and once afterwards. What it raises, or a signal's handler, ends this one: it asks
    the work to end, gives it five seconds for that, and raises.
    """
    failed: list[BaseException] = []
    # Not the thread's own join: Python 3.11 takes a thread for ended once an exception came while it was joined.
    ended = threading.Event()

    def keep_failure() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(keep_failure,), daemon=True)
    try:
        thread.start()  # in here: a signal may come before this returns, and the work goes on already
        while not ended.wait(_POLL_S):
            look()
        look()
    except BaseException:
        ask_to_end()
        ended.wait(_GRACE_S)
        raise
    if failed:
        raise failed[0]
