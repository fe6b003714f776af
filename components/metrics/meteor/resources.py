"""All METEOR knows of English: compiled once from its published files, then mapped from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from components.atomic import sha256_file
from components.metrics.meteor import compiling, lexicon, paraphrases, stems
from components.metrics.meteor.lexicon import Lexicon
from components.metrics.meteor.normalise import Prefixes
from components.metrics.meteor.packaged import FILES, SHA256, MeteorDataMissing, Name
from components.metrics.meteor.paraphrases import Paraphrases


@dataclass(frozen=True)
class Resources:
    """METEOR's data for English."""

    name: str
    """"meteor", or "meteor_ems": exact, stem and synonym matches without paraphrases, another metric."""
    digest: str
    """Of the data, so that scores can name them."""
    prefixes: Prefixes
    function_words: frozenset[str]
    lexicon: Lexicon
    paraphrases: Paraphrases
    stem: Callable[[str], str]


def load_resources(cache: Path, name: Name = "meteor") -> Resources:
    """METEOR's data, from `cache` if they lie there whole; else compiled into it from the package, some 40 s.

    Compiled data need no package. Several processes may load at once: each compiles, and the first one's data stay.
    Raises MeteorDataMissing, which names what to install; StemmerMissing.
    """
    digest = _digest(name)
    folder = cache / f"{name}-{digest}"
    loaded = _mapped(folder, name, digest)
    if loaded is None:
        compiling.compile_into(folder, name, stems.stemmer(), is_whole=lambda: whole(folder))
        loaded = _mapped(folder, name, digest)
    if loaded is None:
        raise MeteorDataMissing(f"{folder} was damaged while it was read; delete it and try again.")
    return loaded


def whole(folder: Path) -> bool:
    """Whether all compiled files are there with the bytes that were written."""
    try:
        written = json.loads((folder / compiling.MARKER).read_text("utf-8"))["sha256"]
        return all(_sha256_now(folder / file) == sha256 for file, sha256 in written.items())
    except (OSError, ValueError, KeyError):
        return False


def _sha256_now(file: Path) -> str:
    """Read anew only when the file has changed: whether METEOR is here is asked many times a score, and 65 MB take 40 ms."""
    now = file.stat()
    return _sha256(file, now.st_ino, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(file: Path, *_: int) -> str:
    return sha256_file(file)


def from_parts(
    function_words: Sequence[str],
    prefixes: Sequence[str],
    synsets: Mapping[str, Sequence[int]],
    pairs: Sequence[tuple[str, str]],
    digest: str,
) -> Resources:
    """A small METEOR made in memory. synsets: all of each word, those of its base form included."""
    spelt = [word for pair in pairs for phrase in pair for word in phrase.split()]
    words = list(dict.fromkeys([*synsets, *spelt]))
    stem = stems.stemmer()
    known = lexicon.build(words, synsets, synsets, stem)
    row = dict(zip(words, known.rows(words).tolist(), strict=True))
    return Resources(
        name="meteor",
        digest=digest,
        prefixes=Prefixes.parse(prefixes),
        function_words=frozenset(function_words),
        lexicon=known,
        paraphrases=paraphrases.from_phrases(pairs, row),
        stem=stem,
    )


def _digest(name: Name) -> str:
    parts = [name, str(compiling.LAYOUT), *(SHA256[file] for file in FILES[name])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _mapped(folder: Path, name: Name, digest: str) -> Resources | None:
    if not whole(folder):
        return None
    marker = json.loads((folder / compiling.MARKER).read_text("utf-8"))
    arrays: dict[str, Any] = {
        Path(file).stem: np.asarray(np.load(folder / file, mmap_mode="r", allow_pickle=False))
        for file in marker["sha256"]
    }
    tree = {"key_K", "first_K2", "other_P"}
    return Resources(
        name=name,
        digest=digest,
        prefixes=Prefixes.parse(marker["prefixes"]),
        function_words=frozenset(marker["function_words"]),
        lexicon=Lexicon(**{key: value for key, value in arrays.items() if key not in tree}),
        paraphrases=Paraphrases(
            **{key: arrays[key] for key in tree}, words=marker["words"], longest=marker["longest"]
        ),
        stem=stems.stemmer(),
    )
