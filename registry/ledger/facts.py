"""The ledger's facts: revisions, runs, versions and verdicts, each recorded once, and what may be asked of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, Select, select

from components.records import Expectations, Revision
from components.training.usage.cost import Cost
from registry.gates import Verdict
from registry.ledger import tables
from registry.ledger.engine import make_engine
from registry.ledger.entries import (
    RevisionEntry,
    RunEntry,
    VerdictEntry,
    VersionEntry,
    reasons_from_json,
    reasons_to_json,
)
from registry.ledger.writing import add_once


class Facts:
    """What was used, trained, registered and judged, at a SQLite file or a PostgreSQL database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = make_engine(url)

    def record_revision(
        self, revision: Revision, expectations: Expectations | None = None
    ) -> RevisionEntry:
        """Note a state of a source and what was said of it; the same state checked otherwise is another row."""
        said = None if expectations is None else _said(expectations)
        values = {
            "source": revision.source,
            "rev": revision.rev,
            "dvc_digest": revision.dvc_digest,
            "shards_digest": revision.shards.digest,
            "counts": dict(revision.shards.counts),
            "expectations": said,
        }
        row = add_once(self._engine, tables.revision, ["key"], {"key": _digest(values), **values})
        return RevisionEntry(**row)

    def record_run(
        self,
        key: str,
        *,
        experiment: str,
        experiment_digest: str,
        family: str,
        shards_digest: str,
        seed: int,
        attempt: int,
        checkpoint_digest: str,
        mlflow_run_id: str,
        flow_run_id: str = "",
        git_commit: str = "",
        cost: Cost | None = None,
    ) -> RunEntry:
        """Note a training that ended in a checkpoint. A second flow may deliver it again; LedgerConflict if it differs."""
        values = {
            "key": key,
            "experiment": experiment,
            "experiment_digest": experiment_digest,
            "family": family,
            "shards_digest": shards_digest,
            "seed": seed,
            "attempt": attempt,
            "checkpoint_digest": checkpoint_digest,
            "mlflow_run_id": mlflow_run_id,
            "flow_run_id": flow_run_id,
            "git_commit": git_commit,
        }
        spent = _spent(cost)
        values |= spent
        # The same weights may be had twice, at another cost: the first stands.
        witnesses = ("flow_run_id", "git_commit", *spent)
        return RunEntry(**add_once(self._engine, tables.run, ["key"], values, witnesses=witnesses))

    def record_version(
        self, model: str, number: int, run_key: str, checkpoint_digest: str
    ) -> VersionEntry:
        """Note that a run's checkpoint was registered as version `number` of `model`; one version a run and model."""
        values = {
            "model": model,
            "number": number,
            "run_key": run_key,
            "checkpoint_digest": checkpoint_digest,
        }
        return VersionEntry(**add_once(self._engine, tables.version, ["model", "number"], values))

    def record_verdict(self, run_key: str, verdict: Verdict) -> VerdictEntry:
        """Note a verdict on a run. Its key is what was held against what and what came of it: the same is the same row."""
        values: dict[str, Any] = {
            "run_key": run_key,
            "rules_digest": verdict.rules_digest,
            "candidate_digest": verdict.candidate_digest,
            "champion_digest": verdict.champion_digest,
            "shards_digest": verdict.shards_digest,
            "split": verdict.split,
            "passed": verdict.passed,
            "reasons": reasons_to_json(verdict.reasons),
        }
        values["key"] = _digest(values)
        return _verdict_entry(add_once(self._engine, tables.verdict, ["key"], values))

    def run(self, key: str) -> RunEntry | None:
        """The run with this key."""
        row = self._first(select(tables.run).filter_by(key=key))
        return None if row is None else RunEntry(**row)

    def version(self, model: str, number: int) -> VersionEntry | None:
        """One version of a model."""
        row = self._first(select(tables.version).filter_by(model=model, number=number))
        return None if row is None else VersionEntry(**row)

    def versions_of(self, run_key: str) -> tuple[VersionEntry, ...]:
        """Every version a run was registered as."""
        rows = self._all(select(tables.version).filter_by(run_key=run_key).order_by("id"))
        return tuple(VersionEntry(**row) for row in rows)

    def verdict(self, verdict_id: int) -> VerdictEntry | None:
        """One verdict."""
        row = self._first(select(tables.verdict).filter_by(id=verdict_id))
        return None if row is None else _verdict_entry(row)

    def verdict_of(self, run_key: str) -> VerdictEntry | None:
        """The newest verdict on a run; None if nobody judged it."""
        newest = tables.verdict.c.id.desc()
        row = self._first(select(tables.verdict).filter_by(run_key=run_key).order_by(newest))
        return None if row is None else _verdict_entry(row)

    def runs_of(self, experiment: str) -> tuple[RunEntry, ...]:
        """Every run of an experiment that ended in a checkpoint, oldest first."""
        rows = self._all(select(tables.run).filter_by(experiment=experiment).order_by("id"))
        return tuple(RunEntry(**row) for row in rows)

    def models(self) -> tuple[str, ...]:
        """Every model that has a version."""
        rows = self._all(
            select(tables.version.c.model).group_by(tables.version.c.model).order_by("model")
        )
        return tuple(row["model"] for row in rows)

    def _first(self, query: Select[Any]) -> RowMapping | None:
        with self._engine.connect() as connection:
            return connection.execute(query.limit(1)).mappings().first()

    def _all(self, query: Select[Any]) -> Sequence[RowMapping]:
        with self._engine.connect() as connection:
            return connection.execute(query).mappings().all()


def _spent(cost: Cost | None) -> dict[str, Any]:
    if cost is None:
        return {}
    values = asdict(cost)
    values["training_attempts"] = values.pop("attempts")
    return values


def _verdict_entry(row: RowMapping) -> VerdictEntry:
    return VerdictEntry(**{**row, "reasons": reasons_from_json(row["reasons"])})


def _said(expectations: Expectations) -> dict[str, Any]:
    # Not the page: where a report lies on one machine is no part of the fact.
    return {
        "passed": expectations.passed,
        "checked": expectations.checked,
        "failures": [asdict(failure) for failure in expectations.failures],
        "warnings": [asdict(failure) for failure in expectations.warnings],
    }


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
