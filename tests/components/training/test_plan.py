"""A plan that cannot work is refused when it is made, with what would work."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter

from components.config import ConfigError
from components.training.plan import TrainingPlan


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("steps", 0, "from 1"),
        ("steps", 2.5, "whole number"),
        ("steps", True, "whole number"),
        ("batch_size", 1, "from 2"),
        ("seed", -1, "from 0"),
        ("seed", 2**63, "whole number"),
        ("checkpoint_every", 0, "from 1"),
        ("max_failures", -1, "from 0"),
        ("vocab_size", 262, "from 263"),
        ("lr", float("nan"), "above 0"),
        ("lr", float("inf"), "finite"),
        ("lr", 0.0, "above 0"),
        ("lr", "1e-3", "finite number"),
        ("weight_decay", -0.1, "0 or above"),
        ("clip_norm", float("nan"), "0 or above"),
        ("cpus_per_worker", 0, "above 0"),
        ("betas", (0.9, 1.0), "[0, 1)"),
        ("betas", (0.9,), "[0, 1)"),
        ("betas", (0.9, float("nan")), "[0, 1)"),
        ("schedule", "cosin", "cosine, linear, constant"),
        ("precision", "fp8", "fp32, bf16, fp16"),
        ("optimiser", "adam", "adamw, lamb, sgd"),
        ("on_nan", "skip", "stop, rewind"),
        ("momentum", 1.0, "[0, 1)"),
        ("ema", float("nan"), "0 or above"),
        ("ema", 1, "[0, 1)"),
        ("lookahead", -1, "from 0"),
        ("accumulate", 0, "from 1"),
        ("accumulate", 3, "63 or 66"),
        ("compile", 1, "neither true nor false"),
        ("warmup_steps", 400, "at most 399"),
        ("parallel", "dp", "ddp, fsdp"),
        ("hang_s", 0, "from 1"),
        ("min_workers", 2, "1 to 1 works"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_what_would(field, value, hint):
    with pytest.raises(ConfigError) as refused:
        TrainingPlan(**{field: value})
    assert field in str(refused.value)
    assert hint in str(refused.value)


def test_a_batch_the_workers_cannot_share_names_sizes_they_can():
    with pytest.raises(ConfigError, match="63 or 66"):
        TrainingPlan(batch_size=64, workers=3)
    assert TrainingPlan(batch_size=66, workers=3).batch_size == 66


def test_every_worker_gets_at_least_two_pairs():
    with pytest.raises(ConfigError, match="the smallest is 8"):
        TrainingPlan(batch_size=4, workers=4)
    assert TrainingPlan(batch_size=8, workers=4).workers == 4


def test_slices_are_refused_in_fp16():
    with pytest.raises(ConfigError, match="fp16 cannot work"):
        TrainingPlan(parallel="fsdp", precision="fp16")


def test_a_batch_must_suit_every_number_of_workers_there_may_be():
    with pytest.raises(
        ConfigError, match=r"evenly by 3 workers, .* a multiple of 12 could, as 60\."
    ):
        TrainingPlan(batch_size=64, workers=4, min_workers=1)
    with pytest.raises(ConfigError, match="2 workers with accumulate=4"):
        TrainingPlan(batch_size=12, workers=3, min_workers=2, accumulate=4)
    assert TrainingPlan(batch_size=60, workers=4, min_workers=1).min_workers == 1


def test_a_plan_survives_json_both_ways():
    plan = TrainingPlan(steps=7, warmup_steps=2, betas=(0.8, 0.9), schedule="linear")
    assert TrainingPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_where_a_training_runs_decides_nothing_and_the_rest_does():
    plan = TrainingPlan()
    assert plan.to_dict().keys() > plan.PLACEMENT
    assert plan.decides().keys() == plan.to_dict().keys() - plan.PLACEMENT
    assert TrainingPlan(workers=2, report_every=1).decides() == plan.decides()
    assert TrainingPlan(seed=1).decides() != plan.decides()


def test_an_unknown_key_is_refused_by_name():
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainingPlan.from_dict({"learning_rate": 1e-3})


def test_pydantic_refuses_an_unknown_key_and_keeps_our_own_words():
    reader = TypeAdapter(TrainingPlan)
    with pytest.raises(ValueError, match="learning_rate"):
        reader.validate_python({"learning_rate": 1e-3})
    with pytest.raises(ValueError, match="at most 399"):
        reader.validate_python({"warmup_steps": 400})
