"""Moving an alias: the ledger decides, MLflow follows.

Two systems that cannot commit together, so the order is fixed: a row *opened* in the ledger, the alias, a row *closed*.
A crash leaves an opened move, and whoever comes next finishes it first. MLflow's alias takes the last writer, whoever
that is; so each writer looks at the ledger once more after it wrote, and the alias ends where the ledger's head is.
"""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Sequence
from typing import Protocol

from components.failpoint import failpoint
from registry.ledger.entries import MoveEntry, VerdictEntry, VersionEntry
from registry.ledger.store import Ledger
from registry.ledger.writing import LedgerConflict

CHAMPION = "champion"
REASON_LETTERS = 2000
_STEERING = ("Cc", "Cf", "Cs")
"""Unicode's control, format (such as right-to-left overrides) and surrogate characters: they steer a terminal."""


class Aliases(Protocol):
    """What promotion needs of a model registry; `registry.versions.Versions` is one."""

    def alias(self, model: str, name: str = CHAMPION) -> int | None:
        """The version an alias points to."""

    def point(self, model: str, alias: str, number: int) -> None:
        """Let an alias point to a version."""


class PromotionRefused(ValueError):
    """This version may not be promoted on this verdict; the alias was not touched."""


class NothingToRollBack(LookupError):
    """There is no champion before the present one."""


class ReasonRefused(ValueError):
    """A reason that the ledger could not show to a person."""


def check_reason(reason: str) -> None:
    """Refuse what is no reason for a person to read: empty, longer than 2,000 letters, or with control characters."""
    steering = {
        letter for letter in reason if letter != "\n" and unicodedata.category(letter) in _STEERING
    }
    if steering:
        found = f"holds {', '.join(map(ascii, sorted(steering)))}"
    elif not reason.strip():
        found = "has no words"
    elif len(reason) > REASON_LETTERS:
        found = f"has {len(reason):,} letters"
    else:
        return
    raise ReasonRefused(
        f"The reason {found}. The ledger keeps it for people: up to {REASON_LETTERS:,} letters of plain text; put "
        "anything longer where it can be linked to."
    )


def promote(
    ledger: Ledger,
    versions: Aliases,
    *,
    model: str,
    number: int,
    verdict: VerdictEntry,
    by: str,
    reason: str = "",
    key: str | None = None,
) -> MoveEntry:
    """Make version `number` the champion on a verdict that passed; returns the closed move.

    key: makes a second delivery the first; the verdict itself if left out. To promote a version again after it was
    rolled back, give a new one.
    Raises PromotionRefused if the verdict did not pass or judged another checkpoint, and LedgerConflict, naming the
    winner, if the champion is no longer the one that the candidate was judged against.
    """
    _check(ledger, model, number, verdict)
    key = key or f"verdict:{verdict.key}"
    finish_open_moves(ledger, versions, model)
    closed = _closed(ledger, model)
    done = _with_key(closed, key)
    if done is not None:
        return done
    _check_champion(ledger, closed, number, verdict)
    failpoint("promotion.decided")
    opened = ledger.open_move(
        model,
        number,
        after=_head(closed),
        kind="promote",
        key=key,
        by=by,
        reason=reason or " ".join(said.sentence for said in verdict.reasons),
        verdict_id=verdict.id,
    )
    return _carry_out(ledger, versions, opened)


def rollback(
    ledger: Ledger,
    versions: Aliases,
    *,
    model: str,
    by: str,
    reason: str,
    key: str | None = None,
) -> MoveEntry:
    """Make the champion before the present one champion again; returns the closed move. Repeated, it goes further back.

    key: makes a second delivery the first; a fresh one if left out. A rollback that a crash left open is finished
    instead of going back twice. Raises NothingToRollBack and ReasonRefused.
    """
    check_reason(reason)
    finished = finish_open_moves(ledger, versions, model)
    closed = _closed(ledger, model)
    done = _with_key(closed, key) if key else None
    if done is None and finished and finished[-1].kind == "rollback" and key is None:
        done = finished[-1]
    if done is not None:
        return done
    champions = _champions(closed)
    if len(champions) < 2:
        raise NothingToRollBack(
            f"{model} has had {len(champions)} champion(s), so there is none to go back to; `diptych ledger` shows "
            "its history."
        )
    opened = ledger.open_move(
        model,
        champions[-2],
        after=_head(closed),
        kind="rollback",
        key=key or f"rollback:{uuid.uuid4().hex}",
        by=by,
        reason=reason,
    )
    return _carry_out(ledger, versions, opened)


