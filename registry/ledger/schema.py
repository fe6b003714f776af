"""Bringing a ledger's schema to the one this code knows: once, under a lock, never backward."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, make_url, text

FOLDER = Path(__file__).parent / "migrations"
_POSTGRES_LOCK = 0x44495054  # "DIPT"


class LedgerNewer(RuntimeError):
    """The ledger was written by a newer Diptych than this one."""


def migrate(engine: Engine, url: str) -> None:
    """Create or upgrade the schema at `url`; eight processes may do so at once.

    Raises LedgerNewer if the ledger holds a schema that this code does not know.
    """
    if _is_current(engine, url):
        return
    with _one_at_a_time(engine, url):
        if not _is_current(engine, url):
            _upgrade(engine, url)


def schema_of(engine: Engine) -> str | None:
    """The schema revision a ledger stands at; None if it has none yet."""
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _is_current(engine: Engine, url: str) -> bool:
    from alembic.script import ScriptDirectory

    if _is_absent(url):
        return False
    found, scripts = schema_of(engine), ScriptDirectory(str(FOLDER))
    head = scripts.get_current_head()
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise LedgerNewer(
            f"The ledger at {make_url(url).render_as_string(hide_password=True)} has schema {found}; this code knows "
            f"up to {head}. A newer Diptych wrote it: bring this checkout up to date and try again."
        )
    return found == head


def _upgrade(engine: Engine, url: str) -> None:
    from alembic import command
    from alembic.config import Config

    if engine.dialect.name == "sqlite":
        # Past SQLAlchemy, which would open a transaction first; the file remembers the mode.
        raw = engine.raw_connection()
        raw.driver_connection.execute("PRAGMA journal_mode = WAL")  # type: ignore[union-attr]
        raw.close()
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["url"] = url
    command.upgrade(config, "head")


def _sqlite_file(url: str) -> Path | None:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def _is_absent(url: str) -> bool:
    file = _sqlite_file(url)
    return file is not None and not file.exists()


@contextmanager
def _one_at_a_time(engine: Engine, url: str) -> Iterator[None]:
    file = _sqlite_file(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f"{file.name}.lock").open("a") as lock:
            # Given back by the kernel when the holder dies, so no lock is ever stale.
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _POSTGRES_LOCK})
        yield
