"""What the ledger gives back: its rows as frozen records, one class a table, fields as the columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from registry.gates import Reason, Rule, Verdict


@dataclass(frozen=True, kw_only=True)
class RevisionEntry:
    """A fixed state of a source that was used, and what the expectations said of it."""

    id: int
    key: str
    source: str
    rev: str
    dvc_digest: str
    shards_digest: str
    counts: Mapping[str, int]
    expectations: Mapping[str, Any] | None
    recorded_at: datetime


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One training that ended in a checkpoint."""

    id: int
    key: str
    experiment: str
    experiment_digest: str
    family: str
    shards_digest: str
    seed: int
    attempt: int
    checkpoint_digest: str
    mlflow_run_id: str
    flow_run_id: str
    git_commit: str
    recorded_at: datetime
    device: str | None
    device_seconds: float | None
    wasted_seconds: float | None
    samples: int | None
    tokens: int | None
    energy_joules: float | None
    training_attempts: int | None
    """How often its training was started; the cost's fields are those of `components/training/usage/cost.py`."""


@dataclass(frozen=True, kw_only=True)
class VersionEntry:
    """A registered model: which run it came from and which checkpoint it holds."""

    id: int
    model: str
    number: int
    run_key: str
    checkpoint_digest: str
    recorded_at: datetime


@dataclass(frozen=True, kw_only=True)
class VerdictEntry(Verdict):
    """What the gate said of a run's checkpoint, as it was given, and whose it is."""

    id: int
    key: str
    run_key: str
    recorded_at: datetime

    @property
    def verdict(self) -> Verdict:
        """The verdict alone."""
        return Verdict(**{each.name: getattr(self, each.name) for each in fields(Verdict)})


@dataclass(frozen=True, kw_only=True)
class MoveEntry:
    """One half of an alias move: the decision (`opened`) or its completion (`closed`)."""

    id: int
    model: str
    alias: str
    generation: int
    phase: str
    kind: str
    """`promote` or `rollback`."""
    key: str
    number: int
    """The version that the alias moves to."""
    verdict_id: int | None
    by: str
    reason: str
    recorded_at: datetime


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One line of the history: a verdict that was given or an alias that was moved."""

    at: datetime
    kind: str
    """`verdict`, `promote` or `rollback`."""
    model: str
    number: int | None
    """None for a verdict on a run that was not registered."""
    outcome: str
    """`passed` or `refused` for a verdict, `opened` or `closed` for a move."""
    by: str
    text: str
    """The gate's sentences, or the reason given for the move."""


def reasons_to_json(reasons: tuple[Reason, ...]) -> list[dict[str, Any]]:
    """Reasons as JSON can hold them; NaN never stands in one."""
    return [
        {
            "rule": reason.rule.to_dict(),
            "passed": reason.passed,
            "sentence": reason.sentence,
            "value": reason.value,
            "bound": reason.bound,
            "champion": reason.champion,
        }
        for reason in reasons
    ]


def reasons_from_json(rows: list[dict[str, Any]]) -> tuple[Reason, ...]:
    """The reverse of `reasons_to_json`."""
    return tuple(Reason(**{**row, "rule": Rule(**row["rule"])}) for row in rows)
