"""Promotion: no alias without a passing verdict, one winner, and every crash and interleaving ends at the ledger's head."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from registry.ledger.store import Ledger
from registry.ledger.writing import LedgerConflict
from registry.promotion import (
    NothingToRollBack,
    PromotionRefused,
    champions_of,
    promote,
    reconcile,
    rollback,
)
from registry.versions import Versions
from tests.registry.conftest import digest, record_candidate

MODEL = "emoji-clip"


class Aliases:
    """A registry in memory: the last writer of an alias wins, as in MLflow."""

    def __init__(self) -> None:
        self.stands: int | None = None
        self.ever: list[int] = []

    def alias(self, model: str, name: str = "champion") -> int | None:
        return self.stands

    def point(self, model: str, alias: str, number: int) -> None:
        self.stands = number
        self.ever.append(number)


@pytest.fixture
def aliases() -> Aliases:
    return Aliases()


@pytest.fixture
def night(ledger, candidate, aliases):
    """`night(2, champion=1)`: train, judge against the champion and promote."""

    def run(number: int, **judged):
        verdict = candidate(number, **judged)
        return promote(ledger, aliases, model=MODEL, number=number, verdict=verdict, by="night")

    return run


def test_a_passing_verdict_moves_the_alias_and_the_ledger_says_why(ledger, aliases, night):
    move = night(1)
    assert (aliases.stands, ledger.champion(MODEL).number) == (1, 1)
    assert (move.phase, move.kind, move.by) == ("closed", "promote", "night")
    assert move.reason == "cider_d is 0.9, at least 0.5."
    assert ledger.verdict(move.verdict_id).passed


def test_a_refused_verdict_never_moves_the_alias(ledger, aliases, night):
    night(1)
    with pytest.raises(PromotionRefused, match=r"cider_d is 0\.4, below 0\.5"):
        night(2, champion=1, score=0.4)
    assert aliases.ever == [1]
    assert [move.number for move in ledger.moves(MODEL)] == [1, 1]


def test_a_verdict_on_one_checkpoint_promotes_no_other(ledger, aliases, candidate):
    verdict = candidate(1)
    candidate(2)
    with pytest.raises(PromotionRefused, match="Judge that one"):
        promote(ledger, aliases, model=MODEL, number=2, verdict=verdict, by="me")
    with pytest.raises(PromotionRefused, match="no version 3"):
        promote(ledger, aliases, model=MODEL, number=3, verdict=verdict, by="me")
    assert aliases.ever == []


def test_a_promotion_delivered_twice_is_one_move(ledger, aliases, candidate):
    verdict = candidate(1)
    first, second = (
        promote(ledger, aliases, model=MODEL, number=1, verdict=verdict, by="me") for _ in range(2)
    )
    assert first == second
    assert len(ledger.moves(MODEL)) == 2


def test_a_candidate_judged_against_a_champion_of_yesterday_loses_and_learns_to_whom(
    ledger, aliases, candidate, night
):
    night(1)
    late = candidate(2, champion=1)
    night(3, champion=1)
    with pytest.raises(LedgerConflict, match="version 3, moved by night; version 2 was judged"):
        promote(ledger, aliases, model=MODEL, number=2, verdict=late, by="late")
    assert aliases.stands == 3


def test_a_rival_that_opened_its_move_a_moment_ago_wins_and_is_named(
    ledger, aliases, candidate, night, monkeypatch
):
    night(1)
    rival, late = candidate(2, champion=1), candidate(3, champion=1)
    ledger.open_move(
        MODEL, 2, after=1, kind="promote", key="k", by="rival", reason="", verdict_id=rival.id
    )
    # Late looked for open moves just before the rival opened its own.
    monkeypatch.setattr(ledger, "open_moves", lambda model: ())
    with pytest.raises(LedgerConflict, match=r"version 2 by rival \(generation 2\)"):
        promote(ledger, aliases, model=MODEL, number=3, verdict=late, by="late")
    assert aliases.stands == 1


def test_rollbacks_walk_back_and_a_late_delivery_of_the_promotion_changes_nothing(
    ledger, aliases, candidate
):
    verdicts = [candidate(1), candidate(2, champion=1), candidate(3, champion=2)]
    for number, verdict in enumerate(verdicts, 1):
        promote(ledger, aliases, model=MODEL, number=number, verdict=verdict, by="night")
    rollback(ledger, aliases, model=MODEL, by="ann", reason="wrong captions")
    assert (aliases.stands, champions_of(ledger, MODEL)) == (2, (1, 2))
    promote(ledger, aliases, model=MODEL, number=3, verdict=verdicts[2], by="night")
    assert aliases.stands == 2
    rollback(ledger, aliases, model=MODEL, by="ann", reason="that one too", key="flow-7")
    rollback(ledger, aliases, model=MODEL, by="ann", reason="that one too", key="flow-7")
    assert (aliases.stands, ledger.champion(MODEL).number) == (1, 1)
    with pytest.raises(NothingToRollBack, match="1 champion"):
        rollback(ledger, aliases, model=MODEL, by="ann", reason="again")


def test_a_version_that_was_rolled_back_can_be_promoted_again_on_purpose(
    ledger, aliases, candidate, night
):
    night(1)
    verdict = candidate(2, champion=1)
    promote(ledger, aliases, model=MODEL, number=2, verdict=verdict, by="night")
    rollback(ledger, aliases, model=MODEL, by="ann", reason="doubt")
    promote(ledger, aliases, model=MODEL, number=2, verdict=verdict, by="ann", key="ann-1")
    assert (aliases.stands, champions_of(ledger, MODEL)) == (2, (1, 2))


def test_reconcile_undoes_what_somebody_moved_past_the_ledger(ledger, aliases, night):
    assert reconcile(ledger, aliases, MODEL) is None
    night(1)
    night(2, champion=1)
    aliases.point(MODEL, "champion", 1)
    assert reconcile(ledger, aliases, MODEL).number == 2
    assert aliases.stands == 2


# Crashes, with real processes and a real MLflow store.

WORK = """
import sys
from registry.ledger.store import Ledger
from registry.promotion import promote, rollback
from registry.versions import Versions
what, ledger, uri, model = sys.argv[1:5]
ledger, versions = Ledger(ledger), Versions(uri)
if what == "promote":
    promote(ledger, versions, model=model, number=2, verdict=ledger.verdict_of(sys.argv[5]), by="night")
