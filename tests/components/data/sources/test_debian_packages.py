"""Debian packages: unpacked whole or not at all, only the pinned bytes, and a missing tool is told."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from components.data.sources import debian_packages
from components.data.sources.debian_packages import Package
from components.data.sources.packages import PackagesMissing

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


@pytest.fixture
def built(tmp_path: Path) -> tuple[Package, Path]:
    """A real package file of one picture, and the folder `raw` that it lies in."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: clips\nVersion: 1:2-3\nArchitecture: all\nMaintainer: me <me@localhost>\nDescription: x\n"
    )
    (tree / "usr").mkdir()
    (tree / "usr/owl.png").write_bytes(b"owl")
    (tmp_path / "raw").mkdir()
    deb = tmp_path / "raw" / "clips_1%3a2-3_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(tree), str(deb)], check=True, capture_output=True)
    sha256 = hashlib.sha256(deb.read_bytes()).hexdigest()
    return Package(name="clips", version="1:2-3", sha256=sha256), tmp_path / "raw"


def test_a_pinned_package_is_unpacked_once(built: tuple[Package, Path]) -> None:
    package, raw = built
    debian_packages.fetch([package], raw)
    folder = debian_packages.unpacked(package, raw, "fetch")
    assert (folder / "usr/owl.png").read_bytes() == b"owl"
    (raw / package.file).unlink()
    debian_packages.fetch([package], raw)  # nothing is fetched again
    assert [path.name for path in raw.iterdir()] == [package.folder]


def test_other_bytes_than_the_pinned_are_refused_and_nothing_is_left(
    built: tuple[Package, Path],
) -> None:
    package, raw = built
    (raw / package.file).write_bytes(b"another")
    with pytest.raises(PackagesMissing, match="not the pinned one"):
        debian_packages.fetch([package], raw)
    assert [path.name for path in raw.iterdir()] == [package.file]


def test_a_package_apt_does_not_know_is_told_and_leaves_nothing(
    built: tuple[Package, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, raw = built
    (raw / package.file).unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackagesMissing, match=r"apt-get .+ is not on PATH"):
        debian_packages.fetch([package], raw)
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: Unable to locate package clips' >&2\nexit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    with pytest.raises(PackagesMissing, match="Unable to locate package clips"):
        debian_packages.fetch([package], raw)
    assert list(raw.iterdir()) == []
