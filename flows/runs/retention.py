"""What a student keeps of its teacher: its numbers over the teacher's, under one protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from components.catalog import METRICS
from components.decoding.options import RANGES
from components.evaluation.plan import EvaluationPlan
from components.records import Report
from flows.experiment import Experiment


def teachers_plan(experiment: Experiment) -> EvaluationPlan:
    """How the teacher is measured: as the student is, but that it writes as it wrote for `seq`."""
    assert experiment.distill is not None, "callers checked"
    if not experiment.distill.writing:
        return experiment.evaluation
    # The student's options say nothing to the teacher's decoder, which may read others.
    unsaid = dict.fromkeys(RANGES)
    own = EvaluationPlan(**experiment.distill.writing).decoding()
    return replace(experiment.evaluation, **(unsaid | own))


def retentions(student: Mapping[str, float], teacher: Mapping[str, float]) -> dict[str, float]:
    """Student over teacher of each metric that both have and that is better the higher; 1 keeps all, above 1 beats it.

    A metric in which the teacher has nothing has no retention.
    """
    return {
        name: student[name] / teacher[name]
        for name, metric in METRICS.items()
        if metric.higher_is_better and name in student and teacher.get(name, 0.0) > 0
    }


def retention_markdown(title: str, teacher: str, student: Report, taught_by: Report) -> str:
    """The artifact of a distillation: both reports side by side."""
    kept = retentions(student.values, taught_by.values)
    lines = ["| metric | teacher | student | retention |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {taught_by.values[name]:.3f} | {student.values[name]:.3f} | {share:.0%} |"
        for name, share in kept.items()
    ]
    return "\n\n".join(
        [
            f"## {title} beside its teacher",
            f"Teacher `{teacher}`, {student.count} images of the {student.split} split.",
            "\n".join(lines) if kept else "They have no number in common.",
        ]
    )
