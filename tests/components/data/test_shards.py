from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from components.data.shards import (
    SampleRefused,
    ShardsDamaged,
    ShardsMissing,
    open_shards,
    read_images,
    read_manifest,
    verify_shards,
    write_shards,
)
from components.data.tar import SplitTars
from components.records import SPLITS, Box, Question, Sample, Shards


@pytest.fixture
def own_shards(tiny_shards: Shards, tmp_path: Path) -> Shards:
    """A copy that a test may damage."""
    shutil.copytree(tiny_shards.path, tmp_path / "own")
    return open_shards(tmp_path / "own")


def flip_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def files_of(shards: Shards) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shards.path.iterdir()}


def change_line(shards: Shards, number: int, **changes: object) -> None:
    path = shards.path / "manifest.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | changes, sort_keys=True) + "\n"
    path.write_text("".join(lines))


def test_what_is_written_is_read_back(tiny_samples: list[Sample], tmp_path: Path) -> None:
    rich = replace(
        tiny_samples[0],
        id="../../etc/passwd\u2028<b>",
        captions=("piñata ‘o’clock’ 👩‍🚒", "", "two\nlines"),
        tags=("a", "b"),
        boxes=(Box(label="x", left_px=0, top_px=1.5, right_px=2, bottom_px=3),),
        questions=(Question(text="what ?", answers=("a", "b")),),
    )
    samples = [rich, *tiny_samples[1:]]
    shards = write_shards(samples, tmp_path / "shards")
    rows = read_manifest(shards)
    assert [row.sample for row in rows] == [replace(sample, image=b"") for sample in samples]
    assert list(read_images(shards, rows)) == [sample.image for sample in samples]
    assert list(read_images(shards, reversed(rows))) == [s.image for s in reversed(samples)]
    assert [row.key for row in rows] == list(range(len(samples)))
    assert {(row.width_px, row.height_px) for row in rows} == {(32, 32)}


def test_counts_and_digest_are_those_of_the_manifest(tiny_shards: Shards) -> None:
    manifest = (tiny_shards.path / "manifest.jsonl").read_bytes()
    assert tiny_shards.digest == hashlib.sha256(manifest).hexdigest()
    expected = {"train": 56, "val": 14, "test": 14, "val_concept": 6, "test_concept": 6}
    assert dict(tiny_shards.counts) == expected
    assert set(expected) == set(SPLITS)


