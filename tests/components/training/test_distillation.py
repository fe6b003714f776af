"""A student beside its teacher: no term is the plain run, one pass each, the teacher never changes and is pinned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.config import ConfigError
from components.data.text import Tokenizer
from components.models.parts import Origin, Part
from components.records import Batch, BatchSpec, Checkpoint, Shards
from components.training.checkpoints.checkpoint import CheckpointDamaged, load_model
from components.training.distillation import Distilled
from components.training.folder import JobChanged
from components.training.job import run_job
from components.training.loop import Interrupted
from components.training.plan import TrainingPlan
from components.training.teachers.teacher import Teacher
from components.training.teachers.teaching import Distillation
from components.training.training_job import TrainingJob

TEACHER = {"image_px": 32, "vision_widths": [8, 16], "max_tokens": 16, "text_layers": 1}
SMALLER = {**TEACHER, "text_width": 32, "text_heads": 2, "embed_width": 24}
PLAN = TrainingPlan(steps=4, batch_size=8, warmup_steps=1, checkpoint_every=2)
ALL = {"affinity": 1.0, "icl": 0.5, "feature": 2.0}


def _job(shards: Shards, folder: Path, **changes: object) -> TrainingJob:
    job = TrainingJob(family="clip", config=SMALLER, plan=PLAN, shards=shards.path, folder=folder)
    return replace(job, **changes)


@pytest.fixture(scope="module")
def teacher(tiny_shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("teacher")
    return run_job(_job(tiny_shards, folder, config=TEACHER, plan=replace(PLAN, seed=9)))


def _plan(teacher: Checkpoint, **settings: object) -> Distillation:
    origin = Origin(kind="stage", name="big", digest=teacher.digest, path=str(teacher.path))
    return Distillation(teacher=origin, **settings)


def _weights(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    return load_file(checkpoint.path / "weights.safetensors")


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_term_of_weight_0_is_the_plain_run_bit_for_bit(
    tiny_shards: Shards, teacher: Checkpoint, tmp_path: Path
) -> None:
    plain = run_job(_job(tiny_shards, tmp_path / "plain"))
    off = _plan(teacher, terms=dict.fromkeys(ALL, 0.0))
    beside = run_job(_job(tiny_shards, tmp_path / "off", distillation=off))
    taught = run_job(_job(tiny_shards, tmp_path / "on", distillation=_plan(teacher, terms=ALL)))
    assert _equal(_weights(plain), _weights(beside))
    assert not _equal(_weights(plain), _weights(taught))


def test_a_students_checkpoint_loads_alone_and_holds_no_teacher(
    tiny_shards: Shards, teacher: Checkpoint, tmp_path: Path
) -> None:
    plain = run_job(_job(tiny_shards, tmp_path / "plain"))
    taught = run_job(_job(tiny_shards, tmp_path / "on", distillation=_plan(teacher, terms=ALL)))
    assert _weights(plain).keys() == _weights(taught).keys()
    model, _, _ = load_model(taught.path)
    assert model.config.embed_width == 24
    state = load_file(taught.path / "state.safetensors")
    assert {name for name in state if name.startswith("learner/") and name.endswith("weight")} == {
        "learner/widening.image.weight", "learner/widening.text.weight",
    }  # fmt: skip


def test_an_interrupted_distillation_ends_as_an_undisturbed_one(
    tiny_shards: Shards, teacher: Checkpoint, tmp_path: Path
) -> None:
    plan = _plan(teacher, terms=ALL, inherit=True)
    whole = run_job(_job(tiny_shards, tmp_path / "whole", distillation=plan))
    job = _job(tiny_shards, tmp_path / "parts", distillation=plan)
    with pytest.raises(Interrupted):
        run_job(job, stop=lambda step: step == 3)
    assert run_job(job).digest == whole.digest


def test_resume_refuses_another_teacher(
    tiny_shards: Shards, teacher: Checkpoint, tmp_path: Path
) -> None:
    job = _job(tiny_shards, tmp_path / "run", distillation=_plan(teacher, terms=ALL))
    with pytest.raises(Interrupted):
        run_job(job, stop=lambda step: step == 2)
    other = run_job(_job(tiny_shards, tmp_path / "other", config=TEACHER))
    with pytest.raises(JobChanged, match=r"distillation\.teacher\.digest was"):
        run_job(replace(job, distillation=_plan(other, terms=ALL)))
    # The same name and digest, but other weights lie there by now.
    moved = replace(_plan(teacher, terms=ALL).teacher, path=str(other.path))
    with pytest.raises(CheckpointDamaged, match="asked for is"):
        run_job(replace(job, distillation=replace(job.distillation, teacher=moved)))


def test_the_order_in_which_terms_are_written_changes_no_bit(
    tiny_shards: Shards, teacher: Checkpoint, tmp_path: Path
) -> None:
    # A file of JSON has its keys sorted: a training read from one added up in another order than the one that wrote it.
    one, other = (
        run_job(_job(tiny_shards, tmp_path / name, distillation=_plan(teacher, terms=terms)))
        for name, terms in (("one", ALL), ("other", dict(reversed(ALL.items()))))
    )
    assert one.digest == other.digest


def test_a_job_with_a_teacher_survives_json(teacher: Checkpoint, tiny_shards: Shards) -> None:
    job = _job(tiny_shards, Path("run"), distillation=_plan(teacher, terms=ALL, inherit=True))
    assert TrainingJob.from_dict(job.to_dict()) == job
    assert "distillation" not in _job(tiny_shards, Path("run")).to_dict()


def test_a_student_larger_than_its_teacher_is_told(
    tiny_shards: Shards, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = run_job(_job(tiny_shards, tmp_path / "small"))
    job = _job(tiny_shards, tmp_path / "run", config=TEACHER, distillation=_plan(small, terms=ALL))
    with caplog.at_level(logging.WARNING):
        run_job(job)
    assert "is made to be the smaller one" in caplog.text


class _Counting(nn.Module):
    """A model that counts how often its images are read."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.seen = 0
        model.image.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.seen += 1


