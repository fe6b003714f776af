"""What an experiment's `distill` says -> whom its student learns from, and what; told before any data is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.abilities import Captions, Distils, Embeds, LearnsFromFeatures
from components.config import ConfigError
from components.evaluation.plan import EvaluationPlan
from components.models.parts import Origin
from components.records import Checkpoint
from components.table import UnknownName
from components.training.teachers.teaching import Distillation

KINDS = "stage:EXPERIMENT, version:MODEL/NUMBER, version:MODEL/champion or folder:CHECKPOINT"
_VERSION = re.compile(r"[\w.-]{1,200}/(\d{1,9}|champion)", re.ASCII)


def read_distillation(
    text: Mapping[str, Any] | None, family: type, validate: Callable[..., Any], where: str
) -> Distillation | None:
    """The section as a record; None where there is none.

    Raises UnknownName and ConfigError for a teacher, a term or a value that cannot work, and for a family whose outputs
    no term compares.
    """
    if text is None:
        return None
    if "texts" in text:
        raise ConfigError(f"{where}.texts is what the teacher writes, and not said beforehand.")
    if "teacher" not in text:
        raise ConfigError(f"{where} names no teacher; it is {KINDS}.")
    teacher = _teacher(str(text["teacher"]), f"{where}.teacher")
    plan: Distillation = validate(Distillation, {**text, "teacher": teacher}, where)
    if plan.writing:
        validate(EvaluationPlan, plan.writing, f"{where}.writing")
    if plan.compared and not issubclass(family, Distils | LearnsFromFeatures):
        raise ConfigError(
            f"{where}.terms compares outputs, and a {family.__name__} shows none; only seq can teach it."
        )
    return plan


def refuse_teacher(plan: Distillation, teacher: type, where: str) -> None:
    """Raise ConfigError for a teacher of a family that cannot teach what the plan asks for."""
    if plan.written and not issubclass(teacher, Captions):
        raise ConfigError(
            f"{where}.terms has seq, and a {teacher.__name__} writes no texts; name a teacher that does, or leave seq out."
        )
    if plan.compared and not issubclass(teacher, Distils | Embeds):
        raise ConfigError(
            f"{where}.terms compares outputs, and a {teacher.__name__} shows none; it teaches by the texts it writes: "
            "{seq: 1.0}."
        )


VersionOf = Callable[[str, str], Checkpoint]
"""(model, number or "champion") -> its checkpoint on this machine."""


def no_versions(model: str, number: str) -> Checkpoint:
    """For who has no registry at hand."""
    raise ConfigError(
        f"version:{model}/{number} is a registered version, and there is no registry here; name a stage or a folder."
    )


def pinned(
    plan: Distillation,
    checkpoint_of: Callable[[str], Checkpoint],
    version_of: VersionOf,
) -> Distillation:
    """The plan with its teacher's checkpoint and digest, which are part of what names a run."""
    teacher = plan.teacher
    if teacher.kind == "stage":
        found = checkpoint_of(teacher.name)
    elif teacher.kind == "version":
        found = version_of(*teacher.name.split("/"))
    else:
        from components.training.checkpoints.checkpoint import verify

        found = verify(Path(teacher.name))
    return replace(plan, teacher=replace(teacher, digest=found.digest, path=str(found.path)))


def _teacher(text: str, where: str) -> Origin:
    kind, _, name = text.partition(":")
    if kind not in ("stage", "version", "folder") or not name:
        raise UnknownName(f'{where}: "{text[:80]}" is none of {KINDS}.')
    if kind == "version" and not _VERSION.fullmatch(name):
        raise ConfigError(
            f'{where}: "{text[:80]}" names no version; write version:clip_tiny/3 or version:clip_tiny/champion.'
        )
    if kind == "folder":  # a worker has another working directory
        name = str(Path(name).expanduser().absolute())
    return Origin(kind=kind, name=name)  # type: ignore[arg-type]
