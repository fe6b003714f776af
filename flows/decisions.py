"""Tasks that decide: hold a candidate against the champion, write the verdict down, move the alias or leave it."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from components.failpoint import failpoint
from components.records import Checkpoint, Report, Revision
from components.training.checkpoints.checkpoint import verify
from flows.experiment import Experiment
from flows.outcome import Candidate, Outcome
from flows.patience import patient
from flows.services import services
from flows.steps import evaluate, links
from registry import promotion
from registry.gates import judge as hold_against
from registry.gates import rules_digest
from registry.ledger.entries import RunEntry, VerdictEntry, VersionEntry
from registry.versions import VersionMissing


def decide(
    experiment: Experiment, candidate: Candidate, revision: Revision, attempt: int
) -> Outcome:
    """Measure the champion on the same shards, ask the gate, and promote or refuse."""
    champion = services().ledger.champion(experiment.name)
    number = champion.number if champion else None
    if number is None:
        report = None
    elif number == candidate.number:
        report = candidate.report  # it is champion already, and is held against itself
    else:
        report = champion_report(experiment, number, revision)
    verdict = judge(experiment, candidate, report)
    promoted = (
        verdict.passed
        and number != candidate.number
        and promote(experiment.name, candidate.number, verdict)
    )
    return Outcome(
        experiment=experiment.name,
        family=experiment.family,
        attempt=attempt,
        candidate=candidate,
        champion=number,
        champion_report=report,
        verdict=verdict.verdict,
        promoted=promoted,
        links=links(candidate.mlflow_run_id, experiment.name, candidate.number, number),
    )


def next_attempt(
    experiment: Experiment, shards_digest: str, done: Callable[[Experiment, RunEntry], bool]
) -> int:
    """The first attempt at this experiment on this data that is not `done`: 0 means that there is something to do."""
    finished = {
        run.attempt
        for run in services().ledger.runs_of(experiment.name)
        if (run.experiment_digest, run.shards_digest) == (experiment.digest, shards_digest)
        and done(experiment, run)
    }
    return next(attempt for attempt in count() if attempt not in finished)


def is_published(experiment: Experiment, run: RunEntry) -> bool:
    """Whether a run came to a version and to its end: what tells of a version comes after it, and a crash between."""
    doors = services()
    return bool(doors.ledger.versions_of(run.key)) and doors.tracking.is_finished(run.mlflow_run_id)


def is_decided(experiment: Experiment, run: RunEntry) -> bool:
    """Whether these rules refused a run, or passed it and its alias move was closed: a crash may come between."""
    ledger = services().ledger
    verdict = ledger.verdict_of(run.key)
    if verdict is None or verdict.rules_digest != rules_digest(experiment.gate):
        return False
    moved = {move.number for move in ledger.moves(experiment.name) if move.phase == "closed"}
    return not verdict.passed or any(
        version.number in moved for version in ledger.versions_of(run.key)
    )


def unchanged(experiment: Experiment, attempt: int) -> Outcome:
    """The outcome of an experiment with nothing to train."""
    champion = services().ledger.champion(experiment.name)
    return Outcome(
        experiment=experiment.name,
        family=experiment.family,
        attempt=attempt,
        champion=champion.number if champion else None,
    )


@patient(name="settle")
def settle(models: Sequence[str]) -> None:
    """Finish what a crash left between ledger and registry, and say what it left unsaid, before anything is decided.

    A champion whose files are gone is told and left: `rollback` must still be possible.
    """
    doors = services()
    for model in models:
        try:
            for move in promotion.finish_open_moves(doors.ledger, doors.versions, model):
                get_run_logger().warning(
                    "%s: version %d was decided and not moved; its move is closed now.",
                    model,
                    move.number,
                )
            promotion.reconcile(doors.ledger, doors.versions, model)
        except VersionMissing as missing:
            get_run_logger().error(
                "%s has no champion that answers (%s); `diptych rollback %s` returns to the one before.",
                model,
                missing,
                model,
            )
        _close_runs(model)


def _close_runs(model: str) -> None:
    """Close the MLflow runs of decided trainings that a crash left open, with what was decided."""
    doors = services()
    for run in doors.ledger.runs_of(model)[-10:]:
        verdict = doors.ledger.verdict_of(run.key)
        if verdict is not None and doors.tracking.is_open(run.mlflow_run_id):
            said = "passed" if verdict.passed else "refused"
            reasons = " ".join(reason.sentence for reason in verdict.reasons)
            doors.tracking.log_tags(run.mlflow_run_id, {"diptych.verdict": f"{said}: {reasons}"})
            doors.tracking.finish(run.mlflow_run_id)


def champion_report(experiment: Experiment, number: int, revision: Revision) -> Report:
    """The champion's numbers on tonight's shards: those of another revision are never compared."""
    checkpoint = fetch_version(experiment.name, number)
    plan = experiment.evaluation
    return evaluate.with_options(name="evaluate champion", task_run_name="evaluate champion")(
        checkpoint, revision.shards, plan.split, plan
    )


@patient(name="fetch version", task_run_name="fetch {model} {number}")
def fetch_version(model: str, number: int) -> Checkpoint:
    """A registered version's checkpoint, verified, from the registry or from the copy fetched before."""
    doors = services()
    folder: Path = doors.settings.home / "versions"
    return verify(doors.versions.checkpoint(model, number, folder))


def known_version(model: str, number: int | None) -> tuple[VersionEntry, RunEntry]:
    """What the ledger holds of a version, the champion if no number is given.

    Raises VersionMissing with the versions there are.
    """
    ledger = services().ledger
    entry = ledger.champion(model) if number is None else ledger.version(model, number)
    run = ledger.run(entry.run_key) if entry else None
    if entry is None or run is None:
        wanted = "no champion" if number is None else f"no version {number}"
        raise VersionMissing(
            f"The ledger holds {wanted} of {model}. `diptych ledger` shows what there is; "
            f"`diptych train {model}` makes a version."
        )
    return entry, run


@task(name="judge", task_run_name="judge {experiment.name}", cache_policy=NO_CACHE)
def judge(experiment: Experiment, candidate: Candidate, champion: Report | None) -> VerdictEntry:
    """Ask the gate, and write what it says into the ledger."""
    verdict = hold_against(candidate.report, champion, experiment.gate)
    entry = services().ledger.record_verdict(candidate.run_key, verdict)
    failpoint("judged")
    return entry


@patient(name="promote", task_run_name="promote {model} {number}")
def promote(model: str, number: int, verdict: VerdictEntry) -> bool:
    """Open the move, point the alias, close the move; again is no second move."""
    doors = services()
    promotion.promote(
        doors.ledger,
        doors.versions,
        model=model,
        number=number,
        verdict=verdict,
        by=f"flow run {flow_run.id}",
        # After a rollback the same verdict may promote again; a retry of this task is still the same move.
        key=f"verdict:{verdict.key}:{flow_run.id}",
    )
    doors.versions.tag(model, number, "gate", "passed")
    return True


@patient(name="give back")
def give_back(model: str, reason: str) -> int:
    """The champion before the present one is champion again; its number."""
    doors, by = services(), f"flow run {flow_run.id}"
    # The flow run is the key, so that a retry of this task goes back once.
    move = promotion.rollback(
        doors.ledger, doors.versions, model=model, by=by, reason=reason, key=f"rollback:{by}"
    )
    return move.number
