"""Samples -> tar shards and a manifest, and back: a prepared revision of a source, read by offset.

A folder holds `train-00000.tar` … (plain tars, 1,000 images each, one split each), `manifest.jsonl` (a line an image)
and `shards.json`, written last. The same samples give the same bytes. Nothing is ever unpacked to disk.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from components import atomic
from components.data.manifest import SHARD_NAME, LineDamaged, from_line, to_line
from components.data.tar import SplitTars
from components.data.transforms import UnreadableImage, picture_sha256, read_picture
from components.records import SPLITS, Row, Sample, Shards

MANIFEST, MARKER, FORMAT = "manifest.jsonl", "shards.json", 1


class ShardsMissing(FileNotFoundError):
    """No finished shards in a folder; the message names the command that makes them."""


class ShardsDamaged(ValueError):
    """Bytes that are not those written; the message names the place and the command that mends it."""


class SampleRefused(ValueError):
    """A sample that no manifest can hold: an id that came twice, an unknown split, a text that is no Unicode."""


def write_shards(samples: Iterable[Sample], folder: Path) -> Shards:
    """Write samples, in the order they come, as the shards of `folder`; what stood there before is replaced.

    An unreadable image gets its row too (0 x 0 px, no pixels_sha256), so that the expectations can report it.
    Raises `SampleRefused`. The folder is built beside its place and renamed, so a crash leaves the old one or none.
    """
    folder = Path(folder)
    building = _beside(folder)
    building.mkdir(parents=True)
    try:
        _write(samples, building)
        _swap(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return open_shards(folder)


def open_shards(folder: Path) -> Shards:
    """Find finished shards: the marker is whole, and every file it names is there with its size.

    Raises `ShardsMissing` and `ShardsDamaged`. What is read later is checked by its hash where it is read.
    """
    folder = Path(folder)
    marker = _read_marker(folder)
    for name, file in marker["files"].items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"{path} is missing")
        if path.stat().st_size != file["size_bytes"]:
            raise _damaged(
                folder, f"{path} has {path.stat().st_size} bytes instead of {file['size_bytes']}"
            )
    return Shards(path=folder, digest=marker["digest"], counts=marker["counts"])


def read_manifest(shards: Shards) -> list[Row]:
    """Every row, in order; `ShardsDamaged` names the line that is no row, or the file if its hash is another."""
    path = shards.path / MANIFEST
    with _open_file(shards, MANIFEST) as file:
        content = file.read()
    rows = []
    for number, line in enumerate(content.splitlines()):
        try:
            row = from_line(line.decode("ascii"))
            if row.key != number:
                raise LineDamaged(f"has key {row.key} instead of {number}")
        except (LineDamaged, UnicodeDecodeError) as error:
            raise _damaged(shards.path, f"{path}:{number + 1} {error}") from error
        rows.append(row)
    if hashlib.sha256(content).hexdigest() != shards.digest:
        raise _damaged(shards.path, f"{path} is not the one that digest {shards.digest} names")
    return rows


def read_images(shards: Shards, rows: Iterable[Row]) -> Iterator[bytes]:
    """The encoded image of each row, checked by its sha256; `ShardsDamaged` names the row's id."""
    name, file = "", None
    try:
        for row in rows:
            if file is None or row.shard != name:
                if file is not None:
                    file.close()
                name, file = row.shard, _open_file(shards, row.shard)
            file.seek(row.offset_bytes)
            image = file.read(row.size_bytes)
            if hashlib.sha256(image).hexdigest() != row.sha256:
                place = f"{shards.path / name}, byte {row.offset_bytes}"
                raise _damaged(
                    shards.path, f'the image of "{row.sample.id}" ({place}) has another sha256'
                )
            yield image
    finally:
        if file is not None:
            file.close()


