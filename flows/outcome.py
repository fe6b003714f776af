"""What a night has to say of one experiment, and how it is said: rows, Markdown, one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.catalog import METRICS
from components.evaluation.measure import COLUMNS
from components.records import Checkpoint, Expectations, Failure, Report, Revision
from components.training.usage.cost import Cost
from registry.gates import Verdict


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained and measured model that waits for the gate."""

    experiment: str
    run_key: str
    mlflow_run_id: str
    checkpoint: Checkpoint
    report: Report
    number: int
    """Its number in the registry, under the experiment's name."""
    cost: Cost | None = None
    """What its training took; None where nothing was trained."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one experiment's night ended."""

    experiment: str
    family: str
    attempt: int
    """How many times this experiment was decided on this data before."""
    candidate: Candidate | None = None
    """None where nothing had to be trained."""
    champion: int | None = None
    """Version the candidate was held against."""
    champion_report: Report | None = None
    verdict: Verdict | None = None
    promoted: bool = False
    links: Mapping[str, str] = field(default_factory=dict)
    """Page title -> address."""

    def sentence(self) -> str:
        """The one line that matters at nine in the morning."""
        if self.candidate is None:
            champion = (
                f"version {self.champion} stays champion" if self.champion else "no champion yet"
            )
            return (
                f"{self.experiment}: data, settings and gate are unchanged since they were decided, so nothing was "
                f"trained; {champion}."
            )
        version = f"{self.experiment} version {self.candidate.number}"
        if self.verdict is None:
            return f"{version} is registered; no gate was asked."
        if self.champion == self.candidate.number:
            said = "still passes" if self.verdict.passed else "would not pass"
            return f"{version} is champion already; it {said} the gate."
        if self.promoted:
            return f"{version} is champion" + (
                f", in place of version {self.champion}." if self.champion else ", the first."
            )
        return f"{version} is refused; " + (
            f"version {self.champion} stays champion."
            if self.champion
            else "there is no champion yet."
        )


class DataRefused(ValueError):
    """Shards that broke an expectation: the night ends here, before anything is trained."""

    def __init__(self, revision: Revision, expectations: Expectations) -> None:
        failed = "; ".join(
            f"{failure.expectation}: {failure.detail}" for failure in expectations.failures
        )
        super().__init__(
            f"{revision.source} (shards {revision.shards.digest[:12]}) broke {len(expectations.failures)} of "
            f"{expectations.checked} expectations. {failed}. The page {expectations.page} names the samples; "
            "mend the source and run again."
        )


def expectations_markdown(revision: Revision, expectations: Expectations) -> str:
    """The artifact of a refresh: how many images, which expectations held."""
    counts = ", ".join(f"{split} {count}" for split, count in revision.shards.counts.items())
    parts = [
        f"## {revision.source}: {'passed' if expectations.passed else 'refused'}",
        f"{counts}; shards `{revision.shards.digest[:12]}`, revision `{revision.rev}`. "
        f"{expectations.checked} expectations were tried.",
    ]
    parts += [_failure("✗", failure) for failure in expectations.failures]
    parts += [_failure("!", warning) for warning in expectations.warnings]
    return "\n\n".join([*parts, f"Page: `{expectations.page}`"])


def _failure(mark: str, failure: Failure) -> str:
    # Ids come from data: as code they cannot become links or markup.
    examples = ", ".join(f"`{example.replace('`', ' ')}`" for example in failure.examples)
    return f"- {mark} **{failure.expectation}** ({failure.count}): {failure.detail} {examples}"


def rows(report: Report, champion: Report | None = None) -> list[dict[str, str]]:
    """One row a metric: the model beside champion, control and baselines; "n/a" where nobody measured."""
    measured = [
        each for each in COLUMNS if any(name.startswith(f"{each}/") for name in report.values)
    ]
    table = []
    for metric in METRICS:
        if metric not in report.values:
            continue
        row = {"metric": metric, "model": _number(report.values, metric)}
        if champion is not None:
            row["champion"] = _number(champion.values, metric)
        row |= {column: _number(report.values, f"{column}/{metric}") for column in measured}
        row["gap to image_blind"] = _gap(report.values, metric)
        table.append(row)
    return table


def _gap(values: Mapping[str, float], metric: str) -> str:
    """What looking at the image is worth: the model less the same model on shuffled images."""
    blind = f"image_blind/{metric}"
    return f"{values[metric] - values[blind]:+.3f}" if blind in values else "n/a"


def _not_measured(report: Report) -> str:
    missing = [metric for metric in METRICS if metric not in report.values]
    return f"n/a for this model or this data: {', '.join(missing)}." if missing else ""


def markdown(outcome: Outcome) -> str:
    """The artifact a flow run shows."""
    parts = [f"## {outcome.experiment}", outcome.sentence()]
    if outcome.candidate is not None:
        parts += _measured(outcome.candidate.report, outcome.champion_report)
        if outcome.candidate.cost is not None:
            parts.append(cost_sentence(outcome.candidate.cost))
    if outcome.verdict is not None:
        parts.append(f"### Verdict: {'passed' if outcome.verdict.passed else 'refused'}")
        parts.append(
            "\n".join(
                f"- {'✓' if reason.passed else '✗'} {reason.sentence}"
                for reason in outcome.verdict.reasons
            )
        )
    parts.append(" · ".join(f"[{title}]({address})" for title, address in outcome.links.items()))
    return "\n\n".join(parts)


def cost_sentence(cost: Cost) -> str:
    """What a training took, as `Training took 512 s of cpu (12 s wasted), 25,600 samples, 409,600 tokens.`"""
    wasted = f" ({cost.wasted_seconds:.0f} s wasted)" if cost.wasted_seconds >= 0.5 else ""
    energy = f", {cost.energy_joules / 3600:.1f} Wh" if cost.energy_joules is not None else ""
    return (
        f"Training took {cost.device_seconds:.0f} s of {cost.device}{wasted}, {cost.samples:,} samples, "
        f"{cost.tokens:,} tokens{energy}."
    )


def report_markdown(title: str, report: Report) -> str:
    """The artifact of an evaluation."""
    return "\n\n".join([f"## {title}", *_measured(report)])


def _measured(report: Report, champion: Report | None = None) -> list[str]:
    return [
        _markdown_table(rows(report, champion)),
        _not_measured(report),
        f"{report.count} images of the {report.split} split of shards `{report.shards_digest[:12]}`, "
        f"checkpoint `{report.checkpoint_digest[:12]}`."
        + (f" Metrics' certificate `{report.certificate}`." if report.certificate else "")
        + (f" CLIPScores are by `{report.scorer}`." if report.scorer else ""),
    ]


def _number(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.3f}" if name in values else "n/a"


def _markdown_table(table: Sequence[Mapping[str, str]]) -> str:
    if not table:
        return "Nothing was measured."
    head = list(table[0])
    lines = [head, ["---"] * len(head), *[list(row.values()) for row in table]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
