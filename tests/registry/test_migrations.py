"""The ledger's schema: equal to the code's, upgraded with rows in it, append-only, never walked back."""

from __future__ import annotations

import sqlite3

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import IntegrityError

from registry.ledger import schema
from registry.ledger.engine import make_engine
from registry.ledger.schema import LedgerNewer, schema_of
from registry.ledger.store import Ledger
from registry.ledger.tables import metadata


def config(url: str) -> Config:
    made = Config()
    made.set_main_option("script_location", str(schema.FOLDER))
    made.attributes["url"] = url
    return made


def raw(ledger: Ledger) -> sqlite3.Connection:
    return sqlite3.connect(ledger.url.removeprefix("sqlite:///"), isolation_level=None)


def test_the_migrations_make_the_tables_that_the_code_knows(ledger):
    command.check(config(ledger.url))


def test_a_table_that_drifts_from_the_code_is_noticed(ledger):
    raw(ledger).execute("ALTER TABLE run ADD COLUMN stray TEXT")
    with pytest.raises(Exception, match="stray"):
        command.check(config(ledger.url))


def test_an_upgrade_keeps_the_rows(ledger, candidate, tmp_path, monkeypatch):
    """A next schema, made here: a column more. The rows of the first stay, and the triggers too."""
    entry = candidate(1)
    folder = tmp_path / "migrations"
    _copy_with_a_second_migration(folder)
    monkeypatch.setattr(schema, "FOLDER", folder)
    schema.migrate(ledger._engine, ledger.url)
    assert schema_of(ledger._engine) == "0002"
    assert ledger.verdict_of(entry.run_key) == entry
    assert raw(ledger).execute("SELECT device_seconds FROM run").fetchall() == [(None,)]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw(ledger).execute("UPDATE run SET seed = 1")


@pytest.mark.parametrize("table", sorted(metadata.tables))
def test_no_row_can_be_changed_or_deleted(ledger, candidate, table):
    verdict = candidate(1)
    move = ledger.open_move(
        "emoji-clip", 1, after=0, kind="promote", key="k", by="me", reason="", verdict_id=verdict.id
    )
    raw(ledger).execute(
        "INSERT INTO revision VALUES (1, 'k', 's', 'r', 'd', 'x', '{}', NULL, '2026-01-01 00:00:00')"
    )
    connection = raw(ledger)
    before = connection.execute(f"SELECT * FROM {table}").fetchall()
    assert before
    for change in (f"UPDATE {table} SET recorded_at = '2000-01-01'", f"DELETE FROM {table}"):
        with pytest.raises(sqlite3.IntegrityError, match="the ledger is append-only"):
            connection.execute(change)
    assert connection.execute(f"SELECT * FROM {table}").fetchall() == before
    assert ledger.moves("emoji-clip") == (move,)


def test_a_newer_ledger_is_refused_clearly_and_left_alone(ledger):
    raw(ledger).execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerNewer, match="schema 9999; this code knows up to 0001"):
        Ledger(ledger.url).migrate()
    assert schema_of(ledger._engine) == "9999"


def test_a_migration_that_dies_half_way_leaves_nothing_and_the_next_one_succeeds(
    ledger_url, monkeypatch, tmp_path
):
    folder = tmp_path / "migrations"
    _copy_with_a_second_migration(folder, body='    op.execute("INSERT INTO run (id) VALUES (1)")')
    with monkeypatch.context() as patch:
        patch.setattr(schema, "FOLDER", folder)
        with pytest.raises(IntegrityError):
            Ledger(ledger_url).migrate()
    engine = make_engine(ledger_url)
    with engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master").fetchall()
    assert tables == []
    assert Ledger(ledger_url).migrate().history() == ()


def test_the_ledger_is_never_walked_back(ledger):
    with pytest.raises(RuntimeError, match="only grows"):
        command.downgrade(config(ledger.url), "base")
    assert schema_of(ledger._engine) == "0001"


def test_commits_survive_a_power_cut_and_writers_wait(ledger):
    with ledger._engine.connect() as connection:
        read = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert read == {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 30_000,
        "foreign_keys": 1,
    }


def _copy_with_a_second_migration(
    folder, body='    op.add_column("run", sa.Column("device_seconds", sa.Float(), nullable=True))'
):
    (folder / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako", "versions/0001_first.py"):
        (folder / name).write_text((schema.FOLDER / name).read_text())
    (folder / "versions/0002_more.py").write_text(
        'import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = "0002", "0001"\n'
        f"def upgrade():\n{body}\n"
    )
