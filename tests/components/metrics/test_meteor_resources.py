"""METEOR's data: compiled once, whole or not at all, from files whose bytes are known; a small package stands for it."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import zipfile
from pathlib import Path

import numpy as np
import pytest

from components.atomic import sha256_file
from components.metrics.meteor import meteor, packaged
from components.metrics.meteor.packaged import JAR, TABLE, MeteorDataMissing
from components.metrics.meteor.resources import load_resources

MEMBERS = {
    "synonym/english.synsets": "dog\n1 2\npuppy\n2\nman\n3\nfellow\n3\nwolf\n4\n",
    "synonym/english.exceptions": "wolf\nwolves\n",
    "nonbreaking/english.prefixes": "# titles\nDr\nNo #NUMERIC_ONLY#\n",
    "function/english.words": "a\nthe\nof\n",
}
PAIRS = [("in front of", "before"), ("a pair of", "two"), ("two", "a pair of"), ("café", "bar")]


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package of the same layout whose checksums this code takes for the right ones."""
    folder = tmp_path / "site" / "tiny_meteor"
    (folder / TABLE).parent.mkdir(parents=True)
    with zipfile.ZipFile(folder / JAR, "w") as jar:
        for name, text in MEMBERS.items():
            jar.writestr(name, text)
    lines = [f"0.5\n{phrase}\n{other}\n" for phrase, other in PAIRS]
    (folder / TABLE).write_bytes(gzip.compress("".join(lines).encode()))
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(packaged, "PACKAGE", "tiny_meteor")
    for file in (JAR, TABLE):
        monkeypatch.setitem(packaged.SHA256, file, sha256_file(folder / file))
    return folder


def counts(resources, candidate: str, reference: str) -> list[int]:
    stats = meteor.statistics([candidate.split()], [[reference.split()]], resources)
    return stats.counts_N23[0].tolist()


def test_all_four_matchers_read_the_compiled_data(package, tmp_path):
    resources = load_resources(tmp_path / "cache")
    found = counts(resources, "two wolves before dog", "a pair of wolves in front of the puppy")
    # exact: wolves. synonym: dog, puppy. paraphrase: two, a pair of; before, in front of.
    assert found[4:20:4] == [1, 0, 1, 2] and found[21:] == [4, 8]
    assert (resources.name, len(resources.digest)) == ("meteor", 16)


def test_compiled_data_need_no_package_and_are_not_compiled_again(package, tmp_path, monkeypatch):
    first = load_resources(tmp_path / "cache")
    stamp = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    monkeypatch.setattr(packaged, "PACKAGE", "no_such_package")
    again = load_resources(tmp_path / "cache")
    assert np.array_equal(again.paraphrases.key_K, first.paraphrases.key_K)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == stamp


def test_arrays_are_mapped_not_read(package, tmp_path):
    tree = load_resources(tmp_path / "cache").paraphrases
    assert isinstance(tree.key_K.base, np.memmap) and not tree.key_K.flags.writeable


@pytest.mark.parametrize("harm", ["cut", "one bit", "gone", "no marker", "half a marker"])
def test_damaged_data_are_compiled_anew(package, tmp_path, harm):
    load_resources(tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    array, marker = folder / "key_K.npy", folder / "resources.json"
    if harm == "cut":
        array.write_bytes(array.read_bytes()[:-8])
    elif harm == "one bit":
        held = bytearray(array.read_bytes())
        held[-1] ^= 1
        array.write_bytes(held)
    elif harm == "gone":
        array.unlink()
    elif harm == "no marker":
        marker.unlink()
    else:
        marker.write_text(marker.read_text()[:50])
    resources = load_resources(tmp_path / "cache")
    assert counts(resources, "two", "a pair of")[21:] == [1, 3]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_compilation_that_fails_leaves_nothing(package, tmp_path, monkeypatch):
    (package / TABLE).write_bytes(gzip.compress(b"0.5\na\n"))
    monkeypatch.setitem(packaged.SHA256, TABLE, sha256_file(package / TABLE))
    with pytest.raises(ValueError):
        load_resources(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_other_bytes_are_refused(package, tmp_path):
    (package / JAR).write_bytes(b"another jar")
    with pytest.raises(MeteorDataMissing, match=r"sha256 .* checked with .*pycocoevalcap==1\.2"):
        load_resources(tmp_path / "cache")


def test_a_file_that_is_gone_is_named(package, tmp_path):
    (package / TABLE).unlink()
    with pytest.raises(MeteorDataMissing, match=r"paraphrase-en\.gz is not there"):
        load_resources(tmp_path / "cache")


def test_an_absent_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "PACKAGE", "no_such_package")
    with pytest.raises(MeteorDataMissing, match=r"pip install --no-deps pycocoevalcap==1\.2"):
        load_resources(tmp_path / "cache")


def test_without_paraphrases_the_metric_has_another_name(package, tmp_path):
    (package / TABLE).unlink()
    resources = load_resources(tmp_path / "cache", "meteor_ems")
    stats = meteor.statistics([["two", "dogs"]], [[["two", "puppy"]]], resources)
    assert stats.name == "meteor_ems" and stats.counts_N23[0, 4:20].tolist() == [
        *[1, 1, 0, 0],
        *[0, 0, 0, 0],
        *[1, 1, 0, 0],
        *[0, 0, 0, 0],
    ]


def _load(cache: Path, queue) -> None:
    queue.put(load_resources(cache).digest)


def test_processes_that_compile_at_once_do_not_disturb_each_other(package, tmp_path):
    context = multiprocessing.get_context("fork")  # so that they see this package
    queue = context.Queue()
    processes = [context.Process(target=_load, args=(tmp_path / "cache", queue)) for _ in range(4)]
    for process in processes:
        process.start()
    digests = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
    assert len(digests) == 1 and all(process.exitcode == 0 for process in processes)
    (folder,) = (tmp_path / "cache").iterdir()
    assert json.loads((folder / "resources.json").read_text())["longest"] == 3


@pytest.mark.slow
def test_the_whole_data_give_the_golden_counts(golden, tmp_path):
    try:
        resources = load_resources(tmp_path / "cache")
    except MeteorDataMissing as missing:
        pytest.skip(str(missing))
    stats = meteor.statistics(golden.candidates, golden.references, resources)
    expected = np.array([image["meteor_stats"] for image in golden.images])
    assert np.array_equal(stats.counts_N23, expected)
    assert meteor.score(stats) == pytest.approx(golden.corpus["METEOR"], abs=1e-12)
