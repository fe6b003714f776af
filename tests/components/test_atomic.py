"""Files that others read: whole, or as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from components import atomic

WRITER = """
import sys
from pathlib import Path
from components import atomic
while True:
    for letter in (b"a", b"b"):
        atomic.write_bytes(Path(sys.argv[1]), letter * 300_000)
"""


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "new folder" / "value.json"
    atomic.write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text(encoding="utf-8") == '{\n "a": "\\u00fc",\n "b": 1\n}\n'
    assert atomic.sha256_file(path) == atomic.sha256_file(path)


def test_a_value_that_json_does_not_know_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    atomic.write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(path, float("nan"))
    assert path.read_text() == "1\n"


def test_a_failed_write_leaves_neither_file_nor_litter(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        atomic.write_text(tmp_path / "report.md", "half")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_or_a_folder_is_not_replaced_by_a_file(tmp_path):
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder):
        with pytest.raises(FileExistsError, match="a pipe"):
            atomic.write_text(path, "text")
    assert pipe.is_fifo() and sorted(tmp_path.iterdir()) == [folder, pipe]


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "report.md", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "report.md").stat().st_mode & 0o777 == 0o640


@pytest.mark.faults
def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "weights"
    for delay in (0.0, 0.003, 0.011):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        while not path.exists():
            time.sleep(0.005)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        held = path.read_bytes()
        assert len(held) == 300_000
        assert len(set(held)) == 1
        path.unlink()
