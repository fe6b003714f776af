"""METEOR's files as they are published -> arrays on disk: a lexicon and a tree of paraphrases."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zipfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.atomic import sha256_file, sync_folder, write_json
from components.metrics.meteor import lexicon, paraphrases
from components.metrics.meteor.lexicon import Lexicon
from components.metrics.meteor.packaged import FILES, JAR, SHA256, TABLE, Name, packaged
from components.metrics.meteor.paraphrases import Paraphrases
from components.metrics.meteor.synonyms import parse_exceptions, parse_synsets, resolve

LAYOUT = 2
"""Of the arrays; those of another layout are left alone and new ones compiled beside them."""
MARKER = "resources.json"
MEMBERS = (
    "synonym/english.synsets",
    "synonym/english.exceptions",
    "nonbreaking/english.prefixes",
    "function/english.words",
)


def compile_into(
    folder: Path, name: Name, stem: Callable[[str], str], is_whole: Callable[[], bool]
) -> None:
    """Write `folder` under another name, its marker last, then give it its name unless another process has.

    is_whole: whether what lies there already is good. Raises MeteorDataMissing.
    """
    paths = {file: packaged(file) for file in FILES[name]}
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write(building, paths, stem)
        if not is_whole():
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
            sync_folder(folder.parent)
    except OSError:
        if not is_whole():  # else another process was first
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(folder: Path, paths: dict[str, Path], stem: Callable[[str], str]) -> None:
    with zipfile.ZipFile(paths[JAR]) as jar:
        synsets, exceptions, prefixes, function_words = (
            jar.read(file).decode() for file in MEMBERS
        )
    with gzip.open(paths[TABLE]) if TABLE in paths else nullcontext() as table:
        known, tree = compile_english(synsets, exceptions, table, stem)
    fields = {**vars(known), **vars(tree)}
    arrays = {key: value for key, value in fields.items() if isinstance(value, np.ndarray)}
    marker = {
        "sha256": {f"{key}.npy": _save(folder / f"{key}.npy", arrays[key]) for key in arrays},
        "words": tree.words,
        "longest": tree.longest,
        "prefixes": prefixes.splitlines(),
        "function_words": function_words.split(),
        "sources": {file: SHA256[file] for file in paths},
        "licence": "METEOR 1.5: LGPL 2.1; synsets: WordNet 3.0, see synonym/COPYING.WORDNET in the jar",
    }
    folder.chmod(0o755)  # mkdtemp makes private folders
    write_json(folder / MARKER, marker)


def _save(path: Path, values: NDArray[np.generic]) -> str:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return sha256_file(path)


def compile_english(
    synsets: str, exceptions: str, table: Iterable[bytes] | None, stem: Callable[[str], str]
) -> tuple[Lexicon, Paraphrases]:
    """Everything of single words and of phrases; without a table no phrases.

    table: three lines a pair: a probability, which METEOR does not read, the phrase, its paraphrase.
    """
    own, bases = parse_synsets(synsets), parse_exceptions(exceptions)
    phrases, pairs = _read_pairs(table or ())
    word_number = _numbers()
    words_M, width_F = array("i"), array("i")
    for phrase in phrases:
        parts = phrase.split()
        width_F.append(len(parts))
        words_M.extend([word_number[word] for word in parts])
    spelt = [word.decode() for word in word_number]
    words = list(dict.fromkeys([*spelt, *own, *bases]))
    known = lexicon.build(words, {word: resolve(word, own, bases) for word in words}, own, stem)
    row = known.rows(spelt)
    tree = paraphrases.build(
        row[np.frombuffer(words_M, np.int32)],
        np.frombuffer(width_F, np.int32).astype(np.int64),
        np.frombuffer(pairs, np.int32).reshape(-1, 2).astype(np.int64),
        len(words),
    )
    return known, tree


def _read_pairs(table: Iterable[bytes]) -> tuple[Iterable[bytes], array[int]]:
    """The distinct phrases, and the pairs as two numbers of phrases each."""
    number = _numbers()
    pairs = array("i")
    lines = iter(table)
    for _, phrase, other in zip(lines, lines, lines, strict=True):
        pairs.append(number[phrase])
        pairs.append(number[other])
    return number, pairs


def _numbers() -> defaultdict[bytes, int]:
    """Numbers what it is asked for, in the order it is asked."""
    number: defaultdict[bytes, int] = defaultdict()
    number.default_factory = number.__len__
    return number
