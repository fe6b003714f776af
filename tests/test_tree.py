"""The tree is what it says: names resolve here, doors are the only doors, flows load as Prefect loads them."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.catalog import FAMILIES

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "components", "registry", "infra")
BARE = (
    "prefect", "mlflow", "ray", "great_expectations", "dvc", "sqlalchemy", "alembic", "pydantic",
    "yaml", "typer", "rich", "jinja2", "matplotlib", "psutil", "resvg_py", "pandas", "transformers",
)  # fmt: skip
HEAVY = ("torch", "prefect", "mlflow", "ray", "transformers", "great_expectations", "sqlalchemy")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_the_one_of_this_checkout(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert Path(spec.origin).parent == ROOT / name


def test_nothing_in_flows_hides_a_library():
    # Prefect puts flows/ at the head of sys.path and loads a flow file under its bare stem.
    for path in (ROOT / "flows").glob("[!_]*"):
        assert importlib.util.find_spec(path.stem) is None, f"{path.name} hides a library"


def test_a_bare_gpu_box_imports_components():
    script = f"""
import sys, importlib, pathlib
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BARE!r}:
            raise ModuleNotFoundError(f"a bare box has no {{name}}", name=name)
sys.meta_path.insert(0, Absent())
for path in sorted(pathlib.Path("components").rglob("*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts))
"""
    _run(script)


def test_help_imports_nothing_heavy():
    script = f"""
import sys
from typer.testing import CliRunner
from flows.cli import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
loaded = sorted(set({HEAVY!r}) & set(sys.modules))
assert not loaded, loaded
"""
    _run(script)


def _run(script):
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _deployments():
    return yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", _deployments(), ids=lambda each: each["name"])
def test_each_entrypoint_loads_by_prefects_own_loader(deployment, monkeypatch):
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.chdir(ROOT)
    # Without use_placeholder_flow=False a flow whose imports fail is read from its syntax tree instead.
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert flow.name == deployment["name"]


def test_readme_names_every_family():
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in FAMILIES if f"`{name}`" not in readme]
    assert not missing


def test_readme_names_every_command():
    from typer.main import get_command

    from flows.cli import app

    told = (ROOT / "README.md").read_text() + (ROOT / "CHANGELOG.md").read_text()
    assert not [
        name
        for name in get_command(app).commands
        if f"`{name}`" not in told and f"diptych {name}" not in told
    ]


def test_readme_shows_files_that_exist():
    text = (ROOT / "README.md").read_text()
    named = [part.partition(")")[0] for part in text.split("](")[1:]]
    named += [
        word for word in text.split("`") if "/" in word and " " not in word and "<" not in word
    ]
    missing = [
        name for name in named if not name.startswith((".venv", "/")) and not (ROOT / name).exists()
    ]
    assert not missing