@pytest.fixture
def pair(
    build_tiny: Callable[..., nn.Module], batch_for: Callable[[BatchSpec, int], Batch]
) -> tuple[nn.Module, nn.Module, Batch]:
    """A small CLIP, a larger one and a batch for the small one."""
    student = build_tiny("clip", seed=1, **SMALLER)
    teacher = build_tiny("clip", seed=2, **{**TEACHER, "image_px": 64})
    return student, teacher, batch_for(student.batch_spec(), 8)


def _distilled(
    pair: tuple[nn.Module, nn.Module, Batch], tokenizer: Tokenizer, reads: Tokenizer | None = None,
    **settings: object,
) -> Distilled:  # fmt: skip
    student, teacher, batch = pair
    origin = Origin(kind="stage", name="big")
    part = Part(module=teacher, tokenizer=reads or tokenizer, origin=origin)
    plan = Distillation(teacher=origin, **{"terms": ALL, **settings})
    return Distilled(student, tokenizer, part, plan, batch)


def test_the_student_runs_once_a_step_and_so_does_its_teacher(
    pair: tuple[nn.Module, nn.Module, Batch], tiny_tokenizer: Tokenizer
) -> None:
    learner = _distilled(pair, tiny_tokenizer)
    student, teacher = _Counting(pair[0]), _Counting(pair[1])
    learner.loss(pair[2]).total.backward()
    assert (student.seen, teacher.seen) == (1, 1)


def test_the_teacher_neither_learns_nor_is_saved_nor_leaves_eval_mode(
    pair: tuple[nn.Module, nn.Module, Batch], tiny_tokenizer: Tokenizer
) -> None:
    learner = _distilled(pair, tiny_tokenizer).train()
    learner.loss(pair[2]).total.backward()
    assert not pair[1].training
    assert all(param.grad is None and not param.requires_grad for param in pair[1].parameters())
    mine = {id(value) for value in learner.state_dict(keep_vars=True).values()}
    assert not mine & {id(value) for value in pair[1].state_dict(keep_vars=True).values()}
    grouped = sum(len(list(group["params"])) for group in learner.param_groups())
    assert grouped == sum(1 for _ in learner.parameters())


