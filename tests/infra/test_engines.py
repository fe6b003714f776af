"""The engines together: those installed work with each other, and are the ones written down."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from infra.settings import Settings

REPO = Path(__file__).resolve().parents[2]
ENGINES = (
    "prefect.server.api.server",  # fails on a FastAPI that Prefect does not know
    "mlflow.pyfunc",
    "ray.train.torch",
    "ray.job_submission",
    "great_expectations",
    "dvc.repo",
    "sqlalchemy",
    "alembic",
    "torch",
)
INSTALLERS = {"pip", "wheel", "uv"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins() -> dict[str, Requirement]:
    lines = (REPO / "constraints.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {plain(one.name): one for one in wanted}


def test_all_engines_import_together_in_one_process(tmp_path: Path) -> None:
    settings = Settings.read({"DIPTYCH_HOME": str(tmp_path / "home")})
    done = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(ENGINES)}"],
        env=settings.child_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_fastapi_is_one_that_prefect_can_start_with() -> None:
    assert Version("0.139") <= Version(version("fastapi")) < Version("0.151")


def test_sqlalchemy_is_one_that_prefect_can_schedule_with() -> None:
    assert Version("2.0.40") <= Version(version("sqlalchemy")) < Version("2.1")


@pytest.mark.parametrize("package", ["torchvision", "timm", "lightning", "pytorch_lightning"])
def test_a_package_we_do_without_is_absent(package: str) -> None:
    assert importlib.util.find_spec(package) is None


def test_constraints_pin_torch_for_every_machine(pins: dict[str, Requirement]) -> None:
    # "+cpu" is the name of one build; no other index has a version called so.
    assert str(pins["torch"].specifier) == "==2.13.0"


def test_constraints_pin_exactly(pins: dict[str, Requirement]) -> None:
    loose = [str(p) for p in pins.values() if not re.fullmatch(r"==[^*,]+", str(p.specifier))]
    assert loose == []


def test_constraints_name_no_index() -> None:
    text = (REPO / "constraints.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-", text, flags=re.MULTILINE)


def test_every_installed_package_is_the_pinned_one(pins: dict[str, Requirement]) -> None:
    installed = {plain(d.name): d.version for d in distributions()}
    ours = {name: v for name, v in installed.items() if name not in {"diptych", *INSTALLERS}}
    strays = [
        f"{name} {v}"
        for name, v in sorted(ours.items())
        if name not in pins or not pins[name].specifier.contains(v, prereleases=True)
    ]
    assert strays == []