def verify_shards(shards: Shards) -> None:
    """Hash every file anew and compare with the marker; `ShardsDamaged` names the first that differs."""
    marker = _read_marker(shards.path)
    for name, file in marker["files"].items():
        with _open_file(shards, name) as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != file["sha256"]:
            raise _damaged(
                shards.path, f"{shards.path / name} has sha256 {found} instead of {file['sha256']}"
            )
    if marker["digest"] != shards.digest:
        raise _damaged(shards.path, f"its digest is {marker['digest']}, not {shards.digest}")


def _write(samples: Iterable[Sample], folder: Path) -> None:
    lines: list[str] = []
    ids: set[str] = set()
    counts = Counter[str]()
    with SplitTars(folder) as tars:
        for key, sample in enumerate(samples):
            _refuse(sample, ids)
            ids.add(sample.id)
            counts[sample.split] += 1
            lines.append(to_line(_row(key, sample, *tars.add(sample.split, sample.image))) + "\n")
    atomic.write_text(folder / MANIFEST, "".join(lines))
    files = {
        path.name: {"sha256": atomic.sha256_file(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    digest = files[MANIFEST]["sha256"]
    marker = {"format": FORMAT, "digest": digest, "counts": dict(counts), "files": files}
    atomic.write_json(folder / MARKER, marker)


def _row(key: int, sample: Sample, shard: str, offset_bytes: int) -> Row:
    width_px = height_px = 0
    pixels_sha256 = ""
    try:
        picture = read_picture(sample.image)
        width_px, height_px = picture.size
        pixels_sha256 = picture_sha256(picture)
    except UnreadableImage:
        pass  # kept as a row without pixels: expectations.py reports it by id
    return Row(
        key=key,
        sample=sample,
        shard=shard,
        offset_bytes=offset_bytes,
        size_bytes=len(sample.image),
        sha256=hashlib.sha256(sample.image).hexdigest(),
        pixels_sha256=pixels_sha256,
        width_px=width_px,
        height_px=height_px,
    )


def _refuse(sample: Sample, ids: set[str]) -> None:
    if not sample.id or sample.id in ids:
        problem = f'came twice: "{sample.id}"' if sample.id else "is empty"
        raise SampleRefused(
            f"A sample's id {problem}; each image of a source has an id of its own."
        )
    if sample.split not in SPLITS:
        raise SampleRefused(
            f'Sample "{sample.id}" has the split "{sample.split}"; known: {", ".join(SPLITS)}.'
        )
    for text in (sample.id, *sample.captions):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SampleRefused(
                f"Sample {sample.id!r} holds a text that is no Unicode: {error}."
            ) from error


def _swap(building: Path, folder: Path) -> None:
    atomic.sync_folder(building)
    old = _beside(folder)
    if folder.exists():
        folder.replace(old)
    building.replace(folder)
    atomic.sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.{secrets.token_hex(6)}"


def _read_marker(folder: Path) -> dict[str, Any]:
    path = folder / MARKER
    try:
        marker = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ShardsMissing(
            f"{path} is missing, so {folder} holds no finished shards. {_remedy(folder)}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{path} is no JSON ({error})") from error
    if not _is_marker(marker):
        raise _damaged(folder, f"{path} is no marker of format {FORMAT}")
    return dict(marker)


def _is_marker(marker: Any) -> bool:
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        return False
    files, counts = marker.get("files"), marker.get("counts")
    return (
        isinstance(marker.get("digest"), str)
        and isinstance(counts, dict)
        and all(name in SPLITS and isinstance(count, int) for name, count in counts.items())
        and isinstance(files, dict)
        and MANIFEST in files
        and all(name == MANIFEST or SHARD_NAME.fullmatch(name) for name in files)
        and all(
            isinstance(file, dict) and file.keys() == {"sha256", "size_bytes"}
            for file in files.values()
        )
    )


def _open_file(shards: Shards, name: str) -> BufferedReader:
    try:
        return (shards.path / name).open("rb")
    except FileNotFoundError:
        raise _damaged(shards.path, f"{shards.path / name} is missing") from None


def _damaged(folder: Path, problem: str) -> ShardsDamaged:
    return ShardsDamaged(f"{problem}. {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"Make it again with `diptych prepare {folder.name} --out {folder}`."
