"""Checkpoints of a run on another storage: a folder, or whatever fsspec has a door to (s3://bucket/prefix).

A mirror holds `<address>/<run>/step-00000400/` with the same files as on the local disk. Files are sent first and the
marker last, so that a checkpoint is there if and only if its marker is; what is fetched is checked by sha256.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from components import atomic
from components.config import ConfigError
from components.records import Checkpoint
from components.training.checkpoints import checkpoint, marker
from components.training.checkpoints.marker import MARKER, CheckpointDamaged
from components.training.checkpoints.rewinding import is_finite


class MirrorFailed(OSError):
    """A mirror does not hold what was just sent there."""


class Mirror:
    """The checkpoints of one run, elsewhere."""

    def __init__(self, address: str, run: str) -> None:
        """address: what fsspec opens; run: the name of the run's folder. Raises ConfigError for an address nobody can open."""
        from fsspec.asyn import AsyncFileSystem
        from fsspec.core import url_to_fs

        try:
            # Another process writes there: what was listed once says nothing of now.
            found: tuple[Any, str] = url_to_fs(
                address, use_listings_cache=False, skip_instance_cache=True
            )
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"Checkpoints cannot be copied to {address}: {error}. What works: a folder, or an address that fsspec "
                "knows and has its package for, as s3://bucket/prefix with the extra `s3`."
            ) from error
        self._files, root = found
        self.place = f"{root.rstrip('/')}/{run}"
        # Stores of objects know no folders; asked for one they would make a bucket.
        self._has_folders = not isinstance(self._files, AsyncFileSystem)

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints there, oldest first. Raises what the storage raises where it cannot be read."""
        return sorted(step for step, marked in self._found().items() if marked)

    def send(self, path: Path) -> None:
        """Copy a checkpoint there; one that is there already stays. Raises MirrorFailed, or what the storage raises."""
        target = self._of(path.name)
        seal = (path / MARKER).read_bytes()
        if self._read(f"{target}/{MARKER}") == seal:
            return
        content, _ = marker.read(path)
        if self._files.exists(f"{target}/{MARKER}"):  # another checkpoint of this step
            self._files.rm_file(f"{target}/{MARKER}")
        for name in content["files"]:
            self._put(path / name, f"{target}/{name}")
        self._check_sizes(target, content)
        self._put(path / MARKER, f"{target}/{MARKER}")
        if self._read(f"{target}/{MARKER}") != seal:
            raise MirrorFailed(f"{target} holds another marker than the one that was sent.")

    def send_file(self, file: Path) -> None:
        """Copy one of the run's own small files there, in place of an older one: a reader finds one of them, whole."""
        target = f"{self.place}/{file.name}"
        if not self._has_folders:  # a PUT is all or nothing
            self._put(file, target)
            return
        halfway = f"{self.place}/.{file.name}.sending"
        self._put(file, halfway)
        self._files.mv(halfway, target)

    def fetch(self, step: int, folder: Path) -> Checkpoint:
        """Bring a checkpoint into a run's folder of checkpoints, whole or not at all.

        Raises CheckpointDamaged where what came is not what was saved, and what the storage raises.
        """
        source = self._of(checkpoint.place(folder, step).name)

        def fill(building: Path) -> None:
            self._files.get_file(f"{source}/{MARKER}", str(building / MARKER))
            for name in marker.read(building)[0]["files"]:
                _refuse_outside(building, name)
                (building / name).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{source}/{name}", str(building / name))

        return checkpoint.receive(folder, step, fill)

    def fetch_file(self, file: Path) -> None:
        """Bring one of the run's own small files, if it is there, in place of what is here.

        A damaged one stays there: they say more of a run than its checkpoint does, and it goes on without.
        """
        if (held := self._read(f"{self.place}/{file.name}")) is None:
            return
        if not _is_json(held, lines=file.suffix == ".jsonl"):
            logging.getLogger(__name__).warning(
                "%s/%s is damaged, and passed over", self.place, file.name
            )
            return
        atomic.write_bytes(file, held)

    def sweep(self, keep: int, spare: Collection[int], sent: int) -> None:
        """Remove all but the `keep` newest checkpoints up to the step that was `sent`, and those of the steps in `spare`.

        Later ones are of a training that went back behind them. Halves that were never finished go too.
        """
        found = self._found()
        whole = sorted(step for step, marked in found.items() if marked and step <= sent)
        kept = {*whole[-keep:], *(step for step in whole if step in spare)}
        for step in sorted(found.keys() - kept):
            target = self._of(checkpoint.place(Path(), step).name)
            if found[step]:  # first of all: without it nobody takes the rest for a checkpoint
                self._files.rm_file(f"{target}/{MARKER}")
            self._files.rm(target, recursive=True)

    def _found(self) -> dict[int, bool]:
        """Each step of which there is a file, and whether it has its marker."""
        self._files.invalidate_cache()
        found = self._files.find(self.place) if self._files.exists(self.place) else []
        inside = [PurePosixPath(file.removeprefix(self.place).lstrip("/")).parts for file in found]
        steps: dict[int, bool] = {}
        for name, *rest in inside:
            if rest and _is_step(name):
                step = checkpoint.step_of(Path(name))
                steps[step] = steps.get(step, False) or rest == [MARKER]
        return steps

    def _of(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _put(self, file: Path, target: str) -> None:
        if self._has_folders:
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(file), target)

    def _read(self, target: str) -> bytes | None:
        try:
            found: bytes = self._files.cat_file(target)
        except FileNotFoundError:
            return None
        return found

    def _check_sizes(self, target: str, content: dict[str, Any]) -> None:
        for name, measured in content["files"].items():
            found = self._files.info(f"{target}/{name}")["size"]
            if found != measured["size_bytes"]:
                raise MirrorFailed(
                    f"{target}/{name} holds {found} bytes, sent were {measured['size_bytes']}."
                )


def fetch_newest(mirror: Mirror, folder: Path, known: Checkpoint | None) -> Checkpoint | None:
    """The newest good checkpoint of a mirror, brought here, or `known` if that is as new.

    Damaged ones are passed over, and those that are not finite: their training went back behind them, and was ended
    before the mirror heard of it.
    """
    for step in reversed(mirror.steps()):
        if known is not None and step <= known.step:
            break
        try:
            found = mirror.fetch(step, folder)
            if is_finite(found.path):
                return found
            checkpoint.discard(found.path)
        except CheckpointDamaged as error:
            logging.getLogger(__name__).warning("%s, passed over: %s", mirror.place, error)
    return known


def _is_json(held: bytes, *, lines: bool) -> bool:
    """Of lines, all that are whole: whoever reads them leaves out a last one that is not."""
    parts = held[: held.rfind(b"\n") + 1].splitlines() if lines else [held]
    try:
        for part in parts:
            json.loads(part)
    except ValueError:
        return False
    return True


def _is_step(name: str) -> bool:
    return name.startswith("step-") and name.removeprefix("step-").isdigit()


def _refuse_outside(building: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise CheckpointDamaged(building / MARKER, f"it names {name!r}, which lies outside of it")
