"""Revisions from real DVC in small git repositories."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.data.revision import DataBusy, DataMissing, UnsafeName, fetch
from components.data.shards import read_manifest

MAKE = """
from io import BytesIO
from pathlib import Path
from PIL import Image
from components.data.shards import write_shards
from components.records import Sample

image = BytesIO()
Image.new("RGB", (4, 4), "red").save(image, format="PNG")
word = Path("word.txt").read_text().strip()
open("runs.log", "a").write(word + "\\n")
write_shards([Sample(id="a", image=image.getvalue(), captions=(word,), split="train", concept="c", label="c",
    concept_family="c", origin="made", license="CC0-1.0")], Path("data/shards/tiny"))
"""
STAGE = """
stages:
  tiny:
    cmd: python make.py
    deps: [word.txt]
    outs: [data/shards/tiny]
"""
CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


def git(repo: Path, *arguments: str) -> str:
    identity = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@localhost",
        "-c",
        "init.defaultBranch=main",
    ]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=repo, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def lay(repo: Path) -> None:
    (repo / ".dvc").mkdir(parents=True)
    (repo / ".dvc" / "config").write_text(CONFIG)
    (repo / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n/config.local\n")
    (repo / ".gitignore").write_text("/data/\nruns.log\n/.diptych/\n")
    (repo / "make.py").write_text(MAKE)
    (repo / "dvc.yaml").write_text(STAGE)
    (repo / "word.txt").write_text("first\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose one revision is made and committed."""
    repo = tmp_path_factory.mktemp("made") / "repo"
    lay(repo)
    git(repo, "init", "-q")
    fetch("tiny", repo)
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "first")
    return repo


@pytest.fixture
def repo(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of its own for each test."""
    copy = tmp_path / "repo"
    shutil.copytree(made, copy, symlinks=True)
    yield copy


def captions(shards: object) -> list[str]:
    return [caption for row in read_manifest(shards) for caption in row.sample.captions]  # type: ignore[arg-type]


def test_workspace_revision_is_made_once_and_named_by_the_lock(repo: Path) -> None:
    revision = fetch("tiny", repo)
    assert revision.rev == "workspace"
    assert revision.dvc_digest in (repo / "dvc.lock").read_text()
    assert captions(revision.shards) == ["first"]
    assert (repo / "runs.log").read_text() == "first\n"  # the second fetch ran nothing


def test_changed_input_is_a_new_revision_and_the_old_one_can_still_be_read(repo: Path) -> None:
    old = fetch("tiny", repo)
    (repo / "word.txt").write_text("second\n")
    new = fetch("tiny", repo)
    assert new.dvc_digest != old.dvc_digest
    assert new.shards.digest != old.shards.digest

    read = fetch("tiny", repo, rev=git(repo, "rev-parse", "HEAD"))
    assert (read.dvc_digest, read.shards.digest) == (old.dvc_digest, old.shards.digest)
    assert captions(read.shards) == ["first"]
    assert repo / "data" not in read.shards.path.parents
    assert captions(fetch("tiny", repo).shards) == ["second"]  # the workspace stayed as it was


def test_another_revision_is_read_and_never_run(repo: Path) -> None:
    (repo / "dvc.yaml").write_text(STAGE.replace("python make.py", "touch ran"))
    git(repo, "commit", "-qam", "hostile")
    git(repo, "tag", "hostile")
    git(repo, "checkout", "-q", "HEAD~1")
    assert captions(fetch("tiny", repo, rev="hostile").shards) == ["first"]
    assert not list(repo.rglob("ran"))


def test_a_damaged_copy_of_an_old_revision_is_read_anew(repo: Path) -> None:
    first = fetch("tiny", repo, rev="main")
    (first.shards.path / "shards.json").unlink()
    assert fetch("tiny", repo, rev="main").shards.digest == first.shards.digest


def test_bytes_that_are_gone_are_missing_with_the_way_to_make_them(repo: Path) -> None:
    shutil.rmtree(repo / ".dvc" / "cache")
    with pytest.raises(DataMissing, match="dvc repro tiny"):
        fetch("tiny", repo, rev="main")
    assert not any((repo / ".diptych" / "revisions").iterdir())


def test_a_folder_that_is_a_link_is_refused_before_dvc_writes_through_it(repo: Path) -> None:
    shutil.rmtree(repo / "data")
    (repo / "data").mkdir()
    hooks = sorted((repo / ".git" / "hooks").iterdir())
    (repo / "data" / "shards").symlink_to(repo / ".git" / "hooks")
    with pytest.raises(UnsafeName, match="symbolic link"):
        fetch("tiny", repo)
    assert sorted((repo / ".git" / "hooks").iterdir()) == hooks


@pytest.mark.parametrize(
    ("source", "rev"),
    [
        ("../tiny", "workspace"),
        ("--all-pipelines", "workspace"),
        ("tiny@x", "workspace"),
        ("", "workspace"),
        ("tiny", "--help"),
        ("tiny", "ext::sh -c id"),
        ("tiny", "$(id)"),
        ("tiny", "main\n"),
        ("tiny", ""),
    ],
)
def test_names_that_could_be_options_or_paths_are_refused(
    made: Path, source: str, rev: str
) -> None:
    with pytest.raises(UnsafeName):
        fetch(source, made, rev)


def test_a_source_without_a_stage_is_missing(made: Path) -> None:
    with pytest.raises(DataMissing, match=r"emoji9.*dvc\.yaml"):
        fetch("emoji9", made)


def test_a_revision_nobody_made_is_missing(made: Path) -> None:
    with pytest.raises(DataMissing, match="git log"):
        fetch("tiny", made, rev="no-such-branch")


def test_a_stage_that_fails_says_what_dvc_said(repo: Path) -> None:
    (repo / "word.txt").unlink()
    with pytest.raises(DataMissing, match=r"word\.txt.*git checkout -- .*word\.txt"):
        fetch("tiny", repo)


def test_a_folder_without_git_or_dvc_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="root of the checkout"):
        fetch("tiny", tmp_path)
    lay(tmp_path / "plain")
    with pytest.raises(DataMissing, match=r"core\.no_scm"):
        fetch("tiny", tmp_path / "plain")


def test_two_fetches_at_once_take_turns(repo: Path) -> None:
    (repo / "word.txt").write_text("both\n")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fetch("tiny", repo), range(2))
    assert first == second
    assert (repo / "runs.log").read_text() == "first\nboth\n"


def test_a_fetch_does_not_wait_for_ever(repo: Path) -> None:
    with (repo / ".dvc" / "tmp" / "diptych.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataBusy, match=r"diptych\.lock"):
            fetch("tiny", repo, wait_s=0.3)


def test_dvc_that_hangs_is_killed_with_what_it_started(repo: Path) -> None:
    (repo / "dvc.yaml").write_text(
        STAGE.replace("python make.py", "echo $$ > pid && exec sleep 600")
    )
    for wait_s in (6.0, 60.0):  # a slow machine's DVC may not have begun its stage
        with pytest.raises(DataBusy, match="did not end"):
            fetch("tiny", repo, wait_s=wait_s)
        if (repo / "pid").exists():
            break
    pid = int((repo / "pid").read_text())
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:  # its new parent reaps it
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
