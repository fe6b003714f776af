"""Checkpoint + shards -> report: what is measured follows from what the model can do."""

from __future__ import annotations

from pathlib import Path

from components import abilities
from components.catalog import METRICS
from components.data.batches import load_split
from components.evaluation.captioning import captioning, captions_key, read_captions, write_captions
from components.evaluation.plan import EvaluationPlan
from components.evaluation.retrieval import embed_images, retrieval, zero_shot
from components.evaluation.subject import Subject
from components.records import Captions, Checkpoint, Report, Shards
from components.training.checkpoint import load_model

COLUMNS = ("image_blind", "nearest_pixels", "most_frequent", "chance")
"""The control and the baselines that stand beside a number, as prefixes of its name."""

EMBEDS_BESIDE = {
    "zero_shot_accuracy": ("chance", "nearest_pixels"),
    "zero_shot_mean_class_accuracy": (),
}
"""What stands beside a metric of embeddings besides the blind control; chance beside all others."""


def measure(
    checkpoint: Checkpoint,
    shards: Shards,
    split: str,
    plan: EvaluationPlan,
    captions_folder: Path,
) -> Report:
    """Every number the model's abilities call for, on one split; captions are kept in `captions_folder`."""
    model, tokenizer, _ = load_model(checkpoint.path)
    side_px = model.batch_spec().image_px
    subject = Subject(
        model=model,
        tokenizer=tokenizer,
        images=load_split(shards, split, side_px),
        train=load_split(shards, "train", side_px),
        plan=plan,
    )
    key = captions_key(checkpoint, shards.digest, split, plan)
    values, captions = _measure(subject, captions_folder / f"{key}.jsonl", key)
    return Report(
        checkpoint_digest=checkpoint.digest,
        shards_digest=shards.digest,
        split=split,
        count=len(subject.images.rows),
        values=values,
        captions=captions,
    )


def measurable(family: type) -> set[str]:
    """Names of all values that a report of this family holds, so that a gate can be checked before training."""
    able = {
        ability
        for ability, protocol in (("embeds", abilities.Embeds), ("captions", abilities.Captions))
        if issubclass(family, protocol)
    }
    found = {name for name, metric in METRICS.items() if metric.ability in able}
    beside = {
        "captions": lambda name: ("image_blind", "nearest_pixels", "most_frequent"),
        "embeds": lambda name: ("image_blind", *EMBEDS_BESIDE.get(name, ("chance",))),
    }
    return found | {
        f"{column}/{name}" for name in found for column in beside[METRICS[name].ability](name)
    }


def _measure(subject: Subject, path: Path, key: str) -> tuple[dict[str, float], Captions | None]:
    values: dict[str, float] = {}
    captions = None
    if isinstance(subject.model, abilities.Embeds):
        image_ND = embed_images(subject.model, subject.images)
        values |= retrieval(subject, image_ND) | zero_shot(subject, image_ND)
    if isinstance(subject.model, abilities.Captions):
        captions = write_captions(subject, path, key)
        values |= captioning(subject, read_captions(captions, subject.images))
    return values, captions