def test_two_writes_of_the_same_samples_are_equal_byte_by_byte(
    tiny_shards: Shards, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    assert files_of(write_shards(tiny_samples, tmp_path / "again")) == files_of(tiny_shards)


def test_one_other_caption_gives_another_digest(
    tiny_shards: Shards, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    changed = [replace(tiny_samples[0], captions=("a red ring",)), *tiny_samples[1:]]
    assert write_shards(changed, tmp_path / "other").digest != tiny_shards.digest


def test_any_tar_reader_finds_the_images(tiny_shards: Shards) -> None:
    rows = [row for row in read_manifest(tiny_shards) if row.shard == "train-00000.tar"]
    with tarfile.open(tiny_shards.path / "train-00000.tar") as tar:
        members = tar.getmembers()
    found = [(member.offset_data, member.size) for member in members]
    assert found == [(row.offset_bytes, row.size_bytes) for row in rows]
    assert {(m.mtime, m.uid, m.gid, m.mode) for m in members} == {(0, 0, 0, 0o644)}


def test_a_shard_holds_at_most_a_thousand_images(tmp_path: Path) -> None:
    with SplitTars(tmp_path) as tars:
        names = [tars.add("train", b"x")[0] for _ in range(1001)]
    assert names[999:] == ["train-00000.tar", "train-00001.tar"]


def test_an_unreadable_image_keeps_its_row(tiny_samples: list[Sample], tmp_path: Path) -> None:
    broken = replace(tiny_samples[3], image=b"8BPS no image")
    shards = write_shards([*tiny_samples[:3], broken], tmp_path / "shards")
    row = read_manifest(shards)[3]
    assert (row.pixels_sha256, row.width_px, row.height_px) == ("", 0, 0)
    assert list(read_images(shards, [row])) == [b"8BPS no image"]


def test_an_id_that_comes_twice_is_refused_by_name(
    tiny_samples: list[Sample], tmp_path: Path
) -> None:
    with pytest.raises(SampleRefused, match=f'twice: "{tiny_samples[1].id}"'):
        write_shards([*tiny_samples, tiny_samples[1]], tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, 'the split "dev"; known: train'),
        ({"id": ""}, "id is empty"),
        ({"captions": ("lone \ud800",)}, "no Unicode"),
    ],
)
def test_a_sample_no_manifest_can_hold_is_refused(
    change: dict[str, object], message: str, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    with pytest.raises(SampleRefused, match=message):
        write_shards([replace(tiny_samples[0], **change)], tmp_path / "shards")


def test_a_crash_before_the_marker_leaves_nothing_readable(
    tiny_samples: list[Sample], tmp_path: Path
) -> None:
    def crashing() -> Iterator[Sample]:
        yield from tiny_samples[:20]
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_shards(crashing(), tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ShardsMissing, match="diptych prepare shards"):
        open_shards(tmp_path / "shards")


DIES = """
import os, sys
from pathlib import Path
from components.data.shards import write_shards
from components.records import Sample

def samples():
    for number in range(20):
        yield Sample(id=str(number), image=b"x", captions=("x",), split="train", concept="c",
                     label="c", concept_family="c", origin="o", license="CC0-1.0")
    os._exit(9)  # as a kill: no handler runs, no file is closed

write_shards(samples(), Path(sys.argv[1]))
"""


FILLS = """
import resource, sys
from pathlib import Path
from components.data.shards import write_shards
from components.records import Sample

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # no file grows beyond, as on a full disk
samples = (
    Sample(id=str(number), image=bytes(1000), captions=("x",), split=("train", "val")[number % 2],
           concept="c", label="c", concept_family="c", origin="o", license="CC0-1.0")
    for number in range(200)
)
write_shards(samples, Path(sys.argv[1]))
"""


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FILLS, str(tmp_path / "shards")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large"
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_leaves_nothing_readable(tmp_path: Path, tiny_samples: list[Sample]) -> None:
    folder = tmp_path / "shards"
    assert subprocess.run([sys.executable, "-c", DIES, str(folder)], check=False).returncode == 9
    with pytest.raises(ShardsMissing):
        open_shards(folder)
    for leftover in tmp_path.iterdir():
        with pytest.raises(ShardsMissing):
            open_shards(leftover)
    verify_shards(write_shards(tiny_samples, folder))


def test_a_crash_leaves_the_older_shards_as_they_were(
    tiny_samples: list[Sample], own_shards: Shards
) -> None:
    before = files_of(own_shards)
    with pytest.raises(SampleRefused):
        write_shards([tiny_samples[0], tiny_samples[0]], own_shards.path)
    assert files_of(own_shards) == before


def test_a_new_write_replaces_the_older_shards(
    tiny_samples: list[Sample], own_shards: Shards
) -> None:
    write_shards(tiny_samples[:1], own_shards.path)
    names = {path.name for path in own_shards.path.iterdir()}
    assert names == {"train-00000.tar", "manifest.jsonl", "shards.json"}
    assert [path.name for path in own_shards.path.parent.iterdir()] == ["own"]


def test_a_missing_marker_is_missing_shards(own_shards: Shards) -> None:
    (own_shards.path / "shards.json").unlink()
    with pytest.raises(ShardsMissing, match=r"shards\.json is missing.*diptych prepare own"):
        open_shards(own_shards.path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 2}',
        '{"format": 1, "digest": "x", "counts": {}, "files": {}}',
        '{"format": 1, "digest": "x", "counts": {}, "files": {"manifest.jsonl": 3}}',
        '{"format": 1, "digest": "x", "counts": {}, "files": {"manifest.jsonl": '
        '{"sha256": "", "size_bytes": 0}, "../../etc/passwd": {"sha256": "", "size_bytes": 0}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_marker_is_refused(content: str, own_shards: Shards) -> None:
    (own_shards.path / "shards.json").write_text(content)
    with pytest.raises(ShardsDamaged, match=r"shards\.json is no"):
        open_shards(own_shards.path)


def test_a_truncated_tar_is_refused_at_once(own_shards: Shards) -> None:
    path = own_shards.path / "test-00000.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(ShardsDamaged, match=r"test-00000\.tar has \d+ bytes instead of"):
        open_shards(own_shards.path)


def test_a_missing_tar_is_refused_at_once(own_shards: Shards) -> None:
    (own_shards.path / "val-00000.tar").unlink()
    with pytest.raises(ShardsDamaged, match=r"val-00000\.tar is missing"):
        open_shards(own_shards.path)


def test_a_flipped_bit_of_an_image_is_found_when_it_is_read(own_shards: Shards) -> None:
    rows = read_manifest(own_shards)
    flip_bit(own_shards.path / rows[7].shard, rows[7].offset_bytes + rows[7].size_bytes // 2)
    shards = open_shards(own_shards.path)  # sizes are as they were
    assert len(list(read_images(shards, rows[:7]))) == 7
    with pytest.raises(ShardsDamaged, match=f'image of "{rows[7].sample.id}"'):
        list(read_images(shards, rows))
    with pytest.raises(ShardsDamaged, match=f"{rows[7].shard} has sha256"):
        verify_shards(shards)


@pytest.mark.parametrize("offset", [0, 300, -1])
def test_verify_finds_a_flipped_bit_outside_of_the_images(offset: int, own_shards: Shards) -> None:
    verify_shards(own_shards)
    flip_bit(own_shards.path / "train-00000.tar", offset)
    with pytest.raises(ShardsDamaged, match=r"train-00000\.tar has sha256"):
        verify_shards(own_shards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": "a red circle"}, "captions is 'a red circle', not a list"),
        ({"captions": [7]}, "captions is 7, not a text"),
        ({"caption": "x"}, "has the unknown caption"),
        ({"split": "dev"}, "split is 'dev', not one of"),
        ({"shard": "../../etc/passwd"}, "shard is '../../etc/passwd', not a shard"),
        ({"offset_bytes": -1}, "offset_bytes is -1"),
        ({"width_px": True}, "width_px is True"),
        ({"size_bytes": 2**70}, "size_bytes is"),
        ({"key": 12}, "has key 12 instead of 4"),
        ({"boxes": [{"label": "x"}]}, "boxes lacks bottom_px"),
        ({"boxes": [3]}, "boxes holds 3 where an object belongs"),
    ],
)
def test_a_damaged_row_is_refused_by_line(
    change: dict[str, object], message: str, own_shards: Shards
) -> None:
    change_line(own_shards, 5, **change)
    with pytest.raises(ShardsDamaged, match=r"manifest\.jsonl:5 .*" + message):
        read_manifest(own_shards)


@pytest.mark.parametrize(
    "line", ["", "{", "null", '{"key": NaN}', '{"key": 1, "key": 1}', "[" * 100_000, "é"]
)
def test_a_line_that_is_no_row_is_refused_by_line(line: str, own_shards: Shards) -> None:
    path = own_shards.path / "manifest.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    with pytest.raises(ShardsDamaged, match=r"manifest\.jsonl:3 "):
        read_manifest(own_shards)


def test_a_key_that_stands_twice_in_a_row_is_refused(own_shards: Shards) -> None:
    path = own_shards.path / "manifest.jsonl"
    path.write_text(path.read_text().replace('"label": ', '"label": "twin", "label": ', 1))
    with pytest.raises(ShardsDamaged, match=r"manifest\.jsonl:1 .*a key stands twice"):
        read_manifest(own_shards)


def test_a_caption_changed_to_another_good_one_is_refused(own_shards: Shards) -> None:
    change_line(own_shards, 5, captions=["a green circle"])
    with pytest.raises(ShardsDamaged, match="is not the one that digest"):
        read_manifest(own_shards)


def test_a_row_dropped_from_the_end_is_refused(own_shards: Shards) -> None:
    path = own_shards.path / "manifest.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ShardsDamaged, match="is not the one that digest"):
        read_manifest(own_shards)
