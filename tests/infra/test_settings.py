"""Settings: one reading of the environment, refused by name where it cannot work, safe for children."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from infra.settings import PORT_VARIABLES, SAFE_DEFAULTS, Settings
from infra.variables import SettingsError

# What each default has to come out as, read by the system it is meant for. A name that its system
# no longer knows fails here too.
PREFECT = {
    "server.analytics_enabled": False,
    "server.api.host": "127.0.0.1",
    "server.api.port": 4200,
    "server.api.csrf_protection_enabled": True,
    "server.api.cors_allowed_origins": "http://127.0.0.1:4200,http://localhost:4200",
    "server.ui.show_promotional_content": False,
    "server.ephemeral.startup_timeout_seconds": 180,
    "results.default_serializer": "json",
    "worker.query_seconds": 2.0,
    "worker.webserver.host": "127.0.0.1",
    "api.url": "http://127.0.0.1:4200/api",
}
MLFLOW = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": False,
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": False,
    "MLFLOW_DISABLE_TELEMETRY": True,
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": False,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 5,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": 30,
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
}
# Read by C++ or by packages that give no reading of theirs: the variable itself is the contract.
PLAIN = {
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
READ_BACK = """
import json, sys
from mlflow import environment_variables as mlflow
from prefect.settings import get_current_settings
prefect = {}
for name in json.loads(sys.argv[1]):
    value = get_current_settings()
    for part in name.split("."):
        value = getattr(value, part)
    prefect[name] = value
print(json.dumps([prefect, {name: getattr(mlflow, name).get() for name in json.loads(sys.argv[2])}]))
"""


def read(home: Path, **variables: str) -> Settings:
    return Settings.read({"PATH": os.environ["PATH"], "DIPTYCH_HOME": str(home), **variables})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read(tmp_path / "home")


@pytest.fixture(scope="module")
def read_back(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What Prefect and MLflow themselves make of the environment, in a fresh process."""
    # Each relaxed by the shell that starts us: a child must not inherit that.
    relaxed = {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
        "PREFECT_SERVER_API_HOST": "0.0.0.0",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "*",
    }
    settings = read(tmp_path_factory.mktemp("read") / "home", **relaxed)
    done = subprocess.run(
        [sys.executable, "-c", READ_BACK, json.dumps(list(PREFECT)), json.dumps(list(MLFLOW))],
        env=settings.child_environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    prefect, mlflow = json.loads(done.stdout.splitlines()[-1])
    return {**prefect, **mlflow}


@pytest.mark.parametrize("name", [*PREFECT, *MLFLOW])
def test_each_system_reads_the_safe_default(read_back: dict[str, object], name: str) -> None:
    assert read_back[name] == {**PREFECT, **MLFLOW}[name]


@pytest.mark.parametrize("name", PLAIN)
def test_each_plain_default_is_set_over_what_the_shell_says(tmp_path: Path, name: str) -> None:
    child = read(tmp_path / "home", **{name: "relaxed"}).child_environment()
    assert child[name] == PLAIN[name]


def test_no_default_is_without_a_test() -> None:
    resolved = {name.upper().replace(".", "_") for name in PREFECT}
    tested = {*PLAIN, *MLFLOW, *(f"PREFECT_{name}" for name in resolved)}
    sources = {
        "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX"
    }  # test_stack registers with it
    assert set(SAFE_DEFAULTS) - tested - sources == set()


@pytest.mark.parametrize("variable", PORT_VARIABLES.values())
@pytest.mark.parametrize("text", ["80", "65536", "-1", "http", "4200.5", "٤٢x"])
def test_a_bad_port_is_refused_with_its_variable(tmp_path: Path, variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}=.*1024 to 65535"):
        read(tmp_path / "home", **{variable: text})


def test_two_services_on_one_port_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"DIPTYCH_PREFECT_PORT and DIPTYCH_MLFLOW_PORT.*5000"):
        read(tmp_path / "home", DIPTYCH_PREFECT_PORT="5000")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_a_host_others_can_reach_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match=r"DIPTYCH_HOST.*127\.0\.0\.1.*ssh -L"):
        read(tmp_path / "home", DIPTYCH_HOST=host)


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%b", "a\nb"])
def test_a_home_that_a_database_address_cannot_carry_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="DIPTYCH_HOME"):
        read(tmp_path / name)


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(SettingsError, match=r"DIPTYCH_HOME.* is a file"):
        read(tmp_path / "home")


def test_an_unknown_ledger_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"DIPTYCH_LEDGER_URL.*oracle") as caught:
        read(tmp_path / "home", DIPTYCH_LEDGER_URL="oracle://me:hunter2@db/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["s3://user:hunter2@bucket/runs", "abfs://runs/here?sig=hunter2"]
)
def test_a_mirror_with_a_password_is_refused_without_it(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsError, match=r"DIPTYCH_CHECKPOINTS.*AWS_ACCESS_KEY_ID") as caught:
        read(tmp_path / "home", DIPTYCH_CHECKPOINTS=address)
    assert "hunter2" not in str(caught.value)


def test_a_mirror_in_a_container_of_an_account_is_taken_as_it_is(tmp_path: Path) -> None:
    address = "abfs://runs@account.dfs.core.windows.net/here"
    assert read(tmp_path / "home", DIPTYCH_CHECKPOINTS=address).mirror == address


