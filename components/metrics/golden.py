"""The golden corpus: captions, and what the reference programmes printed for them.

Its README says how the numbers were made. Every number of a file is compared; none is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.metrics import golden_parts, scoring
from components.metrics.frequencies import document_frequencies
from components.metrics.golden_parts import Deviation
from components.metrics.material import Texts
from components.metrics.scorecard import MEASURES, Column, columns
from components.metrics.tokenise import tokenise

FILES = ("captions", "tokenizer", "spice_tuples", "spice_synsets", "clipscore")


class GoldenMissing(ValueError):
    """The golden corpus is not where it should be."""


@dataclass(frozen=True)
class Golden:
    """The files' content."""

    files: dict[str, Any]
    """By the names of `FILES`."""
    digest: str

    @classmethod
    def read(cls, folder: Path) -> Golden:
        """Raises GoldenMissing naming the folder."""
        try:
            texts = {name: (folder / f"{name}.json").read_bytes() for name in FILES}
            files = {name: json.loads(text) for name, text in texts.items()}
        except (OSError, ValueError) as error:
            raise GoldenMissing(
                f"No golden corpus in {folder} ({error}); a checkout has it in tests/components/metrics/golden."
            ) from error
        digest = hashlib.sha256(b"".join(hashlib.sha256(text).digest() for text in texts.values()))
        return cls(files, digest.hexdigest())

    @property
    def captions(self) -> dict[str, Any]:
        """Captions with every metric's numbers."""
        captions: dict[str, Any] = self.files["captions"]
        return captions

    @property
    def texts(self) -> Texts:
        """All images as written."""
        images = self.captions["images"]
        return Texts([each["cand"] for each in images], [each["refs"] for each in images])


def deviations(golden: Golden, cache: Path | None = None) -> Iterator[Deviation]:
    """Each number of the corpus held against ours."""
    yield from _tokens(golden)
    ready = [
        name
        for name, measure in MEASURES.items()
        if measure.missing(cache) is None and any(column.golden for column in measure.columns)
    ]
    yield from _everything(golden, ready, cache)
    yield from _first_reference(golden, ready, cache)
    yield from _alone(golden, ready, cache)
    yield from _other_frequencies(golden)
    yield from golden_parts.spice_tuples(
        golden.files["spice_tuples"], golden.files["spice_synsets"]
    )
    yield from golden_parts.embeddings(golden.files["clipscore"]["items"])


def _tokens(golden: Golden) -> Iterator[Deviation]:
    """A pair that differs counts 1, and no two can be equal but for one."""
    wrong = 0
    for pair in golden.files["tokenizer"]:
        wrong += " ".join(tokenise(pair["text"])) != pair["ptb"]
        yield "tokens", float(wrong), 0.0
    for image in golden.captions["images"]:
        spelt = [
            (image["cand"], image["tok_cand"]),
            *zip(image["refs"], image["tok_refs"], strict=True),
        ]
        for text, expected in spelt:
            wrong += " ".join(tokenise(text)) != expected
            yield "tokens", float(wrong), 0.0


def _everything(golden: Golden, ready: Sequence[str], cache: Path | None) -> Iterator[Deviation]:
    scores = scoring.score(golden.texts, ready, cache=cache)
    corpus, rows = scores.corpus(), scores.per_image()
    for column in _compared(ready):
        yield _off(column, corpus[column.name], golden.captions["corpus"][column.golden])
        for image, ours in zip(golden.captions["images"], rows[column.name], strict=True):
            yield _off(column, ours, _of_image(image, column))


def _first_reference(
    golden: Golden, ready: Sequence[str], cache: Path | None
) -> Iterator[Deviation]:
    saved = golden.captions["variants"]["first_ref_only"]
    texts = golden.texts
    only = Texts(texts.candidates, [several[:1] for several in texts.references])
    scores = scoring.score(only, ready, cache=cache)
    corpus, rows = scores.corpus(), scores.per_image()
    for column in _compared(ready):
        if column.golden in saved["corpus"]:
            yield _off(column, corpus[column.name], saved["corpus"][column.golden])
        if column.golden in saved:
            for ours, theirs in zip(rows[column.name], saved[column.golden], strict=True):
                yield _off(column, ours, theirs)


def _alone(golden: Golden, ready: Sequence[str], cache: Path | None) -> Iterator[Deviation]:
    texts = golden.texts
    place = {image["id"]: index for index, image in enumerate(golden.captions["images"])}
    for saved in golden.captions["variants"]["single_image_corpus"]:
        at = place[saved["id"]]
        corpus = scoring.score(texts.part(slice(at, at + 1)), ready, cache=cache).corpus()
        for column in _compared(ready):
            if column.golden in saved["corpus"]:
                yield _off(column, corpus[column.name], saved["corpus"][column.golden])


def _other_frequencies(golden: Golden) -> Iterator[Deviation]:
    """CIDEr-D of the odd images with the frequencies of the even ones."""
    saved = golden.captions["variants"]["cider_d_external_df"]
    even, odd = (
        [image for image in golden.captions["images"] if image["id"] % 2 == rest] for rest in (0, 1)
    )
    record = document_frequencies([[tokenise(text) for text in image["refs"]] for image in even])
    texts = Texts([image["cand"] for image in odd], [image["refs"] for image in odd])
    scores = scoring.score(texts, ("cider",), frequencies=record)
    column = next(each for each in columns(("cider",)) if each.name == "cider_d")
    yield _off(column, scores.corpus()["cider_d"], saved["corpus"])
    for ours, theirs in zip(scores.per_image()["cider_d"], saved["per_image"], strict=True):
        yield _off(column, ours, theirs)


def _compared(measures: Sequence[str]) -> list[Column]:
    return [column for column in columns(measures) if column.golden]


def _of_image(image: dict[str, Any], column: Column) -> float:
    """BLEU's four orders stand in one list."""
    assert column.golden is not None
    name, _, order = column.golden.partition("_")
    value = image["Bleu"][int(order) - 1] if name == "Bleu" else image[column.golden]
    return float(value)


def _off(column: Column, ours: float, theirs: float) -> Deviation:
    return column.shown, abs(float(ours) - theirs), column.tolerance
