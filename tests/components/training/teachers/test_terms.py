"""Terms in real trainings: over several workers as over one, remembered or not, and with a teacher that is shown more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.config import ConfigError
from components.data.batches import Batches, load_split
from components.data.text import Tokenizer
from components.models.parts import Origin, Part
from components.objectives.distillation import logit_kl, others
from components.records import Batch, BatchSpec, Checkpoint, Shards
from components.training.checkpoints.checkpoint import load_model
from components.training.distillation import Distilled
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.teachers.teacher_cache import FOLDER
from components.training.teachers.teaching import Distillation
from components.training.teachers.terms import TERMS as KNOWN
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


# A teacher behind demonstrations, and a student that is shown none


def test_context_is_the_kl_by_hand_and_moves_the_student_alone() -> None:
    student = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log().requires_grad_()
    teacher = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log().requires_grad_()
    plan = Distillation(teacher=Origin(kind="stage", name="big"), terms={"context": 1.0})
    found = KNOWN["context"].value({"tokens": student}, {"context": teacher}, plan, None)
    assert found.item() == pytest.approx((0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(2)) / 2)
    found.backward()
    assert teacher.grad is None
    # Of each row the student's shares less the teacher's, over two rows.
    torch.testing.assert_close(student.grad, torch.tensor([[0.125, -0.125], [0.0, 0.0]]))


IN_CONTEXT: Mapping[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
    "flamingo": ({"images_per_document": 2}, {"images_per_document": 1}),
    "frozen": ({}, {}),
}
"""Family -> settings of a teacher and of a student, which reads each pair alone."""


@pytest.mark.parametrize("family", sorted(IN_CONTEXT))
def test_a_student_that_is_shown_nothing_comes_near_to_what_its_teacher_says_after_demonstrations(
    family: str, tiny_shards: Shards, tmp_path: Path
) -> None:
    shape = {"image_px": 32, "max_tokens": 16} | ({"vision": "part"} if family == "frozen" else {})
    plan = TrainingPlan(steps=30, batch_size=16, lr=4e-3, warmup_steps=3, checkpoint_every=30)
    teacher, alone = (
        TrainingJob(
            family=family, config={**shape, **settings}, plan=plan, shards=tiny_shards.path,
            folder=tmp_path / name, parts=PARTS["frozen"],
        )
        for name, settings in zip(("teacher", "student"), IN_CONTEXT[family], strict=True)
    )  # fmt: skip
    made = run_job(teacher)
    taught = Distillation(
        teacher=Origin(kind="stage", name="big", digest=made.digest, path=str(made.path)),
        terms={"context": 1.0}, task=0.0, inherit=True, shots=2,
    )  # fmt: skip
    learnt = run_job(replace(alone, distillation=taught))
    # It began as its teacher, shown nothing: the same training without a step.
    began = run_job(replace(alone, folder=tmp_path / "began", distillation=taught,
                            plan=replace(plan, steps=1, warmup_steps=0, lr=1e-12)))  # fmt: skip

    asked, tokenizer, _ = load_model(made.path)
    images = load_split(tiny_shards, "val", 32)
    batch = Batches(images, asked.batch_spec(), tokenizer, 14, seed=5).batch(0)
    with torch.no_grad():
        said = asked.eval().context_views(batch, others(batch.groups_B, 2))["context"]
        away = [
            logit_kl(load_model(each.path)[0].eval().views(batch)["tokens"], said).item()
            for each in (began, learnt)
        ]
    assert away[1] < 0.6 * away[0]


Beside = Callable[[str, Mapping[str, object], Mapping[str, object]], Distilled]


@pytest.fixture
def beside(
    build_tiny: Callable[..., torch.nn.Module],
    batch_for: Callable[[BatchSpec, int], Batch],
    tiny_tokenizer: Tokenizer,
) -> Beside:
    """`beside("frozen", settings, plan)`: a student of a family with these settings beside one of its own."""

    def make(family: str, settings: Mapping[str, object], plan: Mapping[str, object]) -> Distilled:
        student, teacher = (build_tiny(family, seed=seed, **settings) for seed in (1, 2))
        origin = Origin(kind="stage", name="big")
        part = Part(module=teacher, tokenizer=tiny_tokenizer, origin=origin)
        asked = Distillation(teacher=origin, terms={"context": 1.0}, **plan)
        batch = batch_for(student.batch_spec(), 8)
        return Distilled(student, tiny_tokenizer, part, asked, batch)

    return make


@pytest.mark.parametrize(
    ("family", "settings", "plan", "said"),
    [
        ("flamingo", {"images_per_document": 2}, {"shots": 2}, "images_per_document: 1"),
        ("virtex", {}, {}, "compares context, which this teacher does not show"),
        ("frozen", {}, {"shots": 8}, "shots=8 demonstrations of other rows"),
        ("frozen", {}, {"shots": 7}, "positions; take fewer demonstrations"),
        ("frozen", {}, {"shots": 0}, "queue and shots at least 1"),
        ("frozen", {}, {"remember": True}, "remember keeps no teacher's answers for context"),
    ],
)
def test_demonstrations_that_cannot_be_shown_are_refused_before_training(
    beside: Beside,
    family: str,
    settings: Mapping[str, object],
    plan: Mapping[str, object],
    said: str,
) -> None:
    with pytest.raises(ConfigError, match=said):
        beside(family, settings, plan)


def test_a_teacher_that_only_shows_its_context_reads_the_batch_no_second_time(
    beside: Beside, batch_for: Callable[[BatchSpec, int], Batch]
) -> None:
    learner = beside("frozen", {}, {"shots": 2})
    batch = batch_for(learner.batch_spec(), 8)
    teacher = learner._teacher[0]._model
    seen: list[int] = []
    teacher.mapper.register_forward_hook(lambda module, taken, given: seen.append(len(given)))
    assert set(learner._teacher[0].views(batch, {}, {"context"})) == {"context"}
    assert seen == [8]


def test_plans_without_context_are_named_as_before_it_could_be_asked_for() -> None:
    plan = Distillation(teacher=Origin(kind="stage", name="big"), terms={"token_kl": 1.0}, shots=2)
    assert "shots" not in plan.to_dict()
    shown = replace(plan, terms={"context": 1.0})
    assert Distillation.from_dict(shown.to_dict()) == shown
