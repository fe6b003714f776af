"""A teacher that is quoted: asked once about a view, the same numbers whenever they come, and never trusted when damaged."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch import nn

from components.config import ConfigError
from components.data.text import Tokenizer
from components.models.parts import Origin, Part
from components.objectives.distillation import at_both, keep_likeliest, kept_kl
from components.records import Batch, BatchSpec, Shards
from components.training.distillation import Distilled
from components.training.job import run_job
from components.training.loop import Interrupted
from components.training.plan import TrainingPlan
from components.training.teachers.teacher_cache import FOLDER, TeacherCache, name_of
from components.training.teachers.teaching import Distillation
from components.training.training_job import TrainingJob

CONFIGS: Mapping[str, Mapping[str, object]] = {
    "clip": {"image_px": 32, "vision_widths": [8, 16], "max_tokens": 16, "text_layers": 1},
    "virtex": {"image_px": 32, "vision_widths": [8, 16], "max_tokens": 16, "width": 32, "heads": 2},
}
TERMS = {"clip": {"affinity": 1.0, "icl": 0.5, "feature": 2.0}, "virtex": {"token_kl": 1.0}}
PLAN = TrainingPlan(steps=6, batch_size=16, warmup_steps=1, checkpoint_every=2)
ORIGIN = Origin(kind="stage", name="big")


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def job(
    request: pytest.FixtureRequest, tiny_shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainingJob]:
    """`job(folder)`: a student of a family beside a trained teacher that is remembered."""
    family = request.param
    plain = TrainingJob(
        family=family, config=CONFIGS[family], plan=PLAN, shards=tiny_shards.path,
        folder=tmp_path_factory.mktemp("teacher"),
    )  # fmt: skip
    teacher = run_job(replace(plain, plan=replace(PLAN, seed=9)))
    origin = replace(ORIGIN, digest=teacher.digest, path=str(teacher.path))

    def make(folder: Path, **settings: object) -> TrainingJob:
        taught = Distillation(
            teacher=origin, **{"terms": TERMS[family], "remember": True, **settings}
        )
        return replace(plain, folder=folder, distillation=taught)

    return make


def _kept(job: TrainingJob) -> list[Path]:
    return sorted((job.folder / FOLDER).glob("*/*.safetensors"))


def _interrupted(job: TrainingJob, step: int) -> None:
    with pytest.raises(Interrupted):
        run_job(job, stop=lambda done: done == step)


def test_an_interrupted_run_that_remembers_ends_as_an_undisturbed_one(
    job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    whole = run_job(job(tmp_path / "whole"))
    parted = job(tmp_path / "parted")
    _interrupted(parted, 3)
    assert run_job(parted).digest == whole.digest
    asking = run_job(job(tmp_path / "asking", remember=False))
    assert (
        asking.digest != whole.digest
    )  # rounded numbers are others, so that the digests above mean something


def test_nobody_is_asked_again_about_what_a_run_that_was_interrupted_knew(
    job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    whole, parted = job(tmp_path / "whole"), job(tmp_path / "parted")
    run_job(whole)
    _interrupted(parted, 3)
    run_job(parted)
    assert _names(whole) == _names(parted)
    assert len(set(_names(parted))) == len(_names(parted))


def test_damaged_answers_are_passed_over_and_asked_for_again(
    job: Callable[..., TrainingJob], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = job(tmp_path)
    _interrupted(asked, 3)
    before = _names(asked)
    for path in _kept(asked):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert run_job(asked).step == PLAN.steps
    assert "is passed over: its content is not what its name says" in caplog.text
    # A run that goes on looks at its first batch, about which the damaged files knew all.
    assert set(before) & set(_names(asked, damaged=False))


def _names(job: TrainingJob, *, damaged: bool = True) -> list[tuple[str, bytes]]:
    """What every file holds an answer about, by kind; of whole files alone, or of all."""
    found = []
    for path in _kept(job):
        data = path.read_bytes()
        if not damaged and hashlib.sha256(data).hexdigest() != path.stem:
            continue
        for tensor, value in load(data).items():
            if tensor.endswith("/names"):
                found += [(tensor, bytes(row)) for row in value.reshape(-1, 16)]
    return sorted(found)


def test_a_cache_gives_back_what_it_was_told_and_only_to_who_asks_the_same_teacher(
    tmp_path: Path,
) -> None:
    names = [name_of(1), name_of(2), name_of(1)]
    told = {
        0: {"rows": np.float16([[1, 2]]), "at": np.array([True, False])},
        1: {"rows": np.float16([[3, 4], [5, 6], [7, 8]]), "at": np.array([True])},
    }
    cache = TeacherCache(tmp_path, {"teacher": "a"})
    first = cache.recall("words", names, lambda rows: [told[row] for row in rows])
    assert first == [told[0], told[1], told[0]]
    cache.write()
    again = TeacherCache(tmp_path, {"teacher": "a"}).recall("words", names, _nobody)
    for one, other in zip(again, first, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[part], other[part]) for part in one)
    with pytest.raises(AssertionError, match="asked"):
        TeacherCache(tmp_path, {"teacher": "b"}).recall("words", names, _nobody)
    with pytest.raises(AssertionError, match="asked"):
        TeacherCache(tmp_path, {"teacher": "a"}).recall("image", names, _nobody)


def test_another_teachers_file_is_not_read_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cache = TeacherCache(tmp_path, {"teacher": name})
        cache.recall("image", [name_of(ord(name))], lambda rows: [{"rows": np.ones((1, 2))}])
        cache.write()
    one, other = sorted(tmp_path.glob("*/*.safetensors"))
    one.rename(other.parent / one.name)
    names = [name_of(ord(name)) for name in "ab"]
    unknown = []
    for name in ("a", "b"):
        TeacherCache(tmp_path, {"teacher": name}).recall(
            "image", names, lambda rows: unknown.append(len(rows)) or [{}] * len(rows)
        )
    assert sorted(unknown) == [1, 2]


def _nobody(rows: list[int]) -> list[dict[str, np.ndarray]]:
    raise AssertionError(f"asked about {rows}")


Beside = Callable[..., tuple[Distilled, Batch]]


@pytest.fixture
def beside(
    build_tiny: Callable[..., nn.Module],
    batch_for: Callable[[BatchSpec, int], Batch],
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
) -> Beside:
    """`beside("clip", terms)`: a student in eval mode beside a teacher with a memory, and a batch of eight."""

    def make(
        family: str, terms: Mapping[str, float], **settings: object
    ) -> tuple[Distilled, Batch]:
        student, teacher = (build_tiny(family, seed=seed, **settings) for seed in (1, 2))
        batch = batch_for(student.batch_spec(), 8)
        part = Part(module=teacher, tokenizer=tiny_tokenizer, origin=ORIGIN)
        plan = Distillation(teacher=ORIGIN, terms=terms, remember=True)
        cache = TeacherCache(tmp_path, {"teacher": family})
        return Distilled(student, tiny_tokenizer, part, plan, batch, cache).eval(), batch

    return make


def test_the_teacher_is_asked_once_about_an_image_whatever_batch_it_comes_in(
    beside: Beside,
) -> None:
    learner, batch = beside(
        "clip", TERMS["clip"], **CONFIGS["clip"]
    )  # which looked at the batch once
    seen: list[int] = []
    tower = learner._memory._teacher._model.image
    tower.register_forward_hook(lambda module, taken, given: seen.append(len(given)))
    turned = batch.rows(torch.arange(7, -1, -1))
    one, other = (learner.loss(each).parts["affinity"] for each in (batch, turned))
    torch.testing.assert_close(one, other)
    assert not seen
    fresh = replace(batch, keys_B=batch.keys_B.index_fill(0, torch.tensor([2, 5]), 10**6))
    learner.loss(replace(fresh, keys_B=fresh.keys_B + torch.arange(8) * (fresh.keys_B == 10**6)))
    assert seen == [2]


def test_remembered_words_are_the_kept_part_of_the_teachers_own(beside: Beside) -> None:
    learner, batch = beside("virtex", {"token_kl": 1.0}, **CONFIGS["virtex"], dropout=0.0)
    found = learner.loss(batch).parts["token_kl"]
    ours = learner.student.views(batch)
    theirs = learner._memory._teacher._model.views(batch)
    wanted = torch.zeros(())
    for name in ("tokens", "tokens_backward"):
        pair = at_both(ours[name], ours[f"{name}_at"], theirs[name], theirs[f"{name}_at"])
        wanted = wanted + kept_kl(pair[0], *keep_likeliest(pair[1]))
    torch.testing.assert_close(found, wanted.detach())
    turned = learner.loss(batch.rows(torch.arange(7, -1, -1))).parts["token_kl"]
    torch.testing.assert_close(turned, found)


def test_terms_that_are_not_kept_are_named() -> None:
    with pytest.raises(ConfigError, match=r"for gates, prefix, only for affinity, .*token_kl"):
        terms = {"token_kl": 1.0, "prefix": 1.0, "gates": 0.1, "latents": 0.0}
        Distillation(teacher=ORIGIN, terms=terms, remember=True)


def test_a_teacher_whose_words_hang_on_chance_is_not_remembered(beside: Beside) -> None:
    with pytest.raises(ConfigError, match=r"distill\.remember: .*SimVLM.*token_kl.*draws"):
        beside("simvlm", {"token_kl": 1.0})


def test_a_plan_that_does_not_remember_is_named_as_before_it_could() -> None:
    plan = Distillation(teacher=ORIGIN, terms={"feature": 1.0})
    assert "remember" not in plan.to_dict()
    kept = replace(plan, remember=True)
    assert Distillation.from_dict(kept.to_dict()) == kept != plan
