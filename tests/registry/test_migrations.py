"""The ledger's schema: equal to the code's, upgraded with rows in it, append-only, never walked back."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import IntegrityError

from components.training.usage.cost import Cost
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
    _copy_with_a_next_migration(folder)
    monkeypatch.setattr(schema, "FOLDER", folder)
    schema.migrate(ledger._engine, ledger.url)
    assert schema_of(ledger._engine) == "0003"
    assert ledger.verdict_of(entry.run_key) == entry
    assert raw(ledger).execute("SELECT country FROM run").fetchall() == [(None,)]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw(ledger).execute("UPDATE run SET seed = 1")


def test_runs_of_the_first_schema_are_kept_without_a_cost_and_new_ones_have_theirs(
    ledger_url, tmp_path
):
    made = config(ledger_url)
    command.upgrade(made, "0001")
    columns = "key, experiment, experiment_digest, family, shards_digest, seed, attempt"
    columns += ", checkpoint_digest, mlflow_run_id, flow_run_id, git_commit, recorded_at"
    old = sqlite3.connect(ledger_url.removeprefix("sqlite:///"), isolation_level=None)
    old.execute(
        f"INSERT INTO run ({columns}) VALUES ('old', 'e', 'd', 'clip', 's', 0, 0, 'c', 'm', '', '', '2026-01-01 00:00:00')"
    )
    ledger = Ledger(ledger_url).migrate()
    assert schema_of(ledger._engine) == "0002"
    found = ledger.run("old")
    assert (found.seed, found.device_seconds, found.device) == (0, None, None)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw(ledger).execute("UPDATE run SET device_seconds = 0")
    cost = Cost(
        device="cpu",
        device_seconds=12.5,
        wasted_seconds=2.5,
        samples=2**40,
        tokens=2**41,
        energy_joules=None,
        attempts=3,
    )
    facts = {"experiment": "e", "experiment_digest": "d", "family": "clip", "shards_digest": "s"}
    facts |= {"seed": 1, "attempt": 1, "checkpoint_digest": "c", "mlflow_run_id": "m"}
    new = ledger.record_run("new", **facts, cost=cost)
    assert (new.device_seconds, new.samples, new.training_attempts) == (12.5, 2**40, 3)
    again = ledger.record_run("new", **facts, cost=replace(cost, device_seconds=99.0))
    assert again == new, "the first delivery stands"


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
    with pytest.raises(LedgerNewer, match="schema 9999; this code knows up to 0002"):
        Ledger(ledger.url).migrate()
    assert schema_of(ledger._engine) == "9999"


def test_a_migration_that_dies_half_way_leaves_nothing_and_the_next_one_succeeds(
    ledger_url, monkeypatch, tmp_path
):
    folder = tmp_path / "migrations"
    _copy_with_a_next_migration(folder, body='    op.execute("INSERT INTO run (id) VALUES (1)")')
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
    assert schema_of(ledger._engine) == "0002"


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


def _copy_with_a_next_migration(
    folder, body='    op.add_column("run", sa.Column("country", sa.String(), nullable=True))'
):
    (folder / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako", "versions/0001_first.py", "versions/0002_cost.py"):
        (folder / name).write_text((schema.FOLDER / name).read_text())
    (folder / "versions/0003_more.py").write_text(
        'import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = "0003", "0002"\n'
        f"def upgrade():\n{body}\n"
    )
