"""Door to DVC: the name of a source and a revision -> its shards. DVC runs as a process of its own; nothing imports it.

Only the checkout's own `dvc.yaml` is ever run, for its commands are shell; another revision is read, never made.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.data.shards import ShardsDamaged, ShardsMissing, open_shards, verify_shards
from components.records import Revision, Shards

WORKSPACE = "workspace"
_SOURCE = re.compile(r"[a-z][a-z0-9_]*")
_REV = re.compile(r"[0-9a-zA-Z][\w./-]*")


class DataMissing(FileNotFoundError):
    """A source that has no revision here; the message says what to run."""


class DataBusy(TimeoutError):
    """Another process kept the checkout's data for longer than one waits."""


class UnsafeName(ValueError):
    """A source, revision or path that could reach outside the data folder."""


def fetch(
    source: str,
    repo: Path,
    rev: str = WORKSPACE,
    *,
    cache: Path | None = None,
    wait_s: float = 3600.0,
) -> Revision:
    """Make a source's shards in the checkout (`dvc repro`), or read those of a git revision into `cache`.

    repo: the root of a checkout with `dvc.yaml`. cache: `.diptych/revisions` of the checkout if left out.
    wait_s: for another fetch to end, and then for DVC, in seconds. Two fetches at once take turns.
    Raises `DataMissing`, `DataBusy`, `UnsafeName`, and what `open_shards` raises.
    """
    repo = Path(repo).resolve()
    _refuse_unsafe(source, repo, rev)
    with _turn(repo, wait_s) as lock:
        if rev == WORKSPACE:
            return _make(source, repo, lock, wait_s)
        return _read(source, repo, rev, cache or repo / ".diptych" / "revisions", lock, wait_s)


def _make(source: str, repo: Path, lock: int, wait_s: float) -> Revision:
    done = _run(_dvc("repro", source), repo, lock, wait_s)
    if done.returncode:
        raise _missing(source, repo, done.stderr)
    digest = _digest(source, (repo / "dvc.lock").read_text(), "dvc.lock")
    shards = open_shards(repo / _place(source))
    # DVC goes by size and time: what its cache or the folder holds may have changed since (dvc#9641).
    verify_shards(shards)
    return Revision(source=source, rev=WORKSPACE, dvc_digest=digest, shards=shards)


def _read(source: str, repo: Path, rev: str, cache: Path, lock: int, wait_s: float) -> Revision:
    commit = _git(repo, lock, "rev-parse", "--verify", "--end-of-options", f"{rev}^{{commit}}")
    digest = _digest(source, _git(repo, lock, "show", f"{commit}:./dvc.lock"), f"dvc.lock of {rev}")
    shards = _cached(cache / digest.removesuffix(".dir"))
    if shards is None:
        shards = _copy_out(source, repo, commit, cache / digest.removesuffix(".dir"), lock, wait_s)
    return Revision(source=source, rev=commit, dvc_digest=digest, shards=shards)


def _cached(folder: Path) -> Shards | None:
    try:
        return open_shards(folder)
    except (ShardsMissing, ShardsDamaged):
        return None


def _copy_out(
    source: str, repo: Path, commit: str, folder: Path, lock: int, wait_s: float
) -> Shards:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".reading-") as reading:
        copied = Path(reading) / source
        command = _dvc("get", str(repo), _place(source), "--rev", commit, "--out", str(copied))
        done = _run(command, repo, lock, wait_s)
        if done.returncode:
            raise DataMissing(
                f"{source} of {commit[:12]} is neither in DVC's cache nor in a remote. Check that commit out into a "
                f"folder of its own and run `dvc repro {source}` there. DVC said: {_last(done.stderr)}"
            )
        open_shards(copied)
        if folder.exists():  # damaged, or `_cached` would have had it
            folder.replace(Path(reading) / "damaged")
        copied.replace(folder)
    return open_shards(folder)


