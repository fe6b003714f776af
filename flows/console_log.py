"""Prefect's log as a person at a terminal wants it: time, which run, what; tracebacks stay in the run's own log."""

from __future__ import annotations

import logging

from prefect.logging.handlers import PrefectConsoleHandler

ENGINE = ("Beginning ", "View at ", "Finished in state Completed", "Finished in state Failed")
"""What Prefect says of every run: in its UI it is a colour, here it would bury the rest. Why one failed was said before."""


class PlainConsole(PrefectConsoleHandler):
    """Chosen for a command's own process by `flows/terminal.py`, never in a worker."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out what the engine says of every run."""
        return bool(super().filter(record)) and not record.getMessage().startswith(ENGINE)

    def format(self, record: logging.LogRecord) -> str:
        """`11:22:36  refresh emoji_mini: message`."""
        run = getattr(record, "task_run_name", None) or getattr(record, "flow_run_name", None)
        time = logging.Formatter("%(asctime)s").formatTime(record, "%H:%M:%S")
        return f"{time}  {f'{run}: ' if run else ''}{record.getMessage()}"
