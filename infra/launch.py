"""Become another program, with the signals as a terminal would give them.

A process started in the background of a script ignores SIGINT, and so do its children: Prefect's
worker, which stops by sending itself SIGINT, would go on taking runs. Popen restores neither, and
code between fork and exec is unsafe beside threads. Run as a file: ``python launch.py program …``.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 no shell is what we want
