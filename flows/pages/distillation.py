"""`make distillation`: every student beside its teacher, the same student alone, and with inherited weights alone.

One protocol: equal steps and seeds, one split, one decoder. Written into docs/distillation.md. It may be killed and
started again: what is trained and measured is kept, and is read instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from components import atomic
from components.abilities import Learns
from components.catalog import MODELS
from components.data.batches import load_split
from components.data.shards import open_shards
from components.evaluation.cost import Cost, cost
from components.evaluation.measure import measure_loaded
from components.evaluation.plan import EvaluationPlan
from components.records import Checkpoint
from components.training.checkpoints.checkpoint import load_model, verify
from components.training.job import run_job
from flows.experiment import Experiment, ExperimentName, read_experiment
from flows.pages.page import as_made, newest, spread, write_below
from flows.pages.seeded_runs import (
    SEEDS,
    cpu_s,
    job_of,
    make_ready,
    short_digest,
    steps_and_pairs,
    whole,
)
from flows.runs.retention import teachers_plan
from infra.settings import Settings

PAGE = Path("docs/distillation.md")
MARK = "<!-- Made by `make distillation`; everything below this line is written anew. -->"
KINDS = ("teacher", "scratch", "inherited", "distilled")
SAID = {
    "teacher": "teacher",
    "scratch": "student from scratch",
    "inherited": "student, inheritance only",
    "distilled": "student distilled",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One student, or the teacher, with one seed."""

    experiment: str
    asked: str
    """Names what the experiment's file said: rows of another say nothing about these."""
    kind: str
    family: str
    teacher: str
    seed: int
    metric: str
    value: float
    blind: float | None
    """The same number on shuffled images."""
    split: str
    count: int
    training: str
    cpu_s: float
    parameters: int
    macs: int
    latency_ms: float


def made(name: str, kind: str, seed: int) -> Row:
    """One row, trained and measured, or read where it was kept."""
    settings, student = Settings.read(), whole(name)
    metric = student.gate[0].metric
    if kind == "teacher":
        checkpoint, plan, spent_s, training = _teacher(student), teachers_plan(student), 0.0, ""
    else:
        experiment = variant(student, kind)
        job, plan = job_of(experiment, seed), student.evaluation
        checkpoint, spent_s = run_job(job), cpu_s(job)
        training = steps_and_pairs(job)
    asked = [checkpoint.digest, plan.to_dict(), metric]
    kept = settings.home / "retention" / "measured" / f"{short_digest(asked)}.json"
    if not kept.exists():
        atomic.write_json(kept, _measured(checkpoint, student, plan, metric))
    row = Row(
        experiment=name,
        asked=short_digest([student.digest, student.evaluation.to_dict(), metric]),
        kind=kind,
        family=student.family,
        teacher=student.distill.teacher.name,
        seed=seed,
        metric=metric,
        split=plan.split,
        training=training,
        cpu_s=spent_s,
        **json.loads(kept.read_text(encoding="utf-8")),
    )
    atomic.write_json(newest("retention") / f"{name}-{kind}-{seed}.json", asdict(row))
    return row


def variant(student: Experiment, kind: str) -> Experiment:
    """The experiment as one of `KINDS` but the teacher trains it: all that differs is what it has of the teacher."""
    if kind == "distilled":
        return student
    if kind == "scratch":
        return replace(student, distill=None)
    alone = replace(
        student.distill, terms={}, task=1.0, temperature=1.0, inherit=True, writing={}, texts={}
    )
    return replace(student, distill=alone)


def kinds_of(name: str) -> tuple[str, ...]:
    """The rows an experiment can have: weights are inherited within a family alone."""
    student = read_experiment(name)
    teacher = student.distill.teacher
    same = teacher.kind != "stage" or read_experiment(teacher.name).family == student.family
    learns = issubclass(MODELS[student.family], Learns)
    return KINDS if same and learns else tuple(kind for kind in KINDS if kind != "inherited")


