"""How a command meets a terminal: the platform around it, plain log lines, tables, errors without tracebacks."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from infra import stack
from infra.settings import Settings

if TYPE_CHECKING:
    from flows.outcome import Outcome

EXPECTED = (ValueError, LookupError, OSError, RuntimeError, ArithmeticError)
"""What a person can mend: told in words, exit code 2. Anything else is our mistake and shows its traceback."""
OURS = (KeyError, IndexError, RecursionError, NotImplementedError)
"""Raised as they are they are our mistakes too; the classes made from them are not."""
OUTSIDE = ("prefect", "mlflow", "sqlalchemy", "httpx", "ray")
"""Systems whose own errors are told in words as well."""


@contextmanager
def command(debug: bool) -> Iterator[Settings]:
    """The settings, with this process's environment made theirs; expected errors become words and exit code 2.

    Torch, Prefect, MLflow and Ray read the environment when they are imported, so it comes first.
    """
    try:
        settings = Settings.read()
        os.environ.update(settings.child_environment())
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS"] = "flows.console_log.PlainConsole"
        os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
        yield settings
    except (typer.Exit, typer.Abort):  # they are RuntimeErrors, and say how a command ended
        raise
    except BrokenPipeError:  # `| head` has read enough: Typer ends the command in silence
        raise
    except Exception as error:
        if debug or not _is_expected(error):
            raise
        # It may quote what a file holds.
        said = "\n".join(map(plain, f"diptych: {_words(error)}".split("\n")))
        print(said, file=sys.stderr)
        raise SystemExit(2) from None


def _is_expected(error: Exception) -> bool:
    if type(error) in OURS:
        return False
    return isinstance(error, EXPECTED) or type(error).__module__.partition(".")[0] in OUTSIDE


def _words(error: Exception) -> str:
    said = str(error) or type(error).__name__
    if said.startswith("Failed to reach API"):  # all that Prefect says
        return f"{said}. Start Prefect with `diptych up`; DIPTYCH_PREFECT_PORT says where it is."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{said}. Make room and run it again: it goes on with what is finished."
    return said


@contextmanager
def platform(debug: bool) -> Iterator[Settings]:
    """A command with Prefect and MLflow: those that are up, or short-lived ones that end with it."""
    with command(debug) as settings, stack.short_lived(settings, ("prefect", "mlflow"), say=say):
        try:
            yield settings
        except KeyboardInterrupt:
            say("Stopped. The same command goes on with what is finished.")
            raise
        finally:
            _deliver()


def _deliver() -> None:
    """Send Prefect's logs and events while its server runs; at the process's end it would wait a minute for one."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        for worker in (APILogWorker, EventsWorker):
            worker.drain_all(timeout=10)


def launcher(settings: Settings) -> str:
    """The cluster that is named, or Ray's head if it is up; else a Ray of the command's own."""
    if settings.ray_cluster:
        return "jobs"
    up = {service.name for service in stack.status(settings) if service.state == "up"}
    return "jobs" if "ray" in up else "local"


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)


def plain(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def show(outcomes: Sequence[Outcome]) -> None:
    """Report tables, verdicts with their reasons, and the pages to open."""
    from rich.console import Console
    from rich.table import Table

    from flows.outcome import rows

    # Piped into a file there is no width to keep to.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    for outcome in outcomes:
        if outcome.candidate is not None:
            table = Table(title=f"{outcome.experiment} version {outcome.candidate.number}")
            found = rows(outcome.candidate.report, outcome.champion_report)
            for place, column in enumerate(found[0] if found else ()):
                table.add_column(column.replace("_", " "), justify="right" if place else "left")
            for row in found:
                table.add_row(*row.values())
            console.print(table)
        for reason in outcome.verdict.reasons if outcome.verdict else ():
            console.print(f"  {'✓' if reason.passed else '✗'} {reason.sentence}", markup=False)
        console.print(outcome.sentence(), style="bold", markup=False)
        for title, address in outcome.links.items():
            console.print(f"  {title}: {address}", markup=False, soft_wrap=True)
        console.print()
