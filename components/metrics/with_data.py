"""METEOR and SPICE as the scorecard asks for them: with data and parser found, and loaded once a process."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from components.metrics import spice
from components.metrics.material import Material
from components.metrics.meteor import meteor, resources, stems
from components.metrics.meteor.meteor import MeteorStatistics
from components.metrics.meteor.packaged import INSTALL, PACKAGE, MeteorDataMissing
from components.metrics.meteor.resources import Resources
from components.metrics.spice import SpiceStatistics
from components.metrics.spice_spacy import SpacyParser, load_parser, why_missing


def meteor_missing(cache: Path | None) -> str | None:
    """Why METEOR cannot be computed here, and what to do; None where it can. Compiles nothing."""
    if cache is None:
        return "no folder was given that its compiled data may lie in"
    try:
        stems.stemmer()
    except stems.StemmerMissing as error:
        return str(error)
    if compiled(cache) or importlib.util.find_spec(PACKAGE) is not None:
        return None
    return f"its data come with a package that is not here: {INSTALL}"


def compiled(cache: Path) -> bool:
    """Whether METEOR's data were compiled already."""
    return any(resources.whole(folder) for folder in cache.glob("meteor-*"))


def meteor_statistics(block: Material) -> MeteorStatistics:
    """Counts of a block."""
    words = block.words
    return meteor.statistics(words.candidates, words.references, load(block.cache))


def spice_missing(cache: Path | None) -> str | None:
    """Why SPICE-spacy cannot be computed here, and what to do; None where it can. Its synonyms are METEOR's."""
    return why_missing() or meteor_missing(cache)


def spice_statistics(block: Material) -> SpiceStatistics:
    """Counts of a block. References are parsed in one go, and each different caption once."""
    texts = block.texts
    parser = _parser()
    parser.parse([caption for captions in texts.references for caption in captions])
    several = [parser.parse(captions) for captions in texts.references]
    return spice.statistics(parser.parse(texts.candidates), several, _synonyms(block.cache))


@lru_cache(maxsize=1)
def load(cache: Path | None) -> Resources:
    """METEOR's data; compiled first if they were not, for half a minute. Raises MeteorDataMissing, StemmerMissing."""
    if cache is None:
        raise MeteorDataMissing("METEOR needs a folder that its compiled data may lie in.")
    try:
        return resources.load_resources(cache)
    except OSError as error:
        raise MeteorDataMissing(
            f"METEOR's data could not be compiled into {cache} ({error}). They take 65 MB there; make room, or leave "
            "METEOR and SPICE out."
        ) from error


@lru_cache(maxsize=1)
def _parser() -> SpacyParser:
    return load_parser()


@lru_cache(maxsize=1)
def _synonyms(cache: Path | None) -> Callable[[str], frozenset[int]]:
    lexicon = load(cache).lexicon

    @lru_cache(maxsize=1 << 16)
    def synsets(word: str) -> frozenset[int]:
        return frozenset(lexicon.synsets([word], lexicon.rows([word]))[1].tolist())

    return synsets
