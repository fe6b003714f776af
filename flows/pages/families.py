"""`make families`: every family trained with three seeds, held against its controls, written into docs/families.md.

Without Prefect and MLflow: the same jobs, run folders and measurements, two at a time. It may be killed and started
again: what is trained and measured is kept, and is read instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from components import atomic
from components.data.shards import open_shards
from components.evaluation.measure import COLUMNS, measure_loaded
from components.training.checkpoints.checkpoint import load_model
from components.training.job import run_job
from flows.experiment import ExperimentName, read_experiment
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
from infra.settings import Settings

PAGE = Path("docs/families.md")
MARK = "<!-- Made by `make families`; everything below this line is written anew. -->"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One seed of one experiment."""

    experiment: str
    family: str
    source: str
    split: str
    seed: int
    metrics: tuple[str, ...]
    """Those the gate asks for: what the experiment is for."""
    values: dict[str, float]
    count: int
    trained: int
    """Parameters that learn."""
    training: str
    """Steps times pairs of a step."""
    cpu_s: float
    """What training took of one core; wall time would tell how busy the machine was."""


def made(name: str, seed: int) -> Result:
    """One seed of an experiment, trained and measured, or read where it was kept."""
    settings = Settings.read()
    experiment = whole(name)
    job = job_of(experiment, seed)
    plan = experiment.evaluation
    asked = [plan.to_dict(), [rule.metric for rule in experiment.gate]]
    kept = job.folder / f"result-{short_digest(asked)}.json"
    if not kept.exists():
        loaded = load_model(run_job(job).path)
        report = measure_loaded(
            loaded, open_shards(job.shards), plan.split, plan, settings.captions
        )
        found = Result(
            experiment=name,
            family=experiment.family,
            source=experiment.source,
            split=plan.split,
            seed=seed,
            metrics=tuple(dict.fromkeys(rule.metric for rule in experiment.gate)),
            values=dict(report.values),
            count=report.count,
            trained=sum(each.numel() for each in loaded[0].parameters() if each.requires_grad),
            training=steps_and_pairs(job),
            cpu_s=cpu_s(job),
        )
        atomic.write_json(kept, asdict(found))
    atomic.write_bytes(newest("families") / f"{name}-{seed}.json", kept.read_bytes())
    return _read(kept)


def _read(path: Path) -> Result:
    held = json.loads(path.read_text(encoding="utf-8"))
    return Result(**{**held, "metrics": tuple(held["metrics"])})


def page(results: Sequence[Result]) -> str:
    """The tables as markdown, one an experiment's metric a row: mean ± standard deviation over the seeds."""
    lines = [
        "| experiment | family | source, split | seeds | learns | steps × pairs | CPU-s | metric | model | image-blind | gap | beside it |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(result.experiment for result in results):
        of_it = [result for result in results if result.experiment == name]
        lines += [_row(of_it, metric) for metric in of_it[0].metrics]
    return "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> None:
    """Write the page of these experiments; of all that are small enough, if none is named."""
    Settings.read().prepare()
    here, missing = make_ready(
        names or [each.value for each in ExperimentName if _is_small(each.value)]
    )
    # All with one seed first: a page that was interrupted has a number for each.
    for result in as_made(made, [(name, seed) for seed in SEEDS for name in here]):
        _told(result)
        _write(missing)


def _write(missing: Sequence[str]) -> None:
    known = [name.value for name in ExperimentName]
    held = [_read(file) for file in newest("families").glob("*.json")]
    results = [each for each in held if each.experiment in known]
    ordered = sorted(
        results, key=lambda each: (each.family, known.index(each.experiment), each.seed)
    )
    write_below(PAGE, MARK, page(ordered), missing)


def _is_small(name: str) -> bool:
    # Paper-scale experiments are for clusters; a stage has no gate, for it is nobody's champion.
    # Students stand beside their teachers in docs/distillation.md.
    experiment = read_experiment(name)
    return not name.endswith("_paper") and bool(experiment.gate) and experiment.distill is None


def _row(results: Sequence[Result], metric: str) -> str:
    first = results[0]
    beside = [
        f"{column.replace('_', ' ')} {_spread(results, f'{column}/{metric}')}"
        for column in COLUMNS
        if column != "image_blind" and f"{column}/{metric}" in first.values
    ]
    cells = (
        f"`{first.experiment}`",
        first.family,
        f"{first.source}, {first.split} ({first.count})",
        str(len(results)),
        f"{first.trained / 1e6:.2f} M" if first.trained else "nothing",
        first.training or "n/a",
        f"{fmean(spent):.0f}"
        if (spent := [each.cpu_s for each in results if each.cpu_s])
        else "n/a",
        metric,
        f"**{_spread(results, metric)}**",
        _spread(results, f"image_blind/{metric}"),
        _gap(results, metric),
        "; ".join(beside) or "n/a",
    )
    return f"| {' | '.join(cells)} |"


def _gap(results: Sequence[Result], metric: str) -> str:
    blind = f"image_blind/{metric}"
    gaps = [each.values[metric] - each.values[blind] for each in results if blind in each.values]
    return f"{fmean(gaps):+.3f}" if gaps else "n/a"


def _spread(results: Sequence[Result], name: str) -> str:
    return spread([result.values[name] for result in results if name in result.values])


def _told(result: Result) -> None:
    shown = ", ".join(f"{metric} {result.values[metric]:.3f}" for metric in result.metrics)
    print(f"{result.experiment} seed {result.seed}: {shown} ({result.cpu_s:.0f} CPU-s)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