def _digest(source: str, lock_text: str, where: str) -> str:
    import yaml

    stages: dict[str, Any] = (yaml.safe_load(lock_text) or {}).get("stages", {})
    for out in stages.get(source, {}).get("outs", ()):
        if out["path"] == _place(source) and re.fullmatch(r"[0-9a-f]{32}\.dir", out["md5"]):
            return str(out["md5"])
    raise DataMissing(
        f"{where} names no {_place(source)}. It has: {', '.join(sorted(stages)) or 'no stage'}. "
        f"Add a stage {source} to dvc.yaml and run `dvc repro {source}`."
    )


def _place(source: str) -> str:
    return f"data/shards/{source}"


def _refuse_unsafe(source: str, repo: Path, rev: str) -> None:
    if not _SOURCE.fullmatch(source):
        raise UnsafeName(f"A source is named like emoji_mini, not {source!r}.")
    if not _REV.fullmatch(rev):
        raise UnsafeName(f'A revision is "{WORKSPACE}", a commit, tag or branch, not {rev!r}.')
    if not (repo / ".dvc").is_dir() or not (repo / "dvc.yaml").is_file():
        raise DataMissing(f"{repo} has no .dvc folder and dvc.yaml; give the root of the checkout.")
    # DVC writes through links (treeverse/dvc#11101): data -> .git/hooks in a commit would install a hook.
    path = repo
    for part in (".dvc", *Path(_place(source)).parts):
        path = repo / part if part in (".dvc", "data") else path / part
        if path.is_symlink():
            raise UnsafeName(
                f"{path} is a symbolic link, and DVC would write through it. Make it a folder; to keep data on "
                "another disk, move DVC's cache: `dvc cache dir --local /path/to/cache`."
            )


@contextmanager
def _turn(repo: Path, wait_s: float) -> Iterator[int]:
    """Hold the checkout's data alone: of two reproductions at once DVC fails one."""
    path = repo / ".dvc" / "tmp" / "diptych.lock"
    path.parent.mkdir(exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        until = time.monotonic() + wait_s
        while not _try_lock(handle):
            if time.monotonic() >= until:
                raise DataBusy(
                    f"{path} was held by another fetch for {wait_s:g} s; `fuser {path}` tells by which."
                )
            time.sleep(0.1)
        yield handle
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _dvc(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


def _git(repo: Path, lock: int, *arguments: str) -> str:
    done = _run(["git", *arguments], repo, lock, 60.0)
    if done.returncode:
        raise DataMissing(
            f"git {arguments[0]} {arguments[-1]} failed in {repo}: {_last(done.stderr)}. "
            "`git log --oneline -- dvc.lock` lists the revisions of the data."
        )
    return done.stdout.strip()


def _run(
    command: Sequence[str], repo: Path, lock: int, wait_s: float
) -> subprocess.CompletedProcess[str]:
    # The stage commands find `python` through PATH: ours first. The lock's handle goes along, so that if we are
    # killed the turn lasts until DVC has ended too.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    with subprocess.Popen(
        command,
        cwd=repo,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=(lock,),
    ) as process:
        try:
            out, error = process.communicate(timeout=wait_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise DataBusy(f"`{' '.join(command)}` did not end within {wait_s:g} s.") from None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def _missing(source: str, repo: Path, error: str) -> DataMissing:
    advice = f"Run `dvc repro {source}` in {repo} to see all of it."
    if "is not a git repository" in error:
        advice = "Work in a git clone, or run `dvc config --local core.no_scm true` once."
    elif "No module named dvc" in error:
        advice = 'Install it with `pip install -e ".[platform]"`.'
    elif f"Stage '{source}' not found" in error:
        advice = f"Its stage is in no dvc.yaml of {repo}; that file says how to add one."
    elif gone := re.search(r"No such file or directory: '([^']+)'", error):
        advice = f"If git keeps that file, `git checkout -- {gone[1]}` brings it back."
    return DataMissing(f"DVC could not make {source}: {_last(error)}. {advice}")


def _last(error: str) -> str:
    """The end of what a program said, on one line."""
    return " ".join(error.split())[-600:].rstrip(".") or "nothing"
