"""What a teacher said, by what it was asked about: in memory, and beside the run's checkpoints for who goes on with it.

Files hold what was new at one checkpoint, lie in a folder named by all that decides the answers, and are named by the
sha256 of their content: what is damaged, or another teacher's, is passed over, and asked for again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from components import atomic

Said = dict[str, NDArray[Any]]
"""Named arrays about one thing, rows first; each has its own number of rows."""
Asked = Callable[[list[int]], Sequence[Said]]
"""Indices of things -> what is said of them."""

FOLDER = "teacher"
"""In the run's folder."""

_NAME_BYTES = 16
_FILE = "*.safetensors"


def name_of(*numbers: int) -> bytes:
    """What a thing that these numbers tell apart is kept under, 16 bytes."""
    text = np.array(numbers, np.int64).tobytes()
    return hashlib.blake2b(text, digest_size=_NAME_BYTES).digest()


class TeacherCache:
    """Answers by kind and name; of every thing the first answer, for good."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """folder: of this and other caches. identity: all that decides an answer, as JSON can hold it."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
        self._identity = np.frombuffer(digest, np.uint8)
        self._folder = folder / digest.hex()[:16]
        self._known: dict[str, dict[bytes, Said]] = {}
        self._new: dict[str, list[bytes]] = {}
        for path in sorted(self._folder.glob(_FILE)):
            self._read(path)

    def recall(self, kind: str, names: Sequence[bytes], ask: Asked) -> list[Said]:
        """What was said of each; `ask` is called once, for those never asked about."""
        known = self._known.setdefault(kind, {})
        first: dict[bytes, int] = {}
        for index, name in enumerate(names):
            if name not in known:
                first.setdefault(name, index)
        if first:
            known |= zip(first, ask(list(first.values())), strict=True)
            self._new.setdefault(kind, []).extend(first)
        return [known[name] for name in names]

    def write(self) -> None:
        """Put what is new on disk. Raises OSError as the disk does."""
        if not self._new:
            return
        tensors = {"identity": self._identity}
        for kind, names in self._new.items():
            said = [self._known[kind][name] for name in names]
            tensors[f"{kind}/names"] = np.frombuffer(b"".join(names), np.uint8)
            for part in said[0]:
                tensors[f"{kind}/{part}/rows"] = np.concatenate([each[part] for each in said])
                tensors[f"{kind}/{part}/counts"] = np.array([len(each[part]) for each in said])
        data = save(tensors)
        atomic.write_bytes(self._folder / f"{hashlib.sha256(data).hexdigest()}.safetensors", data)
        self._new.clear()

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != path.stem:
                raise ValueError("its content is not what its name says")
            tensors = load(data)
            if not np.array_equal(tensors.pop("identity", np.empty(0)), self._identity):
                raise ValueError("it is of another teacher, or of other data")
        except (OSError, ValueError, SafetensorError) as error:
            logging.getLogger(__name__).warning("%s is passed over: %s.", path, error)
            return
        for kind in {name.partition("/")[0] for name in tensors}:
            self._known.setdefault(kind, {}).update(_entries(kind, tensors))


def _entries(kind: str, tensors: Mapping[str, NDArray[Any]]) -> dict[bytes, Said]:
    names = [bytes(row) for row in tensors[f"{kind}/names"].reshape(-1, _NAME_BYTES)]
    said: list[Said] = [{} for _ in names]
    for whole in tensors:
        if whole.startswith(f"{kind}/") and whole.endswith("/rows"):
            part = whole.split("/")[1]
            ends = tensors[f"{kind}/{part}/counts"].cumsum()[:-1]
            for each, rows in zip(said, np.split(tensors[whole], ends), strict=True):
                each[part] = rows
    return dict(zip(names, said, strict=True))
