"""The ledger: what was used, trained, registered, judged and moved; rows are added once and never changed.

It holds decisions and refers to runs and versions by id; numbers live in MLflow, but for those a verdict quotes.
"""

from __future__ import annotations

from typing import Self

from sqlalchemy import and_, func, select

from registry.ledger import tables
from registry.ledger.entries import Decision
from registry.ledger.moves import Moves
from registry.ledger.schema import migrate


class Ledger(Moves):
    """The decisions of one installation: its facts, its moves and the history of both."""

    def migrate(self) -> Self:
        """Create or upgrade the schema; safe to call from many processes at once. Raises LedgerNewer."""
        migrate(self._engine, self.url)
        return self

    def history(self, limit: int = 50) -> tuple[Decision, ...]:
        """The newest verdicts and alias moves, newest first: what was decided, by whom and why."""
        both = [*self._verdict_lines(limit), *self._move_lines(limit)]
        return tuple(sorted(both, key=lambda line: line.at, reverse=True)[:limit])

    def _verdict_lines(self, limit: int) -> list[Decision]:
        verdict, version, run = tables.verdict, tables.version, tables.run
        rows = self._all(
            select(verdict, version.c.model, version.c.number, run.c.experiment)
            .join(run, run.c.key == verdict.c.run_key)
            .outerjoin(version, version.c.run_key == verdict.c.run_key)
            .order_by(verdict.c.id.desc())
            .limit(limit)
        )
        return [
            Decision(
                at=row["recorded_at"],
                kind="verdict",
                model=row["model"] or row["experiment"],
                number=row["number"],
                outcome="passed" if row["passed"] else "refused",
                by="gate",
                text=" ".join(reason["sentence"] for reason in row["reasons"]),
            )
            for row in rows
        ]

    def _move_lines(self, limit: int) -> list[Decision]:
        # One line a move: its closing half if there is one.
        move, later = tables.alias_move, tables.alias_move.alias()
        newest = (
            select(func.max(later.c.id))
            .where(
                and_(
                    later.c.model == move.c.model,
                    later.c.alias == move.c.alias,
                    later.c.generation == move.c.generation,
                )
            )
            .scalar_subquery()
        )
        rows = self._all(
            select(move).where(move.c.id == newest).order_by(move.c.id.desc()).limit(limit)
        )
        return [
            Decision(
                at=row["recorded_at"],
                kind=row["kind"],
                model=row["model"],
                number=row["number"],
                outcome=row["phase"],
                by=row["by"],
                text=row["reason"],
            )
            for row in rows
        ]
