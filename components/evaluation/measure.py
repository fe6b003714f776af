"""Checkpoint + shards -> report: what is measured follows from what the model can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import abilities
from components.catalog import METRICS
from components.data.batches import SplitImages, load_split
from components.data.shards import read_manifest
from components.data.text import Tokenizer
from components.evaluation.answering import answering
from components.evaluation.captioning import (
    captions_key,
    columns,
    read_captions,
    score_columns,
    write_captions,
)
from components.evaluation.clip_scoring import Scorer, clip_scores, load_scorer
from components.evaluation.detecting import detecting
from components.evaluation.in_context import in_context
from components.evaluation.indexing import indexing
from components.evaluation.labelling import labelling
from components.evaluation.matching import matching
from components.evaluation.plan import EvaluationPlan
from components.evaluation.probing import probing
from components.evaluation.retrieval import embedding
from components.evaluation.subject import Subject
from components.records import Captions, Checkpoint, Report, Shards
from components.training.checkpoints.checkpoint import load_model


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How an ability is measured."""

    ability: type
    """A model that meets it is measured so."""
    values: Callable[[Subject], dict[str, float]]
    """Nothing where the data has not what it takes: such a number is n/a, and never 0."""
    beside: tuple[str, ...]
    """Columns that may stand beside each of its numbers, as prefixes of its name."""


MEASUREMENTS = {
    "answers": Measurement(
        ability=abilities.Answers,
        values=answering,
        beside=("image_blind", "question_only", "most_frequent"),
    ),
    "detects": Measurement(
        ability=abilities.Detects,
        values=detecting,
        beside=("image_blind", "text_only", "chance"),
    ),
    "embeds": Measurement(
        ability=abilities.Embeds,
        values=embedding,
        beside=("image_blind", "chance", "nearest_pixels"),
    ),
    "indexes": Measurement(
        ability=abilities.Indexes,
        values=indexing,
        beside=("nearest_anchor",),
    ),
    "in_context": Measurement(
        ability=abilities.InContext,
        values=in_context,
        beside=("image_blind",),
    ),
    "matches": Measurement(
        ability=abilities.Matches,
        values=lambda subject: matching(subject) | labelling(subject),
        beside=("image_blind", "chance"),
    ),
    "probes": Measurement(
        ability=abilities.Probes,
        values=probing,
        beside=("image_blind", "nearest_pixels", "most_frequent", "chance"),
    ),
}
"""By the ability that `METRICS` names; captions stand apart, as they are kept."""

CAPTIONS_BESIDE = ("image_blind", "nearest_pixels", "most_frequent")

CLIP_SCORES = ("clip_score", "ref_clip_score")
"""Caption metrics that take a scorer."""

COLUMNS = tuple(
    dict.fromkeys(
        (*CAPTIONS_BESIDE, *(column for each in MEASUREMENTS.values() for column in each.beside))
    )
)
"""The control and the baselines that may stand beside a number."""


def measure(
    checkpoint: Checkpoint,
    shards: Shards,
    split: str,
    plan: EvaluationPlan,
    captions_folder: Path,
    cache: Path | None = None,
) -> Report:
    """Every number the model's abilities call for, on one split; captions are kept in `captions_folder`.

    cache: folder of METEOR's compiled data; without one captions have no METEOR.
    """
    return measure_loaded(load_model(checkpoint.path), shards, split, plan, captions_folder, cache)


def measure_loaded(
    loaded: tuple[Any, Tokenizer, Checkpoint],
    shards: Shards,
    split: str,
    plan: EvaluationPlan,
    captions_folder: Path,
    cache: Path | None = None,
) -> Report:
    """As `measure`, of what `load_model` gave: for who wants more of a model than its numbers."""
    model, tokenizer, checkpoint = loaded
    side_px = model.batch_spec().image_px
    subject = Subject(
        model=model,
        tokenizer=tokenizer,
        images=load_split(shards, split, side_px),
        train=load_split(shards, "train", side_px),
        plan=plan,
        val=_val(model, shards, side_px),
        concepts=_concepts(shards) if plan.classes == "all" else None,
    )
    values: dict[str, float] = {}
    captions, scored_by = None, ""
    if isinstance(model, abilities.Captions):
        captions = _captions(subject, checkpoint, shards, captions_folder)
        beside = columns(subject, read_captions(captions, subject.images))
        values |= score_columns(subject.images, beside, cache)
        if plan.scorer is not None:
            scorer = load_scorer(plan.scorer, plan.scorer_prefix)
            values |= clip_scores(scorer, _seen_by(scorer, subject.images, shards), beside)
            scored_by = scorer.identity
    for measurement in MEASUREMENTS.values():
        if isinstance(model, measurement.ability):
            values |= measurement.values(subject)
    return Report(
        checkpoint_digest=checkpoint.digest,
        shards_digest=shards.digest,
        split=split,
        count=len(subject.images.rows),
        values=values,
        captions=captions,
        scorer=scored_by,
    )


def measurable(family: type, *, scored: bool = True) -> set[str]:
    """Names of all values that a report of this family may hold, so that a gate can be checked before training.

    scored: whether the evaluation names a scorer, without which captions have no CLIPScore.
    """
    beside = {
        name: each.beside for name, each in MEASUREMENTS.items() if issubclass(family, each.ability)
    }
    if "indexes" in beside:
        # It has no metric of its own: it is what the vision part alone would answer.
        beside["embeds"] += beside["indexes"]
    if issubclass(family, abilities.Captions):
        beside["captions"] = CAPTIONS_BESIDE
    found = {
        name: beside[metric.ability]
        for name, metric in METRICS.items()
        if metric.ability in beside and (scored or name not in CLIP_SCORES)
    }
    return set(found) | {
        f"{column}/{name}" for name, columns in found.items() for column in columns
    }


def _seen_by(scorer: Scorer, images: SplitImages, shards: Shards) -> SplitImages:
    """The same images in the size that the scorer reads."""
    same = scorer.side_px == images.pixels_NCHW.shape[-1]
    return images if same else load_split(shards, images.split, scorer.side_px)


def _val(model: object, shards: Shards, side_px: int) -> SplitImages | None:
    """What a linear probe is tuned on; other families need none."""
    wanted = isinstance(model, abilities.Probes) and shards.counts.get("val")
    return load_split(shards, "val", side_px) if wanted else None


def _concepts(shards: Shards) -> dict[str, str]:
    return {row.sample.concept: row.sample.label for row in read_manifest(shards)}


def _captions(subject: Subject, checkpoint: Checkpoint, shards: Shards, folder: Path) -> Captions:
    key = captions_key(checkpoint, shards.digest, subject.images.split, subject.plan)
    return write_captions(subject, folder / f"{key}.jsonl", key)
