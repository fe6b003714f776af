"""The first ledger: revision, run, version, verdict, alias_move, and the triggers that keep rows as they are.

Revision 0001, after nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("revision", "run", "version", "verdict", "alias_move")


def upgrade() -> None:
    _make_revision()
    _make_run()
    _make_version()
    _make_verdict()
    _make_alias_move()
    for table in TABLES:
        _forbid_changes(table)


def downgrade() -> None:
    raise RuntimeError("The ledger only grows: restore a copy of the file instead.")


def _make_revision() -> None:
    op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        sa.Column("rev", sa.String(200), nullable=False),
        sa.Column("dvc_digest", sa.String(200), nullable=False),
        sa.Column("shards_digest", sa.String(64), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("expectations", sa.JSON(), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revision"),
        sa.UniqueConstraint("key", name="uq_revision_key"),
    )
    op.create_index("ix_revision_shards_digest", "revision", ["shards_digest"])


def _make_run() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("experiment", sa.String(200), nullable=False),
        sa.Column("experiment_digest", sa.String(64), nullable=False),
        sa.Column("family", sa.String(100), nullable=False),
        sa.Column("shards_digest", sa.String(64), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("checkpoint_digest", sa.String(64), nullable=False),
        sa.Column("mlflow_run_id", sa.String(64), nullable=False),
        sa.Column("flow_run_id", sa.String(64), nullable=False),
        sa.Column("git_commit", sa.String(64), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.UniqueConstraint("key", name="uq_run_key"),
        sa.UniqueConstraint(
            "experiment_digest",
            "shards_digest",
            "seed",
            "attempt",
            name="uq_run_experiment_digest_shards_digest_seed_attempt",
        ),
    )


def _make_version() -> None:
    op.create_table(
        "version",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("run_key", sa.String(64), nullable=False),
        sa.Column("checkpoint_digest", sa.String(64), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_version"),
        sa.ForeignKeyConstraint(["run_key"], ["run.key"], name="fk_version_run_key_run"),
        sa.UniqueConstraint("model", "number", name="uq_version_model_number"),
        sa.UniqueConstraint("model", "run_key", name="uq_version_model_run_key"),
    )


def _make_verdict() -> None:
    op.create_table(
        "verdict",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("run_key", sa.String(64), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("rules_digest", sa.String(64), nullable=False),
        sa.Column("candidate_digest", sa.String(64), nullable=False),
        sa.Column("champion_digest", sa.String(64), nullable=True),
        sa.Column("shards_digest", sa.String(64), nullable=False),
        sa.Column("split", sa.String(50), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_verdict"),
        sa.UniqueConstraint("key", name="uq_verdict_key"),
        sa.ForeignKeyConstraint(["run_key"], ["run.key"], name="fk_verdict_run_key_run"),
    )
    op.create_index("ix_verdict_run_key", "verdict", ["run_key"])


def _make_alias_move() -> None:
    op.create_table(
        "alias_move",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("alias", sa.String(100), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(10), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("verdict_id", sa.Integer(), nullable=True),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alias_move"),
        sa.UniqueConstraint(
            "model",
            "alias",
            "generation",
            "phase",
            name="uq_alias_move_model_alias_generation_phase",
        ),
        sa.UniqueConstraint(
            "model", "alias", "key", "phase", name="uq_alias_move_model_alias_key_phase"
        ),
        sa.ForeignKeyConstraint(
            ["model", "number"],
            ["version.model", "version.number"],
            name="fk_alias_move_model_number_version",
        ),
        sa.ForeignKeyConstraint(
            ["verdict_id"], ["verdict.id"], name="fk_alias_move_verdict_id_verdict"
        ),
        sa.CheckConstraint("phase IN ('opened', 'closed')", name="ck_alias_move_phase"),
        sa.CheckConstraint("kind IN ('promote', 'rollback')", name="ck_alias_move_kind"),
        sa.CheckConstraint(
            "kind <> 'promote' OR verdict_id IS NOT NULL", name="ck_alias_move_verdict"
        ),
    )


def _forbid_changes(table: str) -> None:
    dialect = op.get_bind().dialect.name
    if dialect == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
    elif dialect == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()"
        )
    else:
        raise RuntimeError(
            f'The ledger lives in SQLite or PostgreSQL; "{dialect}" has no append-only triggers here.'
        )