def test_a_cluster_and_its_token_are_where_jobs_go_and_a_child_goes_there_too(
    tmp_path: Path,
) -> None:
    token = tmp_path / "cluster.token"
    token.write_text("of the cluster")
    named = {"DIPTYCH_RAY_ADDRESS": "http://head:8265", "DIPTYCH_RAY_TOKEN_PATH": str(token)}
    settings = read(tmp_path / "home", **named)
    settings.prepare()
    assert settings.ray_address == "http://head:8265"
    assert settings.child_environment()["RAY_AUTH_TOKEN_PATH"] == str(token)
    assert token.read_text() == "of the cluster"
    child = Settings.read(settings.child_environment())
    assert (child.ray_address, child.ray_token_file) == ("http://head:8265", token)


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "head:8265", "http://me:hunter2@head:8265"]
)
def test_a_cluster_that_is_no_http_address_is_refused_with_what_works(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(SettingsError, match=r"DIPTYCH_RAY_ADDRESS.*http://head:8265") as caught:
        read(tmp_path / "home", DIPTYCH_RAY_ADDRESS=address)
    assert "hunter2" not in str(caught.value)


def test_a_clusters_token_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"DIPTYCH_RAY_TOKEN_PATH.*is no file"):
        read(tmp_path / "home", DIPTYCH_RAY_TOKEN_PATH=str(tmp_path / "token"))
    assert not (tmp_path / "token").exists()


def test_a_password_stays_out_of_what_is_printed(tmp_path: Path) -> None:
    address = "postgresql+psycopg://me:hunter2@db/x"
    settings = read(tmp_path / "home", DIPTYCH_LEDGER_URL=address)
    assert settings.ledger_url == address
    assert "hunter2" not in repr(settings)


def test_a_child_reads_the_same_settings(tmp_path: Path) -> None:
    settings = read(tmp_path / "home", DIPTYCH_MLFLOW_PORT="5999", DIPTYCH_RAY_PORT="8999")
    child = Settings.read(settings.child_environment())
    assert child.child_environment() == settings.child_environment()
    assert replace(child, ledger_address="") == settings


def test_a_child_finds_our_python_first(settings: Settings) -> None:
    first = settings.child_environment()["PATH"].split(os.pathsep)[0]
    assert Path(first) / "python" == Path(sys.executable).with_name("python")


def test_a_child_compiles_its_imports_once(tmp_path: Path) -> None:
    settings = read(tmp_path / "home", PYTHONDONTWRITEBYTECODE="1")
    assert "PYTHONDONTWRITEBYTECODE" not in settings.child_environment()


def test_a_child_keeps_what_is_not_ours_to_set(tmp_path: Path) -> None:
    child = read(tmp_path / "home", LANG="fi_FI.UTF-8", NO_PROXY="intra").child_environment()
    assert child["LANG"] == "fi_FI.UTF-8"
    assert child["NO_PROXY"] == "intra,127.0.0.1,localhost"


def test_a_server_of_the_shell_is_not_inherited(tmp_path: Path) -> None:
    stray = {"RAY_ADDRESS": "ray://elsewhere:10001", "MLFLOW_TRACKING_USERNAME": "x"}
    child = read(tmp_path / "home", PREFECT_PROFILE="cloud", **stray).child_environment()
    assert not {"PREFECT_PROFILE", *stray} & set(child)


def test_reading_makes_nothing(settings: Settings) -> None:
    assert not settings.home.exists()


def test_home_and_token_are_private(settings: Settings) -> None:
    settings.prepare()
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700
    assert stat.S_IMODE(settings.ray_token_file.stat().st_mode) == 0o600
    assert len(settings.ray_token_file.read_text()) == 64


def test_the_token_stays_and_its_mode_is_mended(settings: Settings) -> None:
    settings.prepare()
    token = settings.ray_token_file.read_text()
    settings.ray_token_file.chmod(0o644)
    settings.prepare()
    assert settings.ray_token_file.read_text() == token
    assert stat.S_IMODE(settings.ray_token_file.stat().st_mode) == 0o600


def test_tokens_differ_from_home_to_home(settings: Settings, tmp_path: Path) -> None:
    other = replace(settings, home=tmp_path / "other")
    settings.prepare()
    other.prepare()
    assert settings.ray_token_file.read_text() != other.ray_token_file.read_text()


@pytest.mark.parametrize("trick", ["link", "empty"])
def test_a_token_that_is_none_is_refused(settings: Settings, tmp_path: Path, trick: str) -> None:
    settings.home.mkdir()
    (tmp_path / "target").write_text("secret of another program")
    if trick == "link":
        settings.ray_token_file.symlink_to(tmp_path / "target")
    else:
        settings.ray_token_file.touch()
    with pytest.raises(SettingsError, match=r"ray\.token.*Remove it"):
        settings.prepare()


def test_ray_sockets_fit_however_long_the_home_is(settings: Settings) -> None:
    deep = replace(settings, home=settings.home / ("long/" * 30))
    socket = deep.ray_temp / "session_2026-11-23_10-43-00_250209_4194304/sockets/plasma_store.9"
    assert len(str(socket).encode()) < 107
    assert deep.ray_temp != settings.ray_temp
