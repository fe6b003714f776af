"""Terms over real processes: what a student learns does not hang on how many workers share its batch, nor on a memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from components.models.parts import Origin
from components.records import Checkpoint, Shards
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.teachers.teacher_cache import FOLDER
from components.training.teachers.teaching import Distillation
from components.training.training_job import TrainingJob
from tests.components.training import group

# The last two steps are of the second epoch: what they are told was asked in the first.
# eps: Adam divides by gradients; where they are all but 0, the order of sums would show at full size.
PLAN = TrainingPlan(
    steps=9, batch_size=8, warmup_steps=2, checkpoint_every=9, report_every=9, vocab_size=300, eps=1e-3
)  # fmt: skip
# No batch norm: its statistics are those of a worker's own rows.
CONFIGS: Mapping[str, Mapping[str, object]] = {
    "clip": {
        "vision": "vit", "image_px": 32, "patch_px": 8, "vision_width": 32, "vision_layers": 1,
        "vision_heads": 2, "text_width": 32, "text_layers": 1, "embed_width": 16,
    },
    "frozen": {"image_px": 32, "vision": "part", "max_tokens": 16},
}  # fmt: skip
TERMS = {
    "clip": {"affinity": 1.0, "icl": 1.0, "feature": 1.0},
    "frozen": {"token_kl": 1.0},
}
PARTS = {
    "clip": {},
    "frozen": {slot: Origin(kind="random", name="") for slot in ("lm", "vision")},
}


@pytest.fixture(scope="module")
def teachers(
    tiny_shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Checkpoint]:
    """A trained one of each family."""
    return {
        family: run_job(
            _job(family, tiny_shards, tmp_path_factory.mktemp(family), plan=replace(PLAN, seed=9))
        )
        for family in CONFIGS
    }


def _job(family: str, shards: Shards, folder: Path, **changes: object) -> TrainingJob:
    made = TrainingJob(
        family=family, config=CONFIGS[family], plan=PLAN, shards=shards.path, folder=folder,
        parts=PARTS[family],
    )  # fmt: skip
    return replace(made, **changes)


def _taught(teacher: Checkpoint, **settings: object) -> Distillation:
    """By the teacher alone, so that nothing else can make students alike."""
    origin = Origin(kind="stage", name="big", digest=teacher.digest, path=str(teacher.path))
    terms = TERMS[teacher.family]
    return Distillation(teacher=origin, **{"terms": terms, "task": 0.0, **settings})


def _furthest(one: TrainingJob, other: TrainingJob) -> float:
    """Between two weights of one name of both final checkpoints."""
    here, there = (load_file(job.final / "weights.safetensors") for job in (one, other))
    assert here.keys() == there.keys()
    return max(
        float((value - there[name]).abs().max())
        for name, value in here.items()
        if value.is_floating_point()
    )


def test_two_workers_teach_what_one_does_and_so_do_two_that_remember(
    teachers: Mapping[str, Checkpoint], tiny_shards: Shards, tmp_path: Path
) -> None:
    def job(family: str, name: str, workers: int = 1, *, remember: bool) -> TrainingJob:
        plan = replace(PLAN, workers=workers)
        taught = _taught(teachers[family], remember=remember)
        folder = tmp_path / f"{family}-{name}"
        return _job(family, tiny_shards, folder, plan=plan, distillation=taught)

    asking = job("clip", "asking", remember=False)
    quoting = {family: job(family, "quoting", remember=True) for family in CONFIGS}
    two_asking = job("clip", "two-asking", 2, remember=False)
    two_quoting = {family: job(family, "two-quoting", 2, remember=True) for family in CONFIGS}
    every = [two_asking, *two_quoting.values()]
    group.run_all([(each, 0) for each in every], tmp_path / "group", world=2)
    untaught = _job("clip", tiny_shards, tmp_path / "untaught")
    for each in (untaught, asking, *quoting.values()):
        run_job(each)

    assert _furthest(untaught, asking) > 1e-3, "else equal weights would tell nothing"
    assert _furthest(asking, two_asking) < 1e-5
    # Embeddings that are kept are rounded to float16.
    assert _furthest(two_asking, two_quoting["clip"]) < 1e-4
    for family in CONFIGS:
        assert _furthest(quoting[family], two_quoting[family]) < 1e-5
        kept = (two_quoting[family].folder / FOLDER).glob("*/*.safetensors")
        assert len({path.parent for path in kept}) == 2, "each worker keeps what it asked"
