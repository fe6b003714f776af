"""Where METEOR's data files lie: in the package `pycocoevalcap` 1.2, of which nothing is imported or run.

Licences: METEOR's data LGPL 2.1; synsets and exceptions WordNet 3.0's, which lies beside them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from components.atomic import sha256_file

PACKAGE = "pycocoevalcap"
INSTALL = "pip install --no-deps pycocoevalcap==1.2"
JAR = "meteor/meteor-1.5.jar"
"""Synsets, exceptions, function words and abbreviations are members of it."""
TABLE = "meteor/data/paraphrase-en.gz"
SHA256 = {
    JAR: "1e57b4c72c0830ebe68558f1c799a624e96cbc1b6045c9f6330e26dcff6eafc2",
    TABLE: "c147ac7d2c91f2fbb3ad31e4b352235061eb83145e0434daf217ee9ca5975f48",
}
Name = Literal["meteor", "meteor_ems"]
FILES: dict[Name, tuple[str, ...]] = {"meteor": (JAR, TABLE), "meteor_ems": (JAR,)}
"""What each metric reads; meteor_ems does without paraphrases."""


class MeteorDataMissing(RuntimeError):
    """METEOR's data are not on this machine, or are others than this code was checked with."""


def packaged(file: str) -> Path:
    """A file of the package, its bytes those this code was checked with. Raises MeteorDataMissing."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise MeteorDataMissing(f"METEOR's data come with a package that is not here: {INSTALL}")
    path = Path(folders[0]) / file
    if not path.is_file():
        raise MeteorDataMissing(f"{path} is not there; {INSTALL} --force-reinstall")
    found = sha256_file(path)
    if found != SHA256[file]:
        raise MeteorDataMissing(
            f"{path} has sha256 {found}, and this code was checked with {SHA256[file]}; "
            f"{INSTALL} --force-reinstall"
        )
    return path
