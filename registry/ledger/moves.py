"""The ledger's alias moves: a row `opened` when it is decided, a row `closed` when the alias stands there."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import select

from registry.ledger import tables
from registry.ledger.entries import MoveEntry, VersionEntry
from registry.ledger.facts import Facts
from registry.ledger.writing import LedgerConflict, add_once


class Moves(Facts):
    """Facts, and where each alias was sent."""

    def open_move(
        self,
        model: str,
        number: int,
        *,
        after: int,
        kind: str,
        key: str,
        by: str,
        reason: str,
        verdict_id: int | None = None,
        alias: str = "champion",
    ) -> MoveEntry:
        """Decide that `alias` moves to version `number`, as the generation that follows `after` (0: the first).

        Who opens a generation first has won it. The same key again gives back the move that was opened with it.
        Raises LedgerConflict naming the winner if the generation is taken.
        """
        values = {
            "model": model,
            "alias": alias,
            "generation": after + 1,
            "phase": "opened",
            "kind": kind,
            "key": key,
            "number": number,
            "verdict_id": verdict_id,
            "by": by,
            "reason": reason,
        }
        named = ("model", "alias", "key", "phase")
        try:
            row = add_once(
                self._engine,
                tables.alias_move,
                named,
                values,
                witnesses=("generation", "by", "reason"),
            )
        except LedgerConflict as conflict:
            taken = self._first(
                select(tables.alias_move).filter_by(
                    model=model, alias=alias, generation=after + 1, phase="opened"
                )
            )
            if taken is None or taken["key"] == key:
                raise
            raise LedgerConflict(_won(MoveEntry(**taken), number)) from conflict
        return MoveEntry(**row)

    def close_move(self, opened: MoveEntry) -> MoveEntry:
        """Note that the alias stands where an opened move sent it; closing twice is closing once."""
        values = asdict(opened) | {"phase": "closed"}
        del values["id"], values["recorded_at"]
        named = ("model", "alias", "generation", "phase")
        return MoveEntry(**add_once(self._engine, tables.alias_move, named, values))

    def moves(self, model: str, alias: str = "champion") -> tuple[MoveEntry, ...]:
        """Every half move of an alias, oldest first."""
        rows = self._all(
            select(tables.alias_move).filter_by(model=model, alias=alias).order_by("id")
        )
        return tuple(MoveEntry(**row) for row in rows)

    def open_moves(self, model: str, alias: str = "champion") -> tuple[MoveEntry, ...]:
        """Moves that were decided and not completed: what a crash left, or what another process is doing now."""
        moves = self.moves(model, alias)
        closed = {move.generation for move in moves if move.phase == "closed"}
        return tuple(move for move in moves if move.generation not in closed)

    def champion(self, model: str, alias: str = "champion") -> VersionEntry | None:
        """The version that the newest completed move made champion; None before the first promotion."""
        closed = [move for move in self.moves(model, alias) if move.phase == "closed"]
        if not closed:
            return None
        return self.version(model, max(closed, key=lambda move: move.generation).number)


def _won(winner: MoveEntry, number: int) -> str:
    return (
        f'"{winner.alias}" of {winner.model} was moved to version {winner.number} by {winner.by} (generation '
        f"{winner.generation}) before version {number} could take it; judge version {number} against that one."
    )
