"""Captions ability -> written captions on disk -> caption metrics, with their baselines and the blind control."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from components.atomic import write_text
from components.data.batches import SplitImages
from components.decoding.revision import code_revision
from components.evaluation.controls import nearest_pixels, shuffled
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.evaluation.writing import write
from components.metrics import scoring
from components.metrics.material import Words
from components.metrics.scorecard import reported
from components.metrics.tokenise import tokenise
from components.records import Captions, Checkpoint

BATCH = 64


def captions_key(
    checkpoint: Checkpoint, shards_digest: str, split: str, plan: EvaluationPlan
) -> str:
    """What names stored captions: the weights, the data, how words were chosen, and the code that chose them."""
    decoding = json.dumps(plan.decoding(), sort_keys=True)
    parts = [checkpoint.digest, shards_digest, split, decoding, code_revision()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def write_captions(subject: Subject, path: Path, key: str) -> Captions:
    """One JSON line an image, `{"id", "caption"}`, written whole or not at all; kept if it is there."""
    rows = subject.images.rows
    if not path.exists():
        lines = []
        for start in range(0, len(rows), BATCH):
            block = rows[start : start + BATCH]
            for row, caption in zip(block, _decode(subject, start), strict=True):
                line = {"id": row.sample.id, "caption": caption}
                lines.append(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
        write_text(path, "".join(lines))
    return Captions(path=path, key=key, count=len(rows))


@torch.inference_mode()
def _decode(subject: Subject, start: int) -> list[str]:
    pixels_BCHW = subject.images.pixels_NCHW[start : start + BATCH]
    return write(subject.model, subject.tokenizer, pixels_BCHW, subject.plan.decoding())


def read_captions(captions: Captions, images: SplitImages) -> list[str]:
    """The stored captions in the split's order.

    Raises ValueError if the file does not hold exactly the split's images.
    """
    lines = [json.loads(line) for line in captions.path.read_text().splitlines()]
    ids = [row.sample.id for row in images.rows]
    if [line["id"] for line in lines] != ids:
        raise ValueError(
            f"{captions.path} holds captions of other images than the split; delete it and evaluate again."
        )
    return [line["caption"] for line in lines]


def score_captions(
    candidates: Sequence[str], references: Sequence[Sequence[str]], cache: Path | None = None
) -> dict[str, float]:
    """Every caption metric of a report over a split, document frequencies from its own references.

    cache: folder of METEOR's compiled data; without one there is no METEOR.
    """
    return _score(candidates, _tokenised(references), cache)


def _tokenised(references: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    return [[tokenise(caption) for caption in captions] for captions in references]


def _score(
    candidates: Sequence[str], references: list[list[list[str]]], cache: Path | None
) -> dict[str, float]:
    words = Words([tokenise(caption) for caption in candidates], references)
    return scoring.score(words, reported(cache), cache=cache).corpus()


def score_columns(
    images: SplitImages, captions: Mapping[str, Sequence[str]], cache: Path | None = None
) -> dict[str, float]:
    """Scores of several captioners on the same images. captions: as `columns` makes them; cache: as `score_captions`."""
    references = _tokenised([row.sample.captions for row in images.rows])
    return {
        prefix + metric: value
        for prefix, candidates in captions.items()
        for metric, value in _score(candidates, references, cache).items()
    }


def columns(subject: Subject, written: Sequence[str]) -> dict[str, list[str]]:
    """What is scored side by side: prefix of the number's name -> one caption an image.

    The written captions, the same on shuffled images, and two trivial captioners'.
    """
    images, train = subject.images, subject.train
    order = shuffled(len(written), subject.plan.blind_seed)
    return {
        "": list(written),
        "image_blind/": [written[index] for index in order],
        "most_frequent/": [most_frequent(train)] * len(written),
        "nearest_pixels/": nearest_captions(images, train, subject.plan.blind_seed),
    }


def nearest_captions(images: SplitImages, train: SplitImages, seed: int) -> list[str]:
    """For each image a caption of the training image nearest by pixels, drawn by seed.

    Drawn, since a source may always put the same wording first, and copying would be scored for that and not for sight.
    """
    draw = random.Random(seed)
    near = nearest_pixels(images, train)
    return [draw.choice(train.rows[index].sample.captions) for index in near]


def most_frequent(train: SplitImages) -> str:
    """The caption most training images have; the first in order on ties."""
    counts = Counter(
        caption for row in train.rows for caption in dict.fromkeys(row.sample.captions)
    )
    return min(counts, key=lambda caption: (-counts[caption], caption))
