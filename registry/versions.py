"""The door to MLflow's model registry: register a checkpoint once, read and point an alias, get a checkpoint back."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.evaluation.plan import EvaluationPlan
from components.failpoint import failpoint
from components.records import Checkpoint
from components.training.checkpoints.checkpoint import CheckpointDamaged, CheckpointMissing, verify
from registry import pages
from registry.mlflow_client import KEY, connect, quoted, reaching
from registry.version_files import MANNER, write_version

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

DIGEST = "diptych.checkpoint_digest"
FOLDER = "diptych.checkpoint_folder"
PROXIED = "mlflow-artifacts:/"
"""How the addresses of files begin that a server keeps in a folder of its own."""


class VersionMissing(LookupError):
    """There is no such version, or what it held is gone."""


class VersionDamaged(CheckpointDamaged):
    """The registry's copy of a checkpoint is not what was registered; the message says how to do without it."""

    def __init__(self, model: str, number: int, found: CheckpointDamaged) -> None:
        ValueError.__init__(
            self,
            f"The registry's files of {model} version {number} are damaged: {found.file.name}: {found.problem}. They "
            f"will not be used. If it is champion, `diptych rollback {model} --reason …` gives the alias back to the "
            f"version before; `diptych train {model}` makes a new one.",
        )
        self.file, self.problem = found.file, found.problem


