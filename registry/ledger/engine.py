"""The ledger's connection: durable, patient with other writers, and in real transactions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError
from sqlalchemy.pool import NullPool

from components.config import ConfigError

BUSY_TIMEOUT_S = 30


class LedgerUnusable(RuntimeError):
    """The database cannot be read or written: full, locked, damaged, away; nothing of what was asked was recorded."""


def make_engine(url: str) -> Engine:
    """An engine without a pool: the ledger is asked a few times an hour, often from forked or short processes."""
    engine = _create(url)
    event.listen(engine, "handle_error", _in_words)
    if engine.dialect.name == "sqlite":
        if make_url(url).database in (None, "", ":memory:"):
            raise ConfigError(
                f'The ledger is to last, and "{url}" names no file; use sqlite:///PATH.'
            )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _create(url: str) -> Engine:
    advice = "DIPTYCH_LEDGER_URL names the database; unset, the ledger is a SQLite file."
    try:
        return create_engine(url, poolclass=NullPool)
    except ArgumentError:  # its text is left out, as the address may hold a password
        kind = url.partition(":")[0]
        raise ConfigError(
            f"The ledger's address of kind {kind!r} is none. What works: sqlite:////absolute/path.db or "
            f"postgresql+psycopg://…; {advice}"
        ) from None
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The ledger's address asks for the driver {error.name}, which is not installed: "
            f"`pip install {error.name}`. {advice}"
        ) from error


def _in_words(context: ExceptionContext) -> None:
    # A refused row is an answer, and writing.py reads it; anything else a driver says is trouble with the database.
    if context.engine is None or isinstance(context.sqlalchemy_exception, IntegrityError | None):
        return
    place = context.engine.url.render_as_string(hide_password=True)
    raise LedgerUnusable(
        f"The ledger at {place} cannot be used: {context.original_exception}. Nothing was recorded; mend its disk or "
        "database (DIPTYCH_LEDGER_URL and DIPTYCH_HOME say where it is) and run the same again."
    ) from context.original_exception


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Python's driver would begin transactions by its own lights, and never before DDL; we say BEGIN ourselves.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    # With WAL the default may lose the last commits in a power cut; a decision that was told is kept.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock at once: one that reads first and upgrades later can fail without waiting.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
