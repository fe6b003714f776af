"""Emoji drawing sets from their npm packages: fetch them, and read them as drawings of named concepts.

Run it to fetch what the source `emoji8` reads: `python -m components.data.sources.emoji_packages`.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import atomic
from components.data.sources.drawings import Concept, Drawing, DrawingSet
from components.data.sources.emoji_names import read_concepts
from components.data.sources.packages import PackagesMissing

RAW = Path(__file__).parents[3] / "data" / "raw" / "emoji8"
FETCH = "python -m components.data.sources.emoji_packages"


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package at one version."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """What `npm pack` calls it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def _drawn(name: str, version: str, sha256: str) -> Package:
    return Package(name=f"@iconify-json/{name}", version=version, sha256=sha256)


# fmt: off
SETS = {
    "noto": _drawn("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "noto-v1": _drawn("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "twemoji": _drawn("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "openmoji": _drawn("openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
    "fluent-emoji-flat": _drawn("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    "fluent-emoji": _drawn("fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
    "emojione": _drawn("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    "emojione-v1": _drawn("emojione-v1", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"),
}
"""Drawing sets whose licences let anyone use, change and pass on the drawings."""
NAMES = Package(name="emojibase-data", version="17.0.0", sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
"""Names, tags and groups of all concepts: CLDR, Unicode and the shortcodes of four programmes."""
# fmt: on


def fetch_emoji8(folder: Path = RAW) -> None:
    """Put every package into `folder` with `npm pack`, each checked by its sha256; what is there already stays.

    Raises `PackagesMissing` when npm is absent, fails, or brings other bytes than the pinned ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in (*SETS.values(), NAMES):
        if not _is_whole(package, folder):
            _fetch(package, folder)


def read_packages(
    folder: Path = RAW,
    sets: Collection[str] = tuple(SETS),
    groups: Collection[str] | None = None,
) -> Iterator[Drawing]:
    """Drawings of `sets` that show a concept of `groups` (all, if None): set by set, concepts in Unicode's order.

    Skin tones and parts that only combine are left out. Raises `PackagesMissing`.
    """
    for package in (*(SETS[name] for name in sets), NAMES):
        if not _is_whole(package, folder):
            raise PackagesMissing(
                f"{folder / package.file} is missing or is not the pinned one. Fetch it with `{FETCH}` (needs npm)."
            )
    shown = [each for each in concepts(folder) if groups is None or each.group in groups]
    for name in sets:
        icons = _Icons(name, folder)
        for concept in shown:
            if icon := icons.find(concept):
                yield icons.drawing(icon, concept)


def concepts(folder: Path = RAW) -> list[Concept]:
    """All concepts of the fetched tables of names, in Unicode's order."""
    return read_concepts(lambda name: _read(NAMES, folder, name))


def _is_whole(package: Package, folder: Path) -> bool:
    path = folder / package.file
    return path.is_file() and atomic.sha256_file(path) == package.sha256


def _fetch(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise PackagesMissing(
            f"npm fetches {package.name}@{package.version} and is not on PATH. Install Node.js, or copy "
            f"{package.file} (sha256 {package.sha256}) into {folder}; emoji_mini needs neither."
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".npm-") as building:
        command = [npm, "pack", "--ignore-scripts", f"{package.name}@{package.version}"]
        done = subprocess.run(
            command, cwd=building, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode or not _is_whole(package, Path(building)):
            why = done.stderr.strip()[-500:] or f"other bytes came than sha256 {package.sha256}"
            raise PackagesMissing(f"`{' '.join(command)}` brought no {package.file}: {why}")
        (Path(building) / package.file).replace(folder / package.file)


def _read(package: Package, folder: Path, name: str) -> Any:
    # One member is read through; nothing is unpacked to disk.
    with tarfile.open(folder / package.file, "r:gz") as archive:
        member = archive.extractfile(f"package/{name}")
        if member is None:
            raise PackagesMissing(f"{folder / package.file} holds no {name}.")
        return json.load(io.TextIOWrapper(member, encoding="utf-8"))


class _Icons:
    """The drawings of one package, found by code point or, in packages without such a table, by name."""

    def __init__(self, name: str, folder: Path) -> None:
        package = SETS[name]
        self.content = _read(package, folder, "icons.json")
        self.names = _read(package, folder, "chars.json")
        about = _read(package, folder, "info.json")
        self.set = DrawingSet(
            name=name,
            package=package.name,
            version=package.version,
            author=about["author"]["name"],
            license=about["license"]["spdx"],
        )

    def find(self, concept: Concept) -> dict[str, Any] | None:
        """The icon of a concept with the package's defaults filled in; None if the set does not draw it."""
        known = (self.names.get(concept.key, ""),)
        for name in known if self.names else _slugs(concept.names[0]):
            if icon := self._resolve(name):
                return icon
        return None

    def _resolve(self, name: str) -> dict[str, Any] | None:
        is_mirrored = False
        while name in self.content.get("aliases", {}):
            alias = self.content["aliases"][name]
            is_mirrored ^= alias.get("hFlip", False)
            name = alias["parent"]
        icon = self.content["icons"].get(name)
        if icon is None:
            return None
        sizes = {side: self.content.get(side, 16) for side in ("width", "height")}
        filled: dict[str, Any] = {"left": 0, "top": 0} | sizes | icon
        return filled | {"is_mirrored": is_mirrored}

    def drawing(self, icon: dict[str, Any], concept: Concept) -> Drawing:
        """The icon as a drawing; a mirrored alias is drawn mirrored."""
        left, top, width, height = (icon[side] for side in ("left", "top", "width", "height"))
        body = icon["body"]
        if icon["is_mirrored"]:
            body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
        return Drawing(
            set=self.set, concept=concept, body=body, view_box=(left, top, width, height)
        )


def _slugs(label: str) -> tuple[str, ...]:
    """The names under which sets without a table of code points may keep a concept."""
    if not label.startswith("flag: "):
        return (_slug(label),)
    place = _slug(label.removeprefix("flag: "))
    return (_slug(label), f"flag-for-{place}", f"flag-for-flag-{place}")


def _slug(label: str) -> str:
    plain = unicodedata.normalize("NFKD", label.replace("&", "and").replace("’", ""))
    ascii_only = plain.encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", ascii_only.lower()).strip("-")


if __name__ == "__main__":
    fetch_emoji8()
