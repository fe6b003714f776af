"""Over the catalog: every family that learns is taught by one of its own, and its outputs are those its loss is made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from components.abilities import Distils, Learns, LearnsFromFeatures
from components.catalog import FAMILIES
from components.data.text import Tokenizer
from components.models.parts import Origin, Part
from components.records import Batch, BatchSpec
from components.training.distillation import Distilled
from components.training.plan import TrainingPlan
from components.training.steps.state import begin
from components.training.teachers.teaching import Distillation

TERMS = {
    "align": {"affinity": 1.0, "icl": 1.0, "feature": 1.0},
    "clip": {"affinity": 1.0, "icl": 1.0, "feature": 1.0},
    "flamingo": {"token_kl": 1.0, "latents": 1.0},
    "frozen": {"token_kl": 1.0, "prefix": 1.0, "context": 1.0},
    "simvlm": {"token_kl": 1.0},
    "vild": {"logit_kl": 1.0},
    "virtex": {"token_kl": 1.0},
    "visualbert": {"attention": 1.0, "token_nce": 1.0, "logit_kl": 1.0, "token_kl": 1.0},
    "visualgpt": {"token_kl": 1.0, "gates": 1.0},
}
ZERO = ("token_kl", "logit_kl", "feature", "latents", "prefix", "attention", "gates")
"""Terms that are 0 where student and teacher are one."""


@pytest.fixture(params=sorted(TERMS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def taught(
    family: str,
    build_tiny: Callable[..., nn.Module],
    batch_for: Callable[[BatchSpec, int], Batch],
    tiny_tokenizer: Tokenizer,
) -> Callable[[int], tuple[Distilled, Batch]]:
    """`taught(seed)`: a student beside a teacher of the same shape drawn from that seed, and a batch; the student's is 0."""

    def make(seed: int) -> tuple[Distilled, Batch]:
        settings = {"dropout": 0.0} if hasattr(FAMILIES[family].Config, "dropout") else {}
        student, teacher = (build_tiny(family, seed=each, **settings) for each in (0, seed))
        batch = batch_for(student.batch_spec(), 8)
        origin = Origin(kind="stage", name="teacher")
        part = Part(module=teacher, tokenizer=tiny_tokenizer, origin=origin)
        plan = Distillation(teacher=origin, terms=TERMS[family], queue=32)
        return Distilled(student, tiny_tokenizer, part, plan, batch), batch

    return make


def test_each_family_that_learns_has_outputs_to_compare() -> None:
    learning = {name for name, each in FAMILIES.items() if issubclass(each, Learns)}
    assert learning == set(TERMS)
    assert all(issubclass(FAMILIES[name], Distils | LearnsFromFeatures) for name in TERMS)


def test_terms_are_0_where_student_and_teacher_are_one(taught) -> None:
    learner, batch = taught(0)
    learner.eval()  # as the teacher is, which drops and counts nothing
    parts = learner.loss(batch).parts
    for name in learner._terms:
        if name in ZERO:
            assert parts[name].item() == pytest.approx(0, abs=1e-5), name


def test_three_steps_beside_another_teacher_move_the_student_and_not_the_teacher(taught) -> None:
    learner, batch = taught(1)
    state = begin(learner, TrainingPlan(steps=3, warmup_steps=0, batch_size=8), learner.student)
    teacher = learner._teacher[0]._model
    frozen = [value.clone() for value in teacher.state_dict().values()]
    before = torch.cat([value.flatten().clone() for value in learner.student.parameters()])
    learner.train()
    for step in range(3):
        torch.manual_seed(step)
        found = learner.loss(batch)
        assert found.total.isfinite()
        assert set(learner._terms) <= found.parts.keys()
        state.optimiser.zero_grad()
        found.total.backward()
        state.optimiser.step()
        learner.after_step()
    after = torch.cat([value.flatten() for value in learner.student.parameters()])
    assert not torch.equal(before, after)
    pairs = zip(frozen, teacher.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