class Versions:
    """The registered models at a tracking address.

    artifacts: the folder a server keeps its files in, to read versions that it stored while it is away.
    Raises TrackingUnreachable if nobody answers.
    """

    def __init__(self, uri: str, artifacts: Path | None = None) -> None:
        self.uri = uri
        self._artifacts = artifacts
        self._client = connect(uri)

    def models(self) -> list[str]:
        """The names of all registered models."""
        with reaching(self.uri):
            return sorted(model.name for model in _pages(self._client.search_registered_models))

    def numbers(self, model: str) -> list[int]:
        """The numbers of a model's versions, oldest first; none for a model nobody registered."""
        with reaching(self.uri):
            search = partial(
                self._client.search_model_versions, filter_string=f"name = {quoted(model)}"
            )
            return sorted(int(version.version) for version in _pages(search))

    def register(
        self,
        run_id: str,
        model: str,
        checkpoint: Checkpoint,
        *,
        key: str,
        example: bytes,
        labels: Sequence[str] = (),
        prompts: Sequence[str] = ("{}",),
        decoding: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> int:
        """The number of the version with this key: a new one, or the one that is there; what a crash left is finished.

        example: an encoded image; labels and prompts: what an embedder chooses from when nobody gives it labels;
        decoding: how a captioner writes, by default as an `EvaluationPlan` does.
        """
        with reaching(self.uri):
            number = self.find(model, key)
            if number is not None:
                return number
            logged = self._logged(run_id, key) or self._log(
                run_id, model, checkpoint, key, example=example, labels=labels, prompts=prompts,
                decoding=decoding or EvaluationPlan().decoding(),
            )  # fmt: skip
            failpoint("version.logged")
            marks = {
                **(tags or {}),
                KEY: key,
                DIGEST: checkpoint.digest,
                FOLDER: checkpoint.path.name,
            }
            number = self._create(run_id, model, logged, marks)
        failpoint("version.created")
        return number

    def find(self, model: str, key: str) -> int | None:
        """The number of the version with this key, if it is registered."""
        with reaching(self.uri):
            found = self._client.search_model_versions(
                f"name = {quoted(model)} AND tags.`{KEY}` = {quoted(key)}"
            )
        return min((int(version.version) for version in found), default=None)

    def alias(self, model: str, name: str = "champion") -> int | None:
        """The version an alias points to; None if it points nowhere."""
        from mlflow.exceptions import MlflowException

        with reaching(self.uri):
            try:
                return int(self._client.get_model_version_by_alias(model, name).version)
            except MlflowException as failure:
                if failure.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def point(self, model: str, alias: str, number: int) -> None:
        """Let an alias point to a version. Only `registry/promotion.py` calls this: the ledger decides first."""
        self._version(model, number)
        with reaching(self.uri):
            self._client.set_registered_model_alias(model, alias, str(number))

    def tag(self, model: str, number: int, name: str, value: str) -> None:
        """A tag on a version, such as `gate` = `passed`."""
        with reaching(self.uri):
            self._client.set_model_version_tag(model, str(number), name, value)

    def checkpoint(self, model: str, number: int, folder: Path) -> Path:
        """The version's checkpoint as a folder below `folder`: fetched, or found there, and verified either way.

        Raises VersionMissing if the registry does not hold it, VersionDamaged if what it holds is not what was
        registered.
        """
        version = self._version(model, number)
        tags = version.tags
        place = folder / f"{model}-{number}"
        if _holds(place, tags[DIGEST]):
            return place
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as building:
            fetched = self._download(version, f"artifacts/{tags[FOLDER]}", Path(building))
            try:
                _require(fetched, tags[DIGEST])
            except CheckpointDamaged as damage:
                raise VersionDamaged(model, number, damage) from damage
            shutil.rmtree(place, ignore_errors=True)
            fetched.replace(place)
        return place

    def manner(self, model: str, number: int) -> dict[str, Any]:
        """How the version is asked where nobody says: `labels`, `prompts`, and `decoding` as it was measured with.

        Raises VersionMissing, VersionDamaged.
        """
        version = self._version(model, number)
        with tempfile.TemporaryDirectory() as folder:
            file = self._download(version, f"artifacts/{MANNER}", Path(folder))
            try:
                found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                damage = CheckpointDamaged(file, f"it is no JSON ({error})")
                raise VersionDamaged(model, number, damage) from error
        return found

    def fetch(self, model: str, number: int, folder: Path) -> Path:
        """A copy of the whole version below `folder`, as `mlflow models serve -m PATH` takes it."""
        version = self._version(model, number)
        folder.mkdir(parents=True, exist_ok=True)
        return self._download(version, "", folder)

    def load(self, model: str, number: int, folder: Path) -> Any:
        """The version as MLflow serves it, from a copy below `folder`: `predict(DataFrame, params)`."""
        from mlflow import pyfunc

        return pyfunc.load_model(str(self.fetch(model, number, folder)))

    def page(self, model: str, number: int) -> str | None:
        """The version's address in a browser; None without a server."""
        return pages.version_page(self.uri, model, number)

    def _version(self, model: str, number: int) -> ModelVersion:
        from mlflow.exceptions import MlflowException

        with reaching(self.uri):
            try:
                return self._client.get_model_version(model, str(number))
            except MlflowException as failure:
                if failure.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise VersionMissing(
                    f"The registry at {self.uri} holds no version {number} of {model}; `diptych ledger` shows which "
                    "there were."
                ) from failure

    def _download(self, version: ModelVersion, inside: str, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        with reaching(self.uri):
            try:
                found = download_artifacts(
                    artifact_uri=self._at_home(f"{version.source}/{inside}".rstrip("/")),
                    dst_path=str(folder),
                    tracking_uri=self.uri,
                )
            except (MlflowException, OSError) as failure:
                raise VersionMissing(
                    f"The files of {version.name} version {version.version} are gone ({failure}); register its run again."
                ) from failure
        return Path(found)

    def _at_home(self, address: str) -> str:
        """The file behind an address that only a server could answer for, where its folder is known."""
        if self._artifacts is None or not address.startswith(PROXIED):
            return address
        place = (self._artifacts / address.removeprefix(PROXIED).lstrip("/")).resolve()
        if not place.is_relative_to(self._artifacts.resolve()):
            raise OSError(f"{address} leads out of {self._artifacts}")
        return str(place)

    def _create(self, run_id: str, model: str, logged: LoggedModel, tags: Mapping[str, str]) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as failure:
            if failure.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self._client.create_model_version(
            model,
            source=logged.artifact_location,
            run_id=run_id,
            tags=dict(tags),
            model_id=logged.model_id,
        )
        return int(made.version)

    def _logged(self, run_id: str, key: str) -> LoggedModel | None:
        """What an earlier call uploaded for this key; halves of it are removed."""
        from mlflow.entities import LoggedModelStatus

        experiment = self._client.get_run(run_id).info.experiment_id
        found = self._client.search_logged_models(
            [experiment], filter_string=f"source_run_id = {quoted(run_id)}"
        )
        mine = [each for each in found if each.tags.get(KEY) == key]
        ready = [each for each in mine if each.status == LoggedModelStatus.READY]
        for half in mine:
            if half not in ready:
                self._client.delete_logged_model(half.model_id)
        return ready[0] if ready else None

    def _log(
        self, run_id: str, model: str, checkpoint: Checkpoint, key: str, **files: Any
    ) -> LoggedModel:
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        verify(checkpoint.path)
        experiment = self._client.get_run(run_id).info.experiment_id
        # It is PENDING until all of it is there, and nobody reads a pending one.
        pending = self._client.create_logged_model(
            experiment, name=model, source_run_id=run_id, tags={KEY: key}
        )
        with tempfile.TemporaryDirectory() as folder:
            about = Model(run_id=run_id, model_id=pending.model_id)
            write_version(Path(folder) / "version", about, checkpoint, **files)
            self._client.log_model_artifacts(pending.model_id, str(Path(folder) / "version"))
        failpoint("version.uploaded")
        logged = self._client.finalize_logged_model(pending.model_id, "READY")
        self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, checkpoint.step)])
        return logged


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _require(fetched: Path, digest: str) -> None:
    if verify(fetched).digest != digest:
        raise CheckpointDamaged(
            fetched / "MANIFEST.json", f"it is not the checkpoint of digest {digest[:12]}"
        )


def _holds(place: Path, digest: str) -> bool:
    try:
        return verify(place).digest == digest
    except (CheckpointDamaged, CheckpointMissing):
        return False
