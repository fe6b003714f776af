"""A ledger in a temporary file, and facts to fill it with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.catalog import FAMILIES
from components.data.text import Tokenizer
from components.records import Checkpoint, Report
from components.training.checkpoints.checkpoint import Origin, save
from registry.gates import Rule, judge
from registry.ledger.entries import VerdictEntry
from registry.ledger.store import Ledger


def digest(name: str) -> str:
    """A made digest that a reader of a failed test can tell from others."""
    return name.ljust(64, "0")


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return Ledger(ledger_url).migrate()


def record_candidate(
    ledger: Ledger,
    number: int,
    *,
    champion: int | None = None,
    score: float = 0.9,
    model: str = "emoji-clip",
) -> VerdictEntry:
    """Run, version and verdict of a candidate `number`, judged against version `champion`."""
    run_key, checkpoint = digest(f"run{number}"), digest(f"ckpt{number}")
    ledger.record_run(
        run_key,
        experiment="emoji",
        experiment_digest=digest("experiment"),
        family="clip",
        shards_digest=digest("shards"),
        seed=0,
        attempt=number,
        checkpoint_digest=checkpoint,
        mlflow_run_id=f"mlflow{number}",
    )
    ledger.record_version(model, number, run_key, checkpoint)

    def report(owner: str, value: float) -> Report:
        return Report(
            checkpoint_digest=owner,
            shards_digest=digest("shards"),
            split="test",
            count=10,
            values={"cider_d": value},
        )

    verdict = judge(
        report(checkpoint, score),
        None if champion is None else report(digest(f"ckpt{champion}"), 0.5),
        [Rule(metric="cider_d", at_least=0.5)],
    )
    return ledger.record_verdict(run_key, verdict)


@pytest.fixture
def candidate(ledger: Ledger) -> Callable[..., VerdictEntry]:
    """`candidate(3, champion=1, score=0.9)`: version 3 in the ledger, judged against version 1."""
    return lambda number, **judged: record_candidate(ledger, number, **judged)


TINY = {
    "clip": {"image_px": 32, "vision_widths": (8, 16), "vision_heads": 2, "text_width": 16}
    | {"text_layers": 1, "text_heads": 2, "embed_width": 16},
    "virtex": {"image_px": 32, "vision_widths": (8, 16), "width": 32, "heads": 2},
}


@pytest.fixture
def make_checkpoint(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Callable[..., Checkpoint]:
    """`make_checkpoint("clip", seed=1)`: a small untrained checkpoint of a family, as training would save it."""

    def make(family: str, seed: int = 0) -> Checkpoint:
        torch.manual_seed(seed)
        made = FAMILIES[family]
        config = made.Config(vocab_size=tiny_tokenizer.vocab_size, **TINY[family])
        model = made(config)
        origin = Origin(
            family=family, config=config.to_dict(), seed=seed, shards_digest=digest("shards")
        )
        return save(
            tmp_path / f"{family}-{seed}",
            model,
            tokenizer=tiny_tokenizer,
            origin=origin,
            step=2,
        )

    return make
