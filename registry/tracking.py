"""The door to MLflow's runs: open one by its key, log what came of it, close it. Every call may be delivered twice."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.records import Report, Revision
from components.training.progress import Progress
from components.training.usage.cost import Cost
from registry import pages
from registry.follower import PATIENCE_S, POLL_S, Follower, following
from registry.mlflow_client import KEY, TrackingUnreachable, connect, probe, quoted, reaching

if TYPE_CHECKING:
    from mlflow.entities import Metric

__all__ = ["Tracking", "TrackingUnreachable"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
_BATCH = 1000
_PARAMS = 100
_DATASET_DIGEST = 36  # as many letters as MLflow keeps


class Tracking:
    """The runs of one experiment.

    uri: http(s)://… of a server, or sqlite:///FILE without one; then `artifacts` is the folder for files.
    Raises TrackingUnreachable if nobody answers.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        self.uri = uri
        self._client = connect(uri)
        with reaching(uri):
            self.experiment_id = self._experiment(experiment, artifacts)

    def probe(self) -> None:
        """Raise TrackingUnreachable, within seconds, if a server is away; any other call first tries for half a minute."""
        probe(self.uri)

    def open_run(
        self,
        key: str,
        name: str,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """The id of the run with this key: a new one, or the one that was opened before, gone on with."""
        everything = {**(tags or {}), KEY: key}
        if parent_run_id is not None:
            everything["mlflow.parentRunId"] = parent_run_id
        with reaching(self.uri):
            found = self.find_run(key)
            if found is None:
                run = self._client.create_run(self.experiment_id, run_name=name, tags=everything)
                return self._first_of(key, run.info.run_id)
            self._resume(found, everything)
            return found

    def find_run(self, key: str) -> str | None:
        """The id of the run with this key, if there is one."""
        runs = self._runs(key)
        return runs[0] if runs else None

    def log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Settings, nested ones as `outer.inner`. Raises MlflowException if a setting was logged with another value."""
        from mlflow.entities import Param

        rows = [Param(name, str(value)) for name, value in _flat(values)]
        with reaching(self.uri):
            for start in range(0, len(rows), _PARAMS):
                self._client.log_batch(run_id, params=rows[start : start + _PARAMS])

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags such as the flow run's address, so that one page leads to the other."""
        from mlflow.entities import RunTag

        with reaching(self.uri):
            self._client.log_batch(
                run_id, tags=[RunTag(name, value) for name, value in tags.items()]
            )

    def log_progress(self, run_id: str, lines: Sequence[Progress]) -> None:
        """Reports of a training, by batch. A point that was logged before, at its time, is not logged again."""
        from mlflow.entities import Metric

        points = [
            Metric(name, value, round(line.time * 1000), line.step)
            for line in lines
            for name, value in line.values.items()
        ]
        self._log_points(run_id, points)

    def log_cost(self, run_id: str, cost: Cost) -> None:
        """What the run took so far, as metrics `cost/…` by the number of its attempts; the same again is the same points."""
        from mlflow.entities import Metric

        with reaching(self.uri):
            at = self._client.get_run(run_id).info.start_time
        points = [
            Metric(f"cost/{name}", value, at, cost.attempts) for name, value in cost.numbers.items()
        ]
        self._log_points(run_id, points)
        self.log_tags(run_id, {"diptych.device": cost.device})

    def follower(self, path: Path, run_id: str) -> Follower:
        """What carries a progress file into a run; `sync()` delivers what an earlier process could not."""

        def deliver(lines: Sequence[Progress]) -> None:
            probe(self.uri)
            self.log_progress(run_id, lines)

        return Follower(path, run_id, deliver)

    @contextmanager
    def follow(
        self, path: Path, run_id: str, *, poll_s: float = POLL_S, patience_s: float = PATIENCE_S
    ) -> Iterator[Follower]:
        """Log a training's progress file while the body trains; never raises for an MLflow that is away."""
        with following(
            self.follower(path, run_id), poll_s=poll_s, patience_s=patience_s
        ) as follower:
            yield follower

    def log_data(self, run_id: str, revision: Revision, context: str = "training") -> None:
        """The data state a run used, as a dataset input; nothing of it is loaded."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=revision.source,
            digest=revision.shards.digest[:_DATASET_DIGEST],
            source_type="dvc",
            source=json.dumps(
                {"rev": revision.rev, "dvc": revision.dvc_digest, "shards": revision.shards.digest}
            ),
            profile=json.dumps(dict(revision.shards.counts)),
        )
        tags = [InputTag("mlflow.data.context", context)]
        with reaching(self.uri):
            self._client.log_inputs(run_id, [DatasetInput(dataset, tags)])

    def log_report(self, run_id: str, report: Report) -> None:
        """A report's numbers as metrics `split/name`, and the report itself as a file named by its content.

        The same report again adds nothing; another one (other shards, another decoder) is the next step of its metrics,
        so that MLflow shows the newest and keeps the rest.
        """
        from mlflow.entities import Metric

        packed = _packed(report)
        name = f"reports/{report.split}-{hashlib.sha256(packed).hexdigest()[:12]}.json"
        with reaching(self.uri):
            held = {file.path for file in self._client.list_artifacts(run_id, "reports")}
            if name in held:
                return
            # The run's own start, and not now: logged again, a number is the same point.
            at = self._client.get_run(run_id).info.start_time
            step = sum(path.startswith(f"reports/{report.split}-") for path in held)
            points = [
                Metric(f"{report.split}/{metric}", value, at, step)
                for metric, value in report.values.items()
            ]
        self._log_points(run_id, points)
        tags = {"diptych.certificate": report.certificate, "diptych.scorer": report.scorer}
        if said := {name: value for name, value in tags.items() if value}:
            self.log_tags(run_id, said)
        self.log_bytes(run_id, name, packed)

    def log_file(self, run_id: str, path: Path, folder: str = "") -> None:
        """A file or a folder, as artifacts."""
        with reaching(self.uri):
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), folder or None)
            else:
                self._client.log_artifact(run_id, str(path), folder or None)

    def log_bytes(self, run_id: str, name: str, data: bytes) -> None:
        """Bytes as the artifact `folder/name.ext`: a figure, a page, a table."""
        place = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / place.name
            file.write_bytes(data)
            self.log_file(run_id, file, "" if place.parent == Path() else place.parent.as_posix())

    def is_open(self, run_id: str) -> bool:
        """Whether a run still says that it is running."""
        with reaching(self.uri):
            return bool(self._client.get_run(run_id).info.status == "RUNNING")

    def is_finished(self, run_id: str) -> bool:
        """Whether nothing is left to do in a run: it came to its end, which one that FAILED or was KILLED did not.

        One that a person deleted is gone on with no more.
        """
        from mlflow.exceptions import MlflowException

        with reaching(self.uri):
            try:
                info = self._client.get_run(run_id).info
            except MlflowException as failure:
                if failure.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return True
                raise
        return bool(info.lifecycle_stage == "deleted" or info.status == "FINISHED")

    def told(self, run_id: str) -> tuple[str, Mapping[str, str]]:
        """What a run says of itself: its status, and its tags."""
        with reaching(self.uri):
            run = self._client.get_run(run_id)
        return run.info.status, run.data.tags

    def finish(self, run_id: str, status: Status = "FINISHED") -> None:
        """Close a run; closing twice is closing once."""
        with reaching(self.uri):
            self._client.set_terminated(run_id, status)

    def run_page(self, run_id: str) -> str | None:
        """The run's address in a browser; None without a server."""
        return pages.run_page(self.uri, self.experiment_id, run_id)

    def file_page(self, run_id: str, path: str) -> str | None:
        """A run's file, as a browser shows it; None without a server."""
        return pages.file_page(self.uri, run_id, path)

    def compare_page(self, run_ids: Sequence[str]) -> str | None:
        """Runs of this experiment side by side; None without a server."""
        return pages.compare_page(self.uri, [self.experiment_id], run_ids)

    def _experiment(self, name: str, artifacts: Path | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = None if artifacts is None else artifacts.resolve().as_uri()
            try:
                return str(self._client.create_experiment(name, artifact_location=place))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _runs(self, key: str) -> list[str]:
        from mlflow.entities import ViewType

        with reaching(self.uri):
            runs = self._client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{KEY}` = {quoted(key)}",
                run_view_type=ViewType.ACTIVE_ONLY,
            )
        return [
            run.info.run_id
            for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
        ]

    def _first_of(self, key: str, mine: str) -> str:
        # MLflow keeps no key unique: another process may have opened the same run meanwhile, and the first stands.
        first = self._runs(key)[0]
        if first != mine:
            self._client.delete_run(mine)
        return first

    def _resume(self, run_id: str, tags: Mapping[str, str]) -> None:
        run = self._client.get_run(run_id)
        if run.info.status in ("FAILED", "KILLED"):
            self._client.update_run(run_id, status="RUNNING")
        if any(run.data.tags.get(name) != value for name, value in tags.items()):
            self.log_tags(run_id, tags)

    def _log_points(self, run_id: str, points: Sequence[Metric]) -> None:
        with reaching(self.uri):
            for start in range(0, len(points), _BATCH):
                self._client.log_batch(run_id, metrics=points[start : start + _BATCH])


def _flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield within + name, value


def _packed(report: Report) -> bytes:
    content = asdict(report)
    # JSON knows no NaN; null is what nobody could measure.
    content["values"] = {name: _or_none(value) for name, value in report.values.items()}
    return json.dumps(content, sort_keys=True, indent=1, default=str, allow_nan=False).encode()


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