def page(rows: Sequence[Row]) -> str:
    """The table as markdown: four rows an experiment, mean ± standard deviation over the seeds."""
    lines = [
        "| experiment | teacher | row | parameters | MACs | ms | steps × pairs | CPU-s | metric | value | image-blind | seeds | retention | over scratch |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row.experiment for row in rows):
        of_it = [row for row in rows if row.experiment == name]
        lines += [line for kind in KINDS if (line := _line(of_it, kind))]
    return "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> None:
    """Write the page of these experiments; of all that have a teacher, if none is named."""
    Settings.read().prepare()
    here, missing = make_ready(
        names or [each.value for each in ExperimentName if _is_small(each.value)]
    )
    for name in here:
        whole(name)  # what a teacher writes is written once, before two ask for it
    # All with one seed first: a page that was interrupted has a number for each.
    asked = [
        (name, kind, seed)
        for seed in SEEDS
        for name in here
        for kind in kinds_of(name)
        if kind != "teacher" or seed == SEEDS[0]
    ]
    for row in as_made(made, asked):
        _told(row)
        _write(missing)


def _teacher(student: Experiment) -> Checkpoint:
    return verify(Path(student.distill.teacher.path))


def _measured(
    checkpoint: Checkpoint, student: Experiment, plan: EvaluationPlan, metric: str
) -> dict[str, float | int | None]:
    settings = Settings.read()
    shards = open_shards(settings.repo / "data" / "shards" / student.source)
    loaded = load_model(checkpoint.path)
    report = measure_loaded(loaded, shards, plan.split, plan, settings.captions)
    model, tokenizer, _ = loaded
    images = load_split(shards, plan.split, model.batch_spec().image_px)
    spent: Cost = cost(model, tokenizer, images)
    return {
        **asdict(spent),
        "value": report.values[metric],
        "blind": report.values.get(f"image_blind/{metric}"),
        "count": report.count,
    }


def _told(row: Row) -> None:
    print(
        f"{row.experiment} {row.kind} seed {row.seed}: {row.metric} {row.value:.3f} ({row.cpu_s:.0f} CPU-s)",
        flush=True,
    )


def _line(rows: Sequence[Row], kind: str) -> str:
    of_it = [row for row in rows if row.kind == kind]
    if not of_it:
        return ""
    first = of_it[0]
    teachers = [row.value for row in rows if row.kind == "teacher"]
    share = fmean(row.value for row in of_it) / teachers[0] if teachers and teachers[0] else None
    blind = [row.blind for row in of_it if row.blind is not None]
    spent = [row.cpu_s for row in of_it if row.cpu_s]
    cells = (
        f"`{first.experiment}`",
        f"`{first.teacher}`",
        SAID[kind],
        f"{first.parameters / 1e6:.2f} M",
        f"{first.macs / 1e6:.1f} M",
        f"{fmean(row.latency_ms for row in of_it):.1f}",
        first.training or "n/a",
        f"{fmean(spent):.0f}" if spent else "n/a",
        first.metric,
        f"**{spread([row.value for row in of_it])}**",
        spread(blind),
        str(len(of_it)),
        "n/a" if share is None else f"{share:.0%}",
        _over_scratch(rows, kind),
    )
    return f"| {' | '.join(cells)} |"


def _over_scratch(rows: Sequence[Row], kind: str) -> str:
    """How much more than the same student alone with the same seed, on average, and with how many seeds it is more."""
    alone = {row.seed: row.value for row in rows if row.kind == "scratch"}
    gains = [row.value - alone[row.seed] for row in rows if row.kind == kind and row.seed in alone]
    if kind in ("teacher", "scratch") or not gains:
        return "n/a"
    return f"{fmean(gains):+.3f} ({sum(gain > 0 for gain in gains)} of {len(gains)})"


def _write(missing: Sequence[str]) -> None:
    known = [name.value for name in ExperimentName]
    files = sorted(newest("retention").glob("*.json"), key=lambda file: file.stat().st_mtime)
    held = [Row(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    current = {row.experiment: row.asked for row in held}
    rows = sorted(
        (row for row in held if row.experiment in known and row.asked == current[row.experiment]),
        key=lambda row: (row.experiment, KINDS.index(row.kind), row.seed),
    )
    write_below(PAGE, MARK, page(rows), missing)


def _is_small(name: str) -> bool:
    return not name.endswith("_paper") and read_experiment(name).distill is not None


if __name__ == "__main__":
    main(sys.argv[1:])
