"""The ledger: facts enter once, a race has one winner, and it says what was decided."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.config import ConfigError
from components.records import Expectations, Failure, Revision, Shards
from registry.ledger.store import Ledger
from registry.ledger.writing import LedgerConflict

RUN = {
    "experiment": "emoji",
    "experiment_digest": "e" * 64,
    "family": "clip",
    "shards_digest": "s" * 64,
    "seed": 0,
    "attempt": 0,
    "checkpoint_digest": "c" * 64,
    "mlflow_run_id": "m1",
}
SHARDS = Shards(path=Path("data/shards/x"), digest="s" * 64, counts={"train": 8, "test": 2})
REVISION = Revision(source="emoji_mini", rev="workspace", dvc_digest="d1", shards=SHARDS)


def test_a_run_delivered_twice_is_one_row_though_another_flow_delivers_it(ledger):
    first = ledger.record_run("r1", **RUN, flow_run_id="flow-1")
    again = ledger.record_run("r1", **RUN, flow_run_id="flow-2")
    assert again == first
    assert again.flow_run_id == "flow-1"


def test_a_run_that_differs_under_one_key_is_a_conflict_and_the_first_stays(ledger):
    first = ledger.record_run("r1", **RUN)
    with pytest.raises(LedgerConflict, match="seed=0; it was told seed=7"):
        ledger.record_run("r1", **{**RUN, "seed": 7})
    assert ledger.run("r1") == first


def test_one_attempt_of_an_experiment_on_one_data_state_is_one_run(ledger):
    ledger.record_run("r1", **RUN)
    with pytest.raises(LedgerConflict, match="key=r2"):
        ledger.record_run("r2", **RUN)


def test_a_revision_is_one_row_for_each_thing_that_was_said_of_it(ledger):
    bad = Failure(expectation="captions", detail="empty", count=1, examples=("id1",))
    page = Path("here/page.html")
    said = Expectations(
        shards_digest=SHARDS.digest,
        passed=False,
        checked=4,
        failures=(bad,),
        warnings=(),
        page=page,
    )
    unchecked = ledger.record_revision(REVISION)
    checked = ledger.record_revision(REVISION, said)
    assert ledger.record_revision(REVISION) == unchecked
    assert ledger.record_revision(REVISION, replace(said, page=Path("there.html"))) == checked
    assert unchecked.expectations is None
    assert checked.expectations["failures"][0]["examples"] == ["id1"]
    assert unchecked.id != checked.id
    assert checked.counts == {"train": 8, "test": 2}


def test_a_version_needs_its_run_and_a_run_is_one_version_of_a_model(ledger):
    with pytest.raises(LedgerConflict, match="FOREIGN KEY"):
        ledger.record_version("m", 1, "nobody", "c" * 64)
    ledger.record_run("r1", **RUN)
    first = ledger.record_version("m", 1, "r1", "c" * 64)
    assert ledger.record_version("m", 1, "r1", "c" * 64) == first
    with pytest.raises(LedgerConflict):
        ledger.record_version("m", 2, "r1", "c" * 64)
    with pytest.raises(LedgerConflict, match="checkpoint_digest"):
        ledger.record_version("m", 1, "r1", "d" * 64)


def test_a_verdict_comes_back_as_it_was_given_with_its_reasons(ledger, candidate):
    entry = candidate(1, score=0.4)
    assert not entry.passed
    assert entry.reasons[0].sentence == "cider_d is 0.4, below 0.5."
    assert ledger.verdict_of(entry.run_key) == entry
    assert ledger.record_verdict(entry.run_key, entry.verdict) == entry
    assert ledger.verdict_of("nobody") is None


def test_another_number_is_another_verdict_and_the_newest_counts(ledger, candidate):
    entry = candidate(1, score=0.9)
    changed = replace(entry.reasons[0], value=0.8)
    again = ledger.record_verdict(entry.run_key, replace(entry.verdict, reasons=(changed,)))
    assert again.id != entry.id
    assert ledger.verdict_of(entry.run_key) == again
    assert ledger.verdict(entry.id) == entry


def test_an_experiments_runs_are_its_own_oldest_first(ledger, candidate):
    entry = candidate(1)
    run = ledger.run(entry.run_key)
    ledger.record_run("later", **{**RUN, "experiment": run.experiment, "attempt": 1})
    ledger.record_run("another's", **{**RUN, "experiment": "another"})
    assert [each.key for each in ledger.runs_of(run.experiment)] == [run.key, "later"]


def test_times_are_utc(ledger):
    at = ledger.record_run("r1", **RUN).recorded_at
    read = ledger.run("r1").recorded_at
    assert at == read
    assert read.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - read) < timedelta(minutes=1)


def opened(ledger: Ledger, number: int, after: int, verdict_id: int, key: str = ""):
    return ledger.open_move(
        "emoji-clip",
        number,
        after=after,
        kind="promote",
        key=key or f"k{number}",
        by=f"night {number}",
        reason="better",
        verdict_id=verdict_id,
    )


def test_of_eight_that_open_one_generation_one_wins_and_the_others_learn_who(ledger, candidate):
    verdicts = {number: candidate(number).id for number in range(1, 9)}

    def race(number: int):
        try:
            return opened(Ledger(ledger.url), number, 0, verdicts[number])
        except LedgerConflict as conflict:
            return conflict

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(race, verdicts))
    lost = [end for end in ends if isinstance(end, LedgerConflict)]
    winner = ledger.moves("emoji-clip")[0]
    assert len(ledger.moves("emoji-clip")) == 1
    assert len(lost) == 7
    assert all(f"moved to version {winner.number} by {winner.by}" in str(end) for end in lost)


def test_a_move_is_opened_and_closed_once_however_often_it_is_delivered(ledger, candidate):
    verdict = candidate(1)
    first = opened(ledger, 1, 0, verdict.id)
    assert opened(ledger, 1, 1, verdict.id) == first
    assert ledger.open_moves("emoji-clip") == (first,)
    assert ledger.champion("emoji-clip") is None
    assert ledger.close_move(first) == ledger.close_move(first)
    assert ledger.open_moves("emoji-clip") == ()
    assert ledger.champion("emoji-clip").number == 1
    assert [move.phase for move in ledger.moves("emoji-clip")] == ["opened", "closed"]


def test_one_key_for_two_moves_is_a_conflict(ledger, candidate):
    opened(ledger, 1, 0, candidate(1).id, key="same")
    with pytest.raises(LedgerConflict, match="number"):
        opened(ledger, 2, 1, candidate(2).id, key="same")


def test_no_promotion_without_a_verdict_and_none_to_a_version_nobody_recorded(ledger, candidate):
    verdict = candidate(1)
    with pytest.raises(LedgerConflict, match="ck_alias_move_verdict"):
        opened(ledger, 1, 0, None)
    with pytest.raises(LedgerConflict, match="FOREIGN KEY"):
        opened(ledger, 9, 0, verdict.id)
    assert ledger.moves("emoji-clip") == ()


def test_the_history_tells_verdicts_and_moves_newest_first(ledger, candidate):
    ledger.close_move(opened(ledger, 1, 0, candidate(1).id))
    candidate(2, champion=1, score=0.1)
    lines = [(line.kind, line.number, line.outcome) for line in ledger.history()]
    assert lines == [("verdict", 2, "refused"), ("promote", 1, "closed"), ("verdict", 1, "passed")]
    assert ledger.history(limit=1)[0].text == "cider_d is 0.1, below 0.5."
    assert ledger.models() == ("emoji-clip",)


def test_a_ledger_in_memory_is_refused():
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(ConfigError, match="names no file"):
            Ledger(url)


TOUCH = """
import sys
from registry.ledger.store import Ledger
ledger = Ledger(sys.argv[1]).migrate()
ledger.record_run(f"r{sys.argv[2]}", experiment="e", experiment_digest="e", family="f", shards_digest="s", seed=0,
                  attempt=int(sys.argv[2]), checkpoint_digest="c", mlflow_run_id="m")
"""


@pytest.mark.faults
def test_eight_processes_may_touch_a_new_ledger_at_once(ledger_url):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TOUCH, ledger_url, str(each)], stderr=subprocess.PIPE
        )
        for each in range(8)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in started]
    assert [code for _, code in ends] == [0] * 8, ends
    ledger = Ledger(ledger_url)
    assert all(ledger.run(f"r{each}") for each in range(8))
