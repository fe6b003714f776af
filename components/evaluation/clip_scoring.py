"""CLIPScore of written captions: any model that embeds images and texts scores them (Hessel et al. 2021).

A number belongs to its scorer: reports say which one by kind, name and digest, and numbers of two scorers are never
compared. A scorer reads images in its own size and texts with its own tokenizer, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components import abilities
from components.config import ConfigError
from components.data.batches import SplitImages
from components.data.text import Tokenizer
from components.evaluation.retrieval import embed_images, embed_texts
from components.metrics import clipscore
from components.models.parts import Origin, Part
from components.records import BatchSpec
from components.training.building import find_part
from components.training.checkpoints.checkpoint import load_part

PREFIX = "A photo depicts "
"""What the paper puts in front of every caption."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model that says how well texts fit images, ready."""

    part: Part
    prefix: str = PREFIX

    @property
    def side_px(self) -> int:
        """Side of the images it reads."""
        return _spec(self.part).image_px

    @property
    def identity(self) -> str:
        """What its numbers are told apart by: "stage:clip_emoji_mini@0123456789ab 'A photo depicts '"."""
        return f"{self.part.origin.identity} {self.prefix!r}"


def load_scorer(origin: Origin, prefix: str = PREFIX) -> Scorer:
    """The scorer an origin names: a stage's checkpoint, or a CLIP of a folder or of the Hub.

    Raises ConfigError for a part that does not embed images and texts, or of another digest, and for a prefix that
    fills more than half of the texts it reads; CheckpointDamaged.
    """
    if origin.kind == "stage":
        part = load_part(Path(origin.path), origin)
    else:
        part = find_part("clip", origin)
    if not isinstance(part.module, abilities.Embeds) or part.tokenizer is None:
        raise ConfigError(
            f"The scorer {origin.kind}:{origin.name} is a {type(part.module).__name__}, which does not embed images and "
            "texts; name one that does, as stage:clip_emoji_mini."
        )
    taken, longest = len(part.tokenizer.words(prefix)), _spec(part).max_tokens
    if 2 * taken > longest:
        raise ConfigError(
            f"The prefix {prefix!r} is {taken} of the {longest} tokens that {origin.identity} reads, which leaves too "
            "little of a caption; set evaluation.scorer_prefix to a shorter one, as ''."
        )
    part.module.float().eval()
    return Scorer(part=part, prefix=prefix)


def clip_scores(
    scorer: Scorer, images: SplitImages, columns: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """`clip_score` and `ref_clip_score` of each column of captions.

    images: of the side that the scorer reads. columns: prefix of the number's name -> one caption an image.
    """
    statistics = terms(scorer, images, columns)
    return {
        prefix + name: score(stats)
        for prefix, stats in statistics.items()
        for name, score in (
            ("clip_score", clipscore.clip_score),
            ("ref_clip_score", clipscore.ref_clip_score),
        )
    }


def terms(
    scorer: Scorer, images: SplitImages, columns: Mapping[str, Sequence[str]]
) -> dict[str, clipscore.ClipScoreStatistics]:
    """The terms of every image for each column of captions; each image and each distinct text is embedded once."""
    references = [row.sample.captions for row in images.rows]
    image_ND = embed_images(_model(scorer), images).float().cpu().numpy()
    known = _embedded(scorer, [*chain(*references), *chain(*columns.values())])
    reference_RD = [known.rows(captions) for captions in references]
    return {
        prefix: clipscore.statistics(image_ND, known.rows(captions), reference_RD)
        for prefix, captions in columns.items()
    }


@dataclass(frozen=True)
class _Embedded:
    number: Mapping[str, int]
    text_MD: NDArray[np.float32]

    def rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.text_MD[[self.number[text] for text in texts]]


def _spec(part: Part) -> BatchSpec:
    model: Any = part.module
    spec: BatchSpec = model.batch_spec()
    return spec


def _embedded(scorer: Scorer, texts: Sequence[str]) -> _Embedded:
    number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    prefixed = [scorer.prefix + text for text in number]
    limit = _spec(scorer.part).max_tokens
    text_MD = embed_texts(_model(scorer), _tokenizer(scorer), prefixed, limit)
    return _Embedded(number, text_MD.float().cpu().numpy())


def _model(scorer: Scorer) -> abilities.Embeds:
    module = scorer.part.module
    assert isinstance(module, abilities.Embeds)
    return module


def _tokenizer(scorer: Scorer) -> Tokenizer:
    assert scorer.part.tokenizer is not None
    return scorer.part.tokenizer
