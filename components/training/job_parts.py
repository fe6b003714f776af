"""What a job's model is handed: its parts, as they were when its training began, and the tokenizer it reads with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.catalog import MODELS
from components.data.text import Tokenizer
from components.data.texts import all_texts
from components.models.parts import Part
from components.records import Checkpoint, Row
from components.training.building import find_part, random_part
from components.training.checkpoints import checkpoint
from components.training.folder import pin, pinned

if TYPE_CHECKING:
    from components.training.training_job import TrainingJob


def handed_over(
    job: TrainingJob, rows: Sequence[Row], resumed: Checkpoint | None, *, writes: bool
) -> tuple[dict[str, Part], Tokenizer]:
    """What the slots are handed, and the tokenizer: that of the slot the family reads with, else one of its own."""
    # What a training began with it goes on with: a folder or a Hub name may hold other weights by now.
    began = pinned(job.folder, job.parts)
    began |= checkpoint.pinned(resumed.path) if resumed else {}
    found = {
        slot: checkpoint.load_part(Path(origin.path), origin)
        if origin.kind == "stage"
        else find_part(slot, replace(origin, digest=began.get(slot, origin.digest)))
        for slot, origin in job.parts.items()
        if origin.kind != "random"
    }
    if writes:
        outside = [slot for slot in found if job.parts[slot].kind in ("folder", "hub")]
        pin(job.folder, {slot: found[slot].origin.digest for slot in outside}, job.parts)
    reads_with = found.get(getattr(MODELS[job.family], "TOKENIZER", None) or "")
    if reads_with is not None and reads_with.tokenizer is not None:
        tokenizer = reads_with.tokenizer
    elif resumed:
        tokenizer = checkpoint.load_tokenizer(resumed.path)
    else:
        texts = (text for row in rows for text in all_texts(row))
        tokenizer = Tokenizer.train(texts, job.plan.vocab_size)
    invented = {
        slot: random_part(slot, tokenizer)
        for slot, origin in job.parts.items()
        if origin.kind == "random"
    }
    return found | invented, tokenizer