def test_the_loss_is_the_weighted_sum_of_its_parts(
    pair: tuple[nn.Module, nn.Module, Batch], tiny_tokenizer: Tokenizer
) -> None:
    found = _distilled(pair, tiny_tokenizer, task=0.25).loss(pair[2])
    wanted = 0.25 * found.parts["task"] + sum(
        weight * found.parts[name] for name, weight in ALL.items()
    )
    torch.testing.assert_close(found.total.detach(), wanted)


def test_a_students_loss_is_a_mean_over_as_many_words_as_its_own(
    build_tiny: Callable[..., nn.Module],
    batch_for: Callable[[BatchSpec, int], Batch],
    tiny_tokenizer: Tokenizer,
) -> None:
    student, teacher = build_tiny("virtex", seed=1), build_tiny("virtex", seed=2)
    batch = batch_for(student.batch_spec(), 8)
    alone = student.loss(batch).items
    for terms in ({"token_kl": 1.0}, {}):
        learner = _distilled((student, teacher, batch), tiny_tokenizer, terms=terms, task=0.5)
        torch.testing.assert_close(learner.loss(batch).items, alone)


def test_a_contrastive_student_is_not_cut_into_micro_batches(
    teacher: Checkpoint, tiny_shards: Shards, tmp_path: Path
) -> None:
    job = _job(tiny_shards, tmp_path / "run", distillation=_plan(teacher))
    with pytest.raises(ConfigError, match="more workers"):
        replace(job, plan=replace(job.plan, accumulate=2))


def test_a_teacher_follows_its_batches_to_their_device(
    build_tiny: Callable[..., Any], tiny_batch: Batch, tiny_tokenizer: Tokenizer
) -> None:
    part = Part(
        module=build_tiny("clip"), tokenizer=tiny_tokenizer, origin=Origin(kind="random", name="")
    )
    asked = Teacher(part, tiny_tokenizer)
    for device in ("cpu", "meta"):
        seen = asked.embed_images(tiny_batch.pixels_BCHW.to(device), tiny_batch.keys_B.to(device))
        assert seen.device.type == device


def test_a_teacher_reads_texts_in_its_own_words(
    pair: tuple[nn.Module, nn.Module, Batch],
    tiny_tokenizer: Tokenizer,
    tiny_samples: list,
    build_tiny: Callable[..., nn.Module],
) -> None:
    other = Tokenizer.train(["a red circle", "the blue square"], 280)
    teacher = build_tiny("clip", seed=2, **{**TEACHER, "max_tokens": 40})
    teacher.text.eos_id = other.eos_id  # as a model of that vocabulary has it
    learner = _distilled((pair[0], teacher, pair[2]), tiny_tokenizer, other, terms={"feature": 1.0})
    seen = learner._teacher[0].in_own_words(pair[2].tokens_BT, pair[2].lengths_B)[0]
    said = [tiny_tokenizer.decode(row) for row in pair[2].tokens_BT.tolist()]
    assert [other.decode(row) for row in seen.tolist()] == said
    assert not torch.equal(seen, pair[2].tokens_BT)


def test_word_by_word_terms_need_equal_tokenizers(
    tiny_tokenizer: Tokenizer,
    build_tiny: Callable[..., nn.Module],
    batch_for: Callable[[BatchSpec, int], Batch],
) -> None:
    student, teacher = (build_tiny("virtex", image_px=32, vision_widths=[8]) for _ in range(2))
    other = Tokenizer.train(["a red circle"], 280)
    with pytest.raises(ConfigError, match=r"another tokenizer .*seq"):
        _distilled(
            (student, teacher, batch_for(student.batch_spec(), 4)), tiny_tokenizer, other,
            terms={"token_kl": 1.0},
        )  # fmt: skip


def test_a_term_that_a_family_cannot_show_is_refused_by_name(
    pair: tuple[nn.Module, nn.Module, Batch], tiny_tokenizer: Tokenizer
) -> None:
    with pytest.raises(ConfigError, match=r"distill\.terms\.logit_kl compares logits, .* student"):
        _distilled(pair, tiny_tokenizer, terms={"logit_kl": 1.0})
