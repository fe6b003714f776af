"""What a night says: numbers beside their control, "n/a" for what nobody measured, one sentence for the morning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from components.records import Checkpoint, Expectations, Failure, Report, Revision, Shards
from flows.outcome import (
    Candidate,
    DataRefused,
    Outcome,
    expectations_markdown,
    markdown,
    report_markdown,
    rows,
)
from registry.gates import Rule, judge

CHECKPOINT = Checkpoint(
    path=Path("c"), digest="c" * 64, family="virtex", step=9, seed=0, shards_digest="s" * 64
)


def report(**values: float) -> Report:
    return Report(
        checkpoint_digest="c" * 64,
        shards_digest="s" * 64,
        split="test",
        count=233,
        values={name.replace("__", "/"): value for name, value in values.items()},
    )


def outcome(verdict=None, **more) -> Outcome:
    candidate = Candidate(
        experiment="mine",
        run_key="mine-1",
        mlflow_run_id="r",
        checkpoint=CHECKPOINT,
        report=report(exact_match=0.7, image_blind__exact_match=0.01),
        number=2,
    )
    return Outcome(
        experiment="mine", family="virtex", attempt=0, candidate=candidate, verdict=verdict, **more
    )


def test_what_nobody_measured_is_not_zero():
    one, other = rows(report(exact_match=0.7, image_blind__exact_match=0.01, rouge_l=0.8))
    assert one["model"] == "0.700"
    assert one["image_blind"] == "0.010"
    assert other["image_blind"] == "n/a"


def test_a_baseline_nobody_measured_takes_no_column():
    (row,) = rows(report(exact_match=0.7, image_blind__exact_match=0.01))
    assert "chance" not in row


def test_the_champion_stands_beside_the_candidate():
    (row,) = rows(report(exact_match=0.7), report(exact_match=0.8))
    assert list(row)[:3] == ["metric", "model", "champion"]
    assert row["champion"] == "0.800"


def test_a_refusal_says_who_stays_champion_and_why():
    verdict = judge(report(exact_match=0.1), None, [Rule(metric="exact_match", at_least=0.5)])
    refused = outcome(verdict, champion=1)
    assert refused.sentence() == "mine version 2 is refused; version 1 stays champion."
    assert "✗ exact_match is 0.1, below 0.5." in markdown(refused)


def test_who_scored_the_captions_is_told_and_nothing_where_nobody_did():
    scorer = "stage:clip_tiny@0123456789ab ''"
    scored = replace(report(clip_score=0.7), scorer=scorer)
    assert f"CLIPScores are by `{scorer}`." in report_markdown("mine", scored)
    assert "CLIPScores" not in report_markdown("mine", report(exact_match=0.7))


def test_unchanged_data_says_that_nothing_was_trained():
    same = Outcome(experiment="mine", family="virtex", attempt=1, champion=3)
    assert "unchanged" in same.sentence()
    assert "nothing was trained" in same.sentence()


def test_broken_expectations_name_what_broke_and_the_page(tmp_path):
    shards = Shards(path=tmp_path, digest="s" * 64, counts={"train": 3})
    revision = Revision(source="mine", rev="workspace", dvc_digest="d", shards=shards)
    failure = Failure(
        expectation="readable", detail="1 image cannot be read.", count=1, examples=("`[x](y)`",)
    )
    said = Expectations(
        shards_digest="s" * 64,
        passed=False,
        checked=5,
        failures=(failure,),
        warnings=(),
        page=tmp_path / "page.html",
    )
    assert "1 image cannot be read" in str(DataRefused(revision, said))
    assert str(tmp_path / "page.html") in str(DataRefused(revision, said))
    # An id from the data cannot close its code span and become a link.
    assert "`[x](y)`" not in expectations_markdown(revision, said).replace("` [x](y) `", "")
