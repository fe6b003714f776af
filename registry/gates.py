"""The gate: measured numbers and rules in, a verdict with its reasons out. Pure; it moves nothing.

A rule is data, one line under `gate:` of an experiment. A number that was not measured, is not finite, or was measured
on other images never passes, and the reason says so by name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, ClassVar

from components.config import ConfigError
from components.records import Report
from components.table import nearest


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a candidate owes in one metric: a floor, more than a baseline has, or no less than the champion. One of them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    metric: str
    """A name of a report, such as `cider_d` or `text_to_image_r1`."""
    at_least: float | None = None
    """The lowest value that passes, in the metric's own unit."""
    not_worse_than_champion: float | None = None
    """How much worse than the champion still passes: a margin >= 0 in the metric's own unit."""
    better_than: str | None = None
    """A baseline or control of the same report, such as `nearest_pixels` or `image_blind`."""
    by: float = 0.0
    """With `better_than`: how much better at the least, >= 0; with 0, any better."""

    def __post_init__(self) -> None:
        bounds = (self.at_least, self.not_worse_than_champion, self.by)
        kinds = (self.at_least, self.not_worse_than_champion, self.better_than)
        if sum(kind is not None for kind in kinds) != 1:
            raise ConfigError(
                f'The gate rule on "{self.metric}" needs exactly one of at_least, not_worse_than_champion and '
                f"better_than; it has at_least={self.at_least}, "
                f"not_worse_than_champion={self.not_worse_than_champion} and better_than={self.better_than}."
            )
        if self.by < 0 or (self.by and self.better_than is None):
            raise ConfigError(
                f'The gate rule on "{self.metric}" has by={self.by}; it goes with better_than and is 0 or more.'
            )
        if not all(math.isfinite(bound) for bound in bounds if bound is not None):
            raise ConfigError(
                f'The bound of the gate rule on "{self.metric}" is not a finite number.'
            )
        if self.not_worse_than_champion is not None and self.not_worse_than_champion < 0:
            raise ConfigError(
                f'The margin of the gate rule on "{self.metric}" is {self.not_worse_than_champion}; a margin is 0 or '
                "more. To ask for better than the champion, ask at_least."
            )

    def to_dict(self) -> dict[str, Any]:
        """As it stands in an experiment: only the keys that say something."""
        everything = asdict(self)
        if self.better_than is None:
            del everything["by"]
        return {name: value for name, value in everything.items() if value is not None}

    def __str__(self) -> str:
        if self.at_least is not None:
            return f"{self.metric} at least {self.at_least:g}"
        if self.better_than is not None:
            return f"{self.metric} better than {self.better_than} by {self.by:g}"
        return f"{self.metric} not worse than the champion by more than {self.not_worse_than_champion:g}"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """What one rule said."""

    rule: Rule
    passed: bool
    sentence: str
    """The same for a person."""
    value: float | None = None
    """The candidate's; None if nobody measured it or it is not finite."""
    bound: float | None = None
    """The worst value that would have passed; None if there was nothing to compare with."""
    champion: float | None = None
    """The champion's, where the rule compares."""

    @property
    def metric(self) -> str:
        """The name of what was measured."""
        return self.rule.metric


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says of a candidate: passed only if every rule did."""

    passed: bool
    reasons: tuple[Reason, ...]
    rules_digest: str
    candidate_digest: str
    """The checkpoint that was judged; only this one may be promoted on this verdict."""
    champion_digest: str | None
    """The checkpoint it was compared with; None if there was no champion."""
    shards_digest: str
    split: str


def judge(
    candidate: Report,
    champion: Report | None,
    rules: Sequence[Rule],
    *,
    lower_is_better: Collection[str] | None = None,
) -> Verdict:
    """Hold a candidate's numbers against the rules, and against the champion's on the same images.

    lower_is_better: metrics (without `prefix/`) whose low values are good, so that a margin points upward; as the
    catalog says if left out.
    Raises ConfigError if there are no rules: an empty gate would let everything through.
    """
    if not rules:
        raise ConfigError("The gate has no rules, so it would pass anything; give it at least one.")
    low = _low_is_good(lower_is_better)
    reasons = tuple(_reason(rule, candidate, champion, low) for rule in rules)
    return Verdict(
        passed=all(reason.passed for reason in reasons),
        reasons=reasons,
        rules_digest=rules_digest(rules),
        candidate_digest=candidate.checkpoint_digest,
        champion_digest=None if champion is None else champion.checkpoint_digest,
        shards_digest=candidate.shards_digest,
        split=candidate.split,
    )


def rules_digest(rules: Sequence[Rule]) -> str:
    """sha256 of the rules' content, in their order."""
    text = json.dumps([rule.to_dict() for rule in rules], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_rules(
    rules: Sequence[Rule],
    measured: Collection[str],
    *,
    lower_is_better: Collection[str] | None = None,
) -> None:
    """Refuse, before anything is trained, a gate that no report of this family could answer.

    measured: names of all values that the family's report will hold.
    Raises ConfigError naming the rule and the nearest metric that would work.
    """
    if not rules:
        raise ConfigError("The gate has no rules, so it would pass anything; give it at least one.")
    low = _low_is_good(lower_is_better)
    for rule in rules:
        if rule.better_than is not None and f"{rule.better_than}/{rule.metric}" not in measured:
            beside = sorted(
                name.partition("/")[0] for name in measured if name.endswith(f"/{rule.metric}")
            )
            raise ConfigError(
                f'The gate asks {rule.metric} to be better than "{rule.better_than}", which does not stand beside it; '
                f"what does: {', '.join(beside) or 'nothing'}. Change it under `gate:`."
            )
        if rule.metric not in measured:
            raise ConfigError(
                f'The gate asks for "{rule.metric}", which this family is not measured by.'
                f"{_meant(rule.metric, measured)} It is measured by {_listed(measured)}. Change it under `gate:`."
            )
        if rule.at_least is not None and _plain(rule.metric) in low:
            raise ConfigError(
                f'Lower is better for "{rule.metric}", so at_least={rule.at_least:g} asks for a bad model; '
                "use not_worse_than_champion."
            )


def _meant(metric: str, measured: Collection[str]) -> str:
    # A bare name never stands for a baseline's.
    alike = [name for name in measured if ("/" in name) == ("/" in metric)]
    return nearest(metric, alike)


def _listed(measured: Collection[str]) -> str:
    plain = sorted(name for name in measured if "/" not in name)
    prefixes = sorted({name.partition("/")[0] for name in measured if "/" in name})
    said = ", ".join(plain) or "nothing"
    return f"{said} (and each baseline's: {', '.join(prefixes)}/…)" if prefixes else said


def _reason(
    rule: Rule, candidate: Report, champion: Report | None, lower_is_better: Collection[str]
) -> Reason:
    value, trouble = _measured(candidate, rule.metric, "the candidate")
    if value is None:
        return Reason(rule=rule, passed=False, sentence=trouble)
    if rule.at_least is not None:
        passed = value >= rule.at_least
        word = "at least" if passed else "below"
        sentence = f"{rule.metric} is {value:.4g}, {word} {rule.at_least:.4g}."
        return Reason(rule=rule, passed=passed, sentence=sentence, value=value, bound=rule.at_least)
    if rule.better_than is not None:
        return _against_baseline(rule, value, candidate, lower_is_better)
    return _against_champion(rule, value, candidate, champion, lower_is_better)


def _against_baseline(
    rule: Rule, value: float, candidate: Report, lower_is_better: Collection[str]
) -> Reason:
    theirs, trouble = _measured(candidate, f"{rule.better_than}/{rule.metric}", "the candidate")
    if theirs is None:
        return Reason(rule=rule, passed=False, sentence=trouble, value=value)
    upside_down = _plain(rule.metric) in lower_is_better
    bound = _plus(theirs, -rule.by if upside_down else rule.by)
    ahead = value < theirs if upside_down else value > theirs
    passed = ahead and (value <= bound if upside_down else value >= bound)
    margin = f" by at least {rule.by:.4g}" if rule.by else ""
    sentence = (
        f"{rule.metric} is {value:.4g} against {theirs:.4g} of {rule.better_than}: "
        f"{'better' if passed else 'not better'}{margin}."
    )
    return Reason(rule=rule, passed=passed, sentence=sentence, value=value, bound=bound)


def _against_champion(
    rule: Rule,
    value: float,
    candidate: Report,
    champion: Report | None,
    lower_is_better: Collection[str],
) -> Reason:
    if champion is None:
        sentence = f"{rule.metric} is {value:.4g}; there is no champion yet to compare with."
        return Reason(rule=rule, passed=True, sentence=sentence, value=value)
    different = _not_comparable(candidate, champion)
    if different:
        sentence = f"{rule.metric} was not compared: {different}"
        return Reason(rule=rule, passed=False, sentence=sentence, value=value)
    theirs, trouble = _measured(champion, rule.metric, "the champion")
    if theirs is None:
        return Reason(rule=rule, passed=False, sentence=trouble, value=value)
    margin = rule.not_worse_than_champion or 0.0
    upside_down = _plain(rule.metric) in lower_is_better
    bound = _plus(theirs, margin if upside_down else -margin)
    passed = value <= bound if upside_down else value >= bound
    worse = "above" if upside_down else "below"
    sentence = (
        f"{rule.metric} is {value:.4g} against the champion's {theirs:.4g}: "
        + ("not worse by more than" if passed else f"{worse} it by more than")
        + f" {margin:.4g}."
    )
    return Reason(
        rule=rule, passed=passed, sentence=sentence, value=value, bound=bound, champion=theirs
    )


def _measured(report: Report, metric: str, whose: str) -> tuple[float | None, str]:
    if metric not in report.values:
        return None, f"Nobody measured {metric} of {whose}."
    value = float(report.values[metric])
    if not math.isfinite(value):
        return None, f"{metric} of {whose} is {value}, which is not a measurement."
    return value, ""


def _not_comparable(candidate: Report, champion: Report) -> str:
    if candidate.shards_digest != champion.shards_digest:
        return (
            f"the champion was measured on other data (shards {champion.shards_digest[:12]}, the candidate on "
            f"{candidate.shards_digest[:12]}); evaluate it again on these."
        )
    if candidate.split != champion.split:
        return f'the champion was measured on split "{champion.split}", the candidate on "{candidate.split}".'
    if candidate.count != champion.count:
        return f"the champion was measured on {champion.count} images, the candidate on {candidate.count}."
    return ""


def _plus(value: float, change: float) -> float:
    # In decimal, as people read the numbers: 0.8 - 0.1 is 0.7 and a candidate at 0.7 stands on the edge, not below.
    return float(Decimal(repr(value)) + Decimal(repr(change)))


def _low_is_good(given: Collection[str] | None) -> Collection[str]:
    if given is not None:
        return given
    from components.catalog import METRICS

    return {name for name, metric in METRICS.items() if not metric.higher_is_better}


def _plain(metric: str) -> str:
    return metric.rpartition("/")[2]
