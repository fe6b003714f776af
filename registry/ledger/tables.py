"""The ledger's tables. Rows are added and never changed: triggers made by the migration refuse UPDATE and DELETE.

Types are the portable ones, so that the same migration makes a SQLite file or a PostgreSQL schema.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite forgets the zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=True)


def _recorded() -> Column[datetime]:
    return Column("recorded_at", UtcDateTime, nullable=False)


revision = Table(
    "revision",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    Column("source", String(200), nullable=False),
    Column("rev", String(200), nullable=False),
    Column("dvc_digest", String(200), nullable=False),
    Column("shards_digest", String(64), nullable=False, index=True),
    Column("counts", JSON, nullable=False),
    # None: not checked. Else {passed, checked, failures, warnings} of components.records.Expectations.
    Column("expectations", JSON(none_as_null=True), nullable=True),
    _recorded(),
)

run = Table(
    "run",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    Column("experiment", String(200), nullable=False),
    Column("experiment_digest", String(64), nullable=False),
    Column("family", String(100), nullable=False),
    Column("shards_digest", String(64), nullable=False),
    Column("seed", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("checkpoint_digest", String(64), nullable=False),
    Column("mlflow_run_id", String(64), nullable=False),
    Column("flow_run_id", String(64), nullable=False),
    Column("git_commit", String(64), nullable=False),
    _recorded(),
    # What it took; a build takes nothing, and before schema 0002 nobody counted.
    Column("device", String(100), nullable=True),
    Column("device_seconds", Float, nullable=True),
    Column("wasted_seconds", Float, nullable=True),
    Column("samples", BigInteger, nullable=True),
    Column("tokens", BigInteger, nullable=True),
    Column("energy_joules", Float, nullable=True),
    Column("training_attempts", Integer, nullable=True),
    UniqueConstraint("experiment_digest", "shards_digest", "seed", "attempt"),
)

version = Table(
    "version",
    metadata,
    _id(),
    Column("model", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("run_key", ForeignKey("run.key"), nullable=False),
    Column("checkpoint_digest", String(64), nullable=False),
    _recorded(),
    UniqueConstraint("model", "number"),
    UniqueConstraint("model", "run_key"),
)

verdict = Table(
    "verdict",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    Column("run_key", ForeignKey("run.key"), nullable=False, index=True),
    Column("passed", Boolean, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("rules_digest", String(64), nullable=False),
    Column("candidate_digest", String(64), nullable=False),
    Column("champion_digest", String(64), nullable=True),
    Column("shards_digest", String(64), nullable=False),
    Column("split", String(50), nullable=False),
    _recorded(),
)

alias_move = Table(
    "alias_move",
    metadata,
    _id(),
    Column("model", String(200), nullable=False),
    Column("alias", String(100), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("phase", String(10), nullable=False),
    # What this move does and for whom it is done once: a delivered twice promotion has the key of the first.
    Column("kind", String(10), nullable=False),
    Column("key", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("verdict_id", ForeignKey("verdict.id"), nullable=True),
    Column("by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    _recorded(),
    # Who opens generation n+1 first has won the race; the second gets an integrity error.
    UniqueConstraint("model", "alias", "generation", "phase"),
    UniqueConstraint("model", "alias", "key", "phase"),
    ForeignKeyConstraint(["model", "number"], ["version.model", "version.number"]),
    CheckConstraint("phase IN ('opened', 'closed')", name="phase"),
    CheckConstraint("kind IN ('promote', 'rollback')", name="kind"),
    # No promotion without a verdict.
    CheckConstraint("kind <> 'promote' OR verdict_id IS NOT NULL", name="verdict"),
)