def reconcile(ledger: Ledger, versions: Aliases, model: str) -> VersionEntry | None:
    """Finish what is open and let the alias be what the ledger says; the champion, or None before the first.

    The alias is a projection: whatever moved it past the ledger is undone.
    """
    finish_open_moves(ledger, versions, model)
    _project(ledger, versions, model)
    return ledger.champion(model)


def finish_open_moves(ledger: Ledger, versions: Aliases, model: str) -> tuple[MoveEntry, ...]:
    """Carry out the moves that were decided and not completed, oldest first; their closed halves."""
    return tuple(_carry_out(ledger, versions, opened) for opened in ledger.open_moves(model))


def champions_of(ledger: Ledger, model: str) -> tuple[int, ...]:
    """The champions that a rollback can return to, oldest first, the present one last.

    A promotion puts one on top; a rollback takes the top off, so that two rollbacks go back two champions.
    """
    return _champions(_closed(ledger, model))


def _carry_out(ledger: Ledger, versions: Aliases, opened: MoveEntry) -> MoveEntry:
    failpoint("promotion.opened")
    versions.point(opened.model, opened.alias, opened.number)
    failpoint("promotion.pointed")
    closed = ledger.close_move(opened)
    failpoint("promotion.closed")
    _project(ledger, versions, opened.model)
    return closed


def _project(ledger: Ledger, versions: Aliases, model: str) -> None:
    # Until they agree after a look at both: a slow writer may have pointed past a move that was closed meanwhile.
    while True:
        champion = ledger.champion(model)
        if champion is None or versions.alias(model, CHAMPION) == champion.number:
            return
        versions.point(model, CHAMPION, champion.number)


def _check(ledger: Ledger, model: str, number: int, verdict: VerdictEntry) -> None:
    if not verdict.passed:
        failed = " ".join(said.sentence for said in verdict.reasons if not said.passed)
        raise PromotionRefused(f"Version {number} of {model} did not pass its gate: {failed}")
    version = ledger.version(model, number)
    if version is None:
        raise PromotionRefused(
            f"The ledger knows no version {number} of {model}; register the run first."
        )
    if (version.run_key, version.checkpoint_digest) != (verdict.run_key, verdict.candidate_digest):
        raise PromotionRefused(
            f"The verdict judged checkpoint {verdict.candidate_digest[:12]} of run {verdict.run_key[:12]}; version "
            f"{number} of {model} holds {version.checkpoint_digest[:12]} of run {version.run_key[:12]}. Judge that one."
        )


def _check_champion(
    ledger: Ledger, closed: Sequence[MoveEntry], number: int, verdict: VerdictEntry
) -> None:
    champion = ledger.version(closed[-1].model, closed[-1].number) if closed else None
    holds = None if champion is None else champion.checkpoint_digest
    if holds == verdict.champion_digest:
        return
    stands = (
        "nobody" if champion is None else f"version {champion.number}, moved by {closed[-1].by}"
    )
    judged = "no champion" if verdict.champion_digest is None else verdict.champion_digest[:12]
    raise LedgerConflict(
        f'The "{CHAMPION}" is {stands}; version {number} was judged against {judged}. Judge it against the present one.'
    )


def _closed(ledger: Ledger, model: str) -> list[MoveEntry]:
    # One look for all that is decided from it. The next generation follows the newest *closed* one: if somebody has
    # opened that meanwhile, the ledger's uniqueness refuses ours, and nothing was decided on a champion about to go.
    closed = [move for move in ledger.moves(model) if move.phase == "closed"]
    return sorted(closed, key=lambda move: move.generation)


def _head(closed: Sequence[MoveEntry]) -> int:
    return closed[-1].generation if closed else 0


def _with_key(closed: Sequence[MoveEntry], key: str) -> MoveEntry | None:
    return next((move for move in closed if move.key == key), None)


def _champions(closed: Sequence[MoveEntry]) -> tuple[int, ...]:
    stack: list[int] = []
    for move in closed:
        if move.kind == "rollback":
            stack.pop()
        else:
            stack.append(move.number)
    return tuple(stack)
