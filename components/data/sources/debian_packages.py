"""Debian packages as folders: fetched with apt, checked by their sha256, unpacked and never installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from components import atomic
from components.data.sources.packages import PackagesMissing

TIMEOUT_S = 1800
"""For one package, in seconds; the largest has 161 MB."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package of Debian 12 for every architecture, at one version."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """What `apt-get download` calls it."""
        return f"{self.folder}.deb"

    @property
    def folder(self) -> str:
        """Where `fetch` unpacks it; its name says the version, so another version is another folder."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_all"


def fetch(packages: Sequence[Package], raw: Path) -> None:
    """Unpack each package into a folder below `raw`; one that is there stays.

    A package file that lies in `raw` already is taken instead of a download, if it is the pinned one.
    Raises `PackagesMissing` when apt or dpkg is absent, fails, or brings other bytes than the pinned ones.
    """
    raw.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if not (raw / package.folder).is_dir():
            _fetch(package, raw)


def unpacked(package: Package, raw: Path, command: str) -> Path:
    """The folder of a fetched package; `PackagesMissing` tells to run `command` if there is none."""
    folder = raw / package.folder
    if not folder.is_dir():
        raise PackagesMissing(
            f"{folder} is missing. `{command}` fetches it (needs apt-get and dpkg-deb), from Debian 12 or from "
            f"{package.file} (sha256 {package.sha256}) if you put that into {raw}."
        )
    return folder


def files_below(root: Path, *suffixes: str) -> Iterator[Path]:
    """Every file below `root` with one of these suffixes, by its path; what links lead out of `root` is left out."""
    whole = root.resolve()
    for path in sorted(root.rglob("*")):
        # Debian replaces twins by links to each other, so links are followed, but not outwards.
        if path.suffix in suffixes and path.is_file() and path.resolve().is_relative_to(whole):
            yield path


def _fetch(package: Package, raw: Path) -> None:
    with tempfile.TemporaryDirectory(dir=raw, prefix=".fetching-") as building:
        deb = raw / package.file
        if not deb.is_file():
            deb = Path(building) / package.file
            _run(["apt-get", "download", f"{package.name}={package.version}"], package, building)
        if not deb.is_file() or atomic.sha256_file(deb) != package.sha256:
            raise PackagesMissing(
                f"{deb.name} is not the pinned one (sha256 {package.sha256}). It is of Debian 12; "
                f"put that file into {raw} and run this again."
            )
        _run(["dpkg-deb", "-x", str(deb), f"{building}/tree"], package, building)
        # Renamed when it is whole: a folder that is there is all of the package.
        (Path(building) / "tree").replace(raw / package.folder)


def _run(command: list[str], package: Package, folder: str) -> None:
    if shutil.which(command[0]) is None:
        raise PackagesMissing(
            f"{command[0]} unpacks {package.file} and is not on PATH; use a Debian or Ubuntu machine "
            f"and copy the folder {package.folder} it makes."
        )
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode:
        said = " ".join(done.stderr.split())[-500:]
        raise PackagesMissing(
            f"`{' '.join(command)}` failed: {said}. `apt-get update` refreshes what apt knows; the version is Debian 12's."
        )
