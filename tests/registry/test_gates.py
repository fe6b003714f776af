"""The gate at the very edge of its rules, and what it refuses by name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from components.config import ConfigError
from components.records import Report
from registry.gates import Rule, check_rules, judge, rules_digest


def report(**values: float) -> Report:
    return Report(
        checkpoint_digest="c" * 64, shards_digest="s" * 64, split="test", count=100, values=values
    )


CHAMPION = replace(report(cider_d=0.8), checkpoint_digest="d" * 64)
FLOOR = Rule(metric="cider_d", at_least=0.5)
NOT_WORSE = Rule(metric="cider_d", not_worse_than_champion=0.1)


@pytest.mark.parametrize(
    ("value", "passed"),
    [(0.5, True), (math.nextafter(0.5, 0), False), (math.nextafter(0.5, 1), True)],
)
def test_a_floor_passes_at_its_very_edge(value, passed):
    verdict = judge(report(cider_d=value), None, [FLOOR])
    assert verdict.passed is passed
    assert verdict.reasons[0].bound == 0.5


@pytest.mark.parametrize(
    ("value", "passed"), [(0.7, True), (math.nextafter(0.7, 0), False), (0.9, True)]
)
def test_a_margin_passes_at_its_very_edge(value, passed):
    verdict = judge(report(cider_d=value), CHAMPION, [NOT_WORSE])
    assert verdict.passed is passed
    assert (verdict.reasons[0].bound, verdict.reasons[0].champion) == (0.7, 0.8)


@pytest.mark.parametrize(("value", "passed"), [(0.9, True), (math.nextafter(0.9, 1), False)])
def test_a_margin_points_upward_where_lower_is_better(value, passed):
    verdict = judge(report(cider_d=value), CHAMPION, [NOT_WORSE], lower_is_better={"cider_d"})
    assert verdict.passed is passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", [FLOOR, NOT_WORSE])
def test_gate_refuses_a_number_that_is_not_finite(value, rule):
    verdict = judge(report(cider_d=value), CHAMPION, [rule])
    assert not verdict.passed
    assert f"cider_d of the candidate is {value}" in verdict.reasons[0].sentence
    assert verdict.reasons[0].value is None


def test_gate_refuses_a_champion_that_is_not_finite():
    verdict = judge(
        report(cider_d=0.9), replace(CHAMPION, values={"cider_d": math.nan}), [NOT_WORSE]
    )
    assert not verdict.passed
    assert "cider_d of the champion is nan" in verdict.reasons[0].sentence


@pytest.mark.parametrize("rule", [FLOOR, NOT_WORSE])
def test_gate_refuses_a_metric_nobody_measured(rule):
    verdict = judge(report(bleu_4=0.9), CHAMPION, [rule])
    assert not verdict.passed
    assert verdict.reasons[0].sentence == "Nobody measured cider_d of the candidate."


def test_gate_refuses_a_champion_nobody_measured_by_that_metric():
    verdict = judge(report(cider_d=0.9), replace(CHAMPION, values={}), [NOT_WORSE])
    assert not verdict.passed
    assert verdict.reasons[0].sentence == "Nobody measured cider_d of the champion."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shards_digest": "e" * 64}, "other data (shards eeeeeeeeeeee"),
        ({"split": "val"}, 'on split "val"'),
        ({"count": 99}, "on 99 images"),
    ],
)
def test_gate_refuses_to_compare_with_a_champion_measured_elsewhere(change, said):
    verdict = judge(report(cider_d=0.9), replace(CHAMPION, **change), [NOT_WORSE])
    assert not verdict.passed
    assert said in verdict.reasons[0].sentence


def test_without_a_champion_a_comparison_passes_and_says_so():
    verdict = judge(report(cider_d=0.1), None, [NOT_WORSE])
    assert verdict.passed
    assert "no champion yet" in verdict.reasons[0].sentence
    assert verdict.champion_digest is None


def test_one_failed_rule_fails_the_verdict_and_every_rule_has_its_reason():
    rules = [FLOOR, NOT_WORSE, Rule(metric="bleu_4", at_least=0.1)]
    verdict = judge(report(cider_d=0.9, bleu_4=0.05), CHAMPION, rules)
    assert not verdict.passed
    assert [reason.passed for reason in verdict.reasons] == [True, True, False]
    assert [reason.metric for reason in verdict.reasons] == ["cider_d", "cider_d", "bleu_4"]


def test_a_verdict_names_what_it_judged():
    verdict = judge(report(cider_d=0.9), CHAMPION, [FLOOR])
    assert verdict.candidate_digest == "c" * 64
    assert verdict.champion_digest == "d" * 64
    assert verdict.shards_digest == "s" * 64
    assert verdict.rules_digest == rules_digest([FLOOR]) != rules_digest([NOT_WORSE])


def test_a_gate_without_rules_is_refused():
    with pytest.raises(ConfigError, match="no rules"):
        judge(report(cider_d=1.0), None, [])
    with pytest.raises(ConfigError, match="no rules"):
        check_rules([], {"cider_d"})


@pytest.mark.parametrize(
    "rule",
    [
        {"metric": "x"},
        {"metric": "x", "at_least": 1.0, "not_worse_than_champion": 0.1},
        {"metric": "x", "not_worse_than_champion": -0.1},
        {"metric": "x", "at_least": math.nan},
    ],
)
def test_a_rule_that_cannot_work_is_refused(rule):
    with pytest.raises(ConfigError, match='"x"'):
        Rule(**rule)


def test_a_rule_is_read_as_data_and_an_unknown_key_is_refused():
    reader = TypeAdapter(Rule)
    assert reader.validate_python({"metric": "cider_d", "at_least": 0.5}) == FLOOR
    with pytest.raises(ValidationError, match="at_leest"):
        reader.validate_python({"metric": "cider_d", "at_leest": 0.5})


def test_a_gate_on_a_metric_the_family_cannot_have_is_refused_before_training():
    with pytest.raises(ConfigError, match=r'"cider".*Did you mean "cider_d"'):
        check_rules([Rule(metric="cider", at_least=1.0)], {"cider_d", "bleu_4"})
    check_rules([FLOOR, NOT_WORSE], {"cider_d", "bleu_4"})


def test_a_floor_under_a_metric_whose_low_values_are_good_is_refused():
    with pytest.raises(ConfigError, match="Lower is better"):
        check_rules([Rule(metric="chance/x", at_least=1.0)], {"chance/x"}, lower_is_better={"x"})


FINITE = st.floats(min_value=-1e6, max_value=1e6)


@given(ours=FINITE, theirs=FINITE, margin=st.floats(min_value=0, max_value=1e3))
def test_a_better_candidate_always_passes_and_a_wider_margin_never_fails_more(ours, theirs, margin):
    def passed(allowed: float) -> bool:
        rule = Rule(metric="cider_d", not_worse_than_champion=allowed)
        return judge(
            report(cider_d=ours), replace(CHAMPION, values={"cider_d": theirs}), [rule]
        ).passed

    assert passed(0.0) == (ours >= theirs)
    assert passed(margin) >= passed(0.0)


BASELINE = Rule(metric="cider_d", better_than="nearest_pixels", by=0.05)


@pytest.mark.parametrize(
    ("mine", "theirs", "passed"), [(1.55, 1.5, True), (1.549, 1.5, False), (1.5, 1.5, False)]
)
def test_a_candidate_must_be_better_than_its_baseline_by_the_margin(mine, theirs, passed):
    verdict = judge(report(**{"cider_d": mine, "nearest_pixels/cider_d": theirs}), None, [BASELINE])
    assert verdict.passed is passed
    assert "nearest_pixels" in verdict.reasons[0].sentence


def test_as_good_as_a_baseline_is_not_better_than_it():
    rule = Rule(metric="cider_d", better_than="image_blind")
    assert not judge(report(**{"cider_d": 1.0, "image_blind/cider_d": 1.0}), None, [rule]).passed


def test_a_baseline_nobody_measured_is_no_baseline_of_zero():
    assert not judge(report(cider_d=1.0), None, [BASELINE]).passed


@pytest.mark.parametrize(
    "wrong",
    [{"at_least": 1.0, "better_than": "image_blind"}, {"at_least": 1.0, "by": 0.1},
     {"better_than": "image_blind", "by": -0.1}, {"better_than": "image_blind", "by": float("nan")}],
)  # fmt: skip
def test_a_rule_of_two_kinds_or_a_senseless_margin_is_refused(wrong):
    with pytest.raises(ConfigError):
        Rule(metric="cider_d", **wrong)


def test_a_rule_on_a_baseline_that_does_not_stand_beside_the_metric_is_refused():
    with pytest.raises(ConfigError, match="image_blind"):
        check_rules([BASELINE], {"cider_d", "image_blind/cider_d"})
