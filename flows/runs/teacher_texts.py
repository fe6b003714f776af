"""The captions that a teacher writes about the training images, before its student sees them; kept by what made them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from components.data.batches import load_split
from components.evaluation.captioning import captions_key, write_captions
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.records import Shards
from components.training.checkpoints.checkpoint import load_model
from flows.experiment import Experiment

SPLIT = "train"


def with_texts(experiment: Experiment, shards: Shards, folder: Path) -> Experiment:
    """The experiment with its teacher's texts written into `folder`, if it learns from texts.

    They are kept there by teacher, data and decoding, and are not written twice.
    """
    plan = experiment.distill
    if plan is None or not plan.written:
        return experiment
    writing = EvaluationPlan(**plan.writing)
    model, tokenizer, checkpoint = load_model(Path(plan.teacher.path))
    key = captions_key(checkpoint, shards.digest, SPLIT, writing)
    images = load_split(shards, SPLIT, model.batch_spec().image_px)
    subject = Subject(
        model=model,
        tokenizer=tokenizer,
        images=images,
        train=images,
        plan=writing,
    )
    written = write_captions(subject, folder / f"{key}.jsonl", key)
    return replace(experiment, distill=replace(plan, texts={"key": key, "path": str(written.path)}))