else:
    rollback(ledger, versions, model=model, by="ann", reason="drill")
"""


@pytest.fixture
def registered(tracking, ledger):
    """Two versions in a real registry and the ledger; version 1 is champion, version 2 judged against it."""
    versions = Versions(tracking.uri)
    client = MlflowClient(tracking.uri, registry_uri=tracking.uri)
    model = f"drill-{tracking.experiment_id}"
    client.create_registered_model(model)
    verdicts = {}
    for number in (1, 2):
        client.create_model_version(model, source=f"file:///nowhere/{number}")
        champion = 1 if number == 2 else None
        verdicts[number] = record_candidate(ledger, number, champion=champion, model=model)
    promote(ledger, versions, model=model, number=1, verdict=verdicts[1], by="night")
    return versions, model, verdicts[2]


def killed_at(place: str, what: str, ledger: Ledger, versions: Versions, model: str, run_key: str):
    command = [sys.executable, "-c", WORK, what, ledger.url, versions.uri, model, run_key]
    env = {**os.environ, "DIPTYCH_FAIL": place}
    repo = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=repo, env=env, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


STEPS = ("promotion.decided", "promotion.opened", "promotion.pointed", "promotion.closed")


@pytest.mark.faults
@pytest.mark.parametrize("place", STEPS)
def test_a_promotion_killed_at_any_step_is_one_closed_move_after_the_rerun(
    ledger, registered, place
):
    versions, model, verdict = registered
    killed_at(place, "promote", ledger, versions, model, verdict.run_key)
    promote(ledger, versions, model=model, number=2, verdict=verdict, by="rerun")
    moves = [(move.generation, move.phase, move.number) for move in ledger.moves(model)]
    assert moves == [(1, "opened", 1), (1, "closed", 1), (2, "opened", 2), (2, "closed", 2)]
    assert versions.alias(model) == ledger.champion(model).number == 2


@pytest.mark.faults
def test_what_a_killed_promotion_left_open_is_finished_by_reconcile(ledger, registered):
    versions, model, verdict = registered
    killed_at("promotion.opened", "promote", ledger, versions, model, verdict.run_key)
    assert (versions.alias(model), len(ledger.open_moves(model))) == (1, 1)
    assert reconcile(ledger, versions, model).number == 2
    assert (versions.alias(model), ledger.open_moves(model)) == (2, ())


@pytest.mark.faults
def test_a_rollback_that_was_killed_goes_back_once(ledger, registered):
    versions, model, verdict = registered
    promote(ledger, versions, model=model, number=2, verdict=verdict, by="night")
    killed_at("promotion.pointed", "rollback", ledger, versions, model, verdict.run_key)
    rollback(ledger, versions, model=model, by="ann", reason="drill")
    assert versions.alias(model) == ledger.champion(model).number == 1
    assert champions_of(ledger, model) == (1,)


# Interleavings: real ledger, and a scheduler that decides who takes the next step.


class Killed(BaseException):
    """The scheduler let this actor die between two steps."""


class Actor:
    """A promoter in a thread that takes one step (a call to the ledger or the registry) at a time."""

    def __init__(self, work) -> None:
        self.go, self.waits = threading.Semaphore(0), threading.Semaphore(0)
        self.end: Future = Future()
        self.dies = False
        threading.Thread(target=self._run, args=(work,), daemon=True).start()
        self.waits.acquire()

    def _run(self, work) -> None:
        try:
            self.before_a_step()
            self.end.set_result(work(self))
        except BaseException as failure:
            self.end.set_exception(failure)
        self.waits.release()

    def before_a_step(self) -> None:
        self.waits.release()
        self.go.acquire()
        if self.dies:
            raise Killed

    def step(self, dies: bool = False) -> None:
        self.dies = dies
        self.go.release()
        self.waits.acquire()


class Stepwise:
    """Anything, with a stop before each call of a method."""

    def __init__(self, actor: Actor, of) -> None:
        self._actor, self._of = actor, of

    def __getattr__(self, name):
        method = getattr(self._of, name)

        def call(*args, **kwargs):
            self._actor.before_a_step()
            return method(*args, **kwargs)

        return call


def finish(actors: dict[int, Actor], schedule: list[tuple[int, int, bool]]) -> None:
    for who, steps, dies in schedule:
        for left in reversed(range(steps)):
            if not actors[who].end.done():
                actors[who].step(dies and left == 0)
    for actor in actors.values():
        while not actor.end.done():
            actor.step()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A ledger with champions 0 and 1, and three candidates judged against 1; 9 did not pass."""
    file = tmp_path_factory.mktemp("prepared") / "ledger.db"
    ledger = Ledger(f"sqlite:///{file}").migrate()
    for number in (0, 1):
        verdict = record_candidate(ledger, number, champion=None if number == 0 else 0)
        promote(ledger, Aliases(), model=MODEL, number=number, verdict=verdict, by="night")
    for number in (2, 3, 9):
        record_candidate(ledger, number, champion=1, score=0.1 if number == 9 else 0.9)
    return file


