"""An experiment's search space -> trials side by side -> the best settings as an experiment's file."""

import hashlib
import json
from functools import cache
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from components.config import ConfigError
from components.data.shards import read_manifest
from components.evaluation.objective import Objective
from components.records import Shards
from components.training.ray_tuner import refuse_workers, tune
from components.training.sweeps.search import SPLIT
from components.training.sweeps.trials import Sweep, Trial, identity
from flows.experiment import Experiment, ExperimentName, read_experiment
from flows.patience import patient
from flows.publishing import alone, closing
from flows.refresh_dataset import refresh_dataset
from flows.runs.certifying import compiled_tables
from flows.services import flow_page, services
from flows.stages import with_stages
from flows.steps import commit, training_job
from flows.sweeps.best_settings import check_place, usual_place, write_best
from flows.sweeps.watch import Watch, leaving_none_open, log_trials, sentence


@flow(name="sweep-settings", flow_run_name="sweep {experiment}")
def sweep_settings(
    experiment: ExperimentName = ExperimentName.clip_tiny_sweep,
    overrides: list[str] = [],  # noqa: B006 Prefect shows the default in the form and copies it
    to: Path | None = None,
) -> list[str]:
    """Try the settings an experiment's section `search` names, and write the best as an experiment's file.

    Trials run side by side on a Ray of this run's own. The same sweep again goes on with what it knows.

    Args:
        experiment: A file of flows/experiments that has a section `search`.
        overrides: Settings changed for this run, as "search.trials=16".
        to: The file to write, ending in .yaml; in the sweep's own folder if left out.
    """
    if to is not None:
        check_place(to, experiment)
    asked = read_experiment(experiment, overrides)
    if asked.search is None:
        raise ConfigError(
            f"{asked.name} has no section `search`; flows/experiments/clip_tiny_sweep.yaml is one to copy from."
        )
    refuse_workers(asked.training)  # before its stages are trained
    revision_of = cache(refresh_dataset)
    chosen = with_stages(asked, revision_of, "local")
    shards = revision_of(chosen.source).shards
    sweep = sweep_of(chosen, shards)
    objective = _objective(chosen, shards)
    with alone(f"sweep-{chosen.name}"):
        run_id = open_sweep(chosen, sweep)
        with closing(run_id):
            with leaving_none_open(chosen.name, sweep, run_id):
                best = tune(sweep, objective, Watch(chosen.name, sweep, run_id))
            log_trials(chosen.name, sweep, run_id, sweep.trials())
            path = to or usual_place(sweep.folder, chosen.name)
            write_best(path, experiment, overrides, sweep, best)
            said = report(sweep, best, path, run_id)
    return said


def sweep_of(experiment: Experiment, shards: Shards) -> Sweep:
    """The sweep of an experiment on its data: a name for good, so that the same one again goes on."""
    home = services().settings.home
    job = training_job(experiment, shards, 0)
    # How many trials, and how many at a time, may change: it is the same search with more of it done.
    searched = {
        name: value
        for name, value in experiment.search.to_dict().items()
        if name not in ("trials", "at_once")
    }
    evaluation = experiment.evaluation.to_dict()
    named = json.dumps([identity(job), searched, evaluation], sort_keys=True).encode()
    name = f"{experiment.name}-{hashlib.sha256(named).hexdigest()[:12]}"
    return Sweep(
        search=experiment.search,
        job=job,
        folder=home / "sweeps" / name,
        runs=services().settings.runs,
    )


@patient(name="open sweep", task_run_name="open sweep of {experiment.name}")
def open_sweep(experiment: Experiment, sweep: Sweep) -> str:
    """The MLflow run that holds the trials, found again by its key."""
    tracking = services().tracking
    run_id = tracking.open_run(
        sweep.folder.name,
        f"sweep of {experiment.name}",
        tags={
            "diptych.experiment": experiment.name,
            "diptych.flow_run": str(flow_run.id),
            "diptych.flow_run_page": flow_page(),
            "diptych.commit": commit(),
        },
    )
    space = {name: str(domain) for name, domain in sweep.search.to_dict()["space"].items()}
    tracking.log_params(run_id, {"metric": sweep.search.metric, "space": space})
    return run_id


@patient(name="report")
def report(sweep: Sweep, best: Trial, path: Path, run_id: str) -> list[str]:
    """What was found, in lines: in Prefect, on the MLflow run, and for the command."""
    known = sweep.trials()
    count = {
        state: sum(trial.state == state for trial in known)
        for state in ("finished", "stopped", "failed")
    }
    said = [
        f"{len(known)} trials: {', '.join(f'{number} {state}' for state, number in count.items() if number)}.",
        f"Best by {sweep.search.metric} on {SPLIT}: {sentence(best)}.",
        f"Written to {path}. In flows/experiments/ it is one to train: `diptych train {path.stem}`.",
    ]
    create_markdown_artifact(
        "\n\n".join(said), key=f"best-{sweep.folder.name.replace('_', '-')}", description=said[1]
    )
    tracking = services().tracking
    tracking.log_tags(run_id, {"diptych.best": sentence(best), "diptych.best_trial": best.key})
    tracking.log_file(run_id, path)
    return said


def _objective(experiment: Experiment, shards: Shards) -> Objective:
    if not any(row.sample.split == SPLIT for row in read_manifest(shards)):
        raise ConfigError(
            f"{experiment.source} has no split {SPLIT}, and trials are compared on nothing else; its splits are "
            f"{', '.join(shards.counts)}."
        )
    return Objective(
        metric=experiment.search.metric,
        shards=shards.path,
        plan=experiment.evaluation,
        cache=compiled_tables(services().settings),
    )
