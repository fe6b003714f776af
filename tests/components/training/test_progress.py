"""What is followed is handed on once, and read once."""

from __future__ import annotations

import json

from components.training import progress
from components.training.progress import Follower


def test_a_line_is_read_once_and_again_only_where_the_file_was_written_anew(tmp_path):
    file, heard = tmp_path / progress.FILE, []
    follower = Follower(file, lambda line: heard.append(line.step))
    follower.poll()
    for step in (1, 2):
        progress.append(file, step, {})
    follower.poll()
    with file.open("r+b") as written:  # what was read is not looked at again
        written.write(b"#")
    half = json.dumps({"step": 3, "values": {}, "time": 0.0})
    with file.open("a") as written:
        written.write(half[:9])
    follower.poll()
    assert heard == [1, 2], "no half of a line"
    with file.open("a") as written:
        written.write(half[9:] + "\n")
    follower.poll()
    assert heard == [1, 2, 3]
    with file.open("r+b") as written:
        written.write(b"{")
    progress.drop_beyond(file, 2)  # training went back
    for step in (3, 4):
        progress.append(file, step, {})
    follower.poll()
    assert heard == [1, 2, 3, 4]