BURSTS = st.tuples(st.integers(2, 5), st.integers(1, 8), st.sampled_from([False] * 9 + [True]))


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(schedule=st.lists(BURSTS, max_size=12))
def test_no_interleaving_and_no_death_leaves_two_winners_or_an_unapproved_champion(
    prepared, tmp_path_factory, schedule
):
    """Drills 27 and 28: two promoters against one champion, a rollback, a reconcile, in any order, some killed."""
    file = tmp_path_factory.mktemp("race") / "ledger.db"
    shutil.copyfile(prepared, file)
    ledger, aliases = Ledger(f"sqlite:///{file}"), Aliases()
    aliases.point(MODEL, "champion", 1)
    rivals = {number: ledger.verdict_of(digest(f"run{number}")) for number in (2, 3)}
    refused = ledger.verdict_of(digest("run9"))

    def promoter(number: int):
        return lambda actor: promote(
            Stepwise(actor, ledger),
            Stepwise(actor, aliases),
            model=MODEL,
            number=number,
            verdict=rivals[number],
            by=f"rival {number}",
        )

    actors = {number: Actor(promoter(number)) for number in rivals}
    actors[4] = Actor(
        lambda actor: rollback(
            Stepwise(actor, ledger), Stepwise(actor, aliases), model=MODEL, by="ann", reason="drill"
        )
    )
    actors[5] = Actor(
        lambda actor: reconcile(Stepwise(actor, ledger), Stepwise(actor, aliases), MODEL)
    )
    finish(actors, schedule)

    ends = {who: actor.end.exception() for who, actor in actors.items()}
    assert {type(end) for end in ends.values()} <= {type(None), Killed, LedgerConflict}
    with pytest.raises(PromotionRefused):
        promote(ledger, aliases, model=MODEL, number=9, verdict=refused, by="me")
    killed = any(isinstance(end, Killed) for end in ends.values())
    if not killed:
        assert aliases.stands == ledger.champion(MODEL).number
        assert ledger.open_moves(MODEL) == ()
    reconcile(ledger, aliases, MODEL)
    assert aliases.stands == ledger.champion(MODEL).number
    assert ledger.open_moves(MODEL) == ()
    moves = [move for move in ledger.moves(MODEL) if move.phase == "closed"]
    assert [move.generation for move in moves] == list(range(1, len(moves) + 1))
    _each_promotion_was_judged_against_the_champion_it_replaced(ledger, moves)
    # Whom the ledger calls a winner was told so, unless it was killed; whom it does not name was told otherwise.
    won = {move.number for move in moves if move.kind == "promote"}
    for number in rivals:
        if ends[number] is None:
            assert number in won
        elif isinstance(ends[number], LedgerConflict):
            assert number not in won
    assert set(aliases.ever) <= {0, 1, *won}


def _each_promotion_was_judged_against_the_champion_it_replaced(ledger: Ledger, moves) -> None:
    champion = None
    for move in moves:
        if move.kind == "promote":
            verdict = ledger.verdict(move.verdict_id)
            assert verdict.passed
            assert verdict.champion_digest == champion
        champion = ledger.version(MODEL, move.number).checkpoint_digest
