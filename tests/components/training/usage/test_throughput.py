"""What a report says of speed: arithmetic counted by hand, rates of what was counted, a peak that was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from components.training.plan import TrainingPlan
from components.training.usage.throughput import Meter, data_sheet, peak

CPU = torch.device("cpu")


def counted(work) -> float:
    """Multiply-adds, twice, of what runs under a meter."""
    meter = Meter(TrainingPlan(), CPU)
    with meter.counting():
        work()
    return meter._flops


def test_products_count_twice_their_size_forward_and_twice_that_backward():
    one, other = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    assert counted(lambda: one @ other) == 2 * 3 * 5 * 7
    assert counted(lambda: (one @ other).sum().backward()) == 3 * 2 * 3 * 5 * 7


def test_attention_of_a_cpu_is_counted():
    query, key, value = (torch.ones(2, 4, 8, 16, requires_grad=True) for _ in range(3))
    forward = 2 * (2 * 2 * 4 * 8 * 8 * 16)
    attend = lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True)  # noqa: E731
    assert counted(attend) == forward
    assert counted(lambda: attend().sum().backward()) == 3.5 * forward


def test_only_the_first_step_is_counted():
    meter, one = Meter(TrainingPlan(), CPU), torch.ones(4, 4)
    for _ in range(3):
        with meter.counting():
            one @ one
    assert meter._flops == 2 * 4**3


def test_rates_are_of_what_came_since_the_last_reading(tiny_batch):
    plan = TrainingPlan(batch_size=8)
    meter = Meter(plan, CPU)
    with meter.counting():
        torch.ones(64, 64) @ torch.ones(64, 64)
    for _ in range(4):
        meter.count(tiny_batch, skipped=False)
    first = meter.read()
    tokens = int(tiny_batch.lengths_B.sum())
    assert first["tokens_per_s"] / first["samples_per_s"] == pytest.approx(tokens / 8)
    steps_per_s = first["samples_per_s"] / 8
    assert first["tflops"] == pytest.approx(2 * 64**3 * steps_per_s / 1e12)
    assert first["mfu"] == pytest.approx(first["tflops"] * 1e12 / peak(CPU, "fp32", plan.threads))
    assert "gpu_memory_mb" not in first
    again = meter.read()
    assert again["samples_per_s"] == again["tokens_per_s"] == again["mfu"] == 0


def test_skipped_steps_are_told_where_there_can_be_any(tiny_batch):
    assert "skipped" not in Meter(TrainingPlan(), CPU).read()
    meter = Meter(replace(TrainingPlan(), precision="fp16"), CPU)
    for skipped in (True, True, False):
        meter.count(tiny_batch, skipped=skipped)
    assert meter.read()["skipped"] == 2
    assert meter.read()["skipped"] == 0


@pytest.mark.parametrize(
    ("name", "known"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA L4", 121e12), ("NVIDIA L40S", None), ("A100-SXM4-40GB", 312e12)],
)  # fmt: skip
def test_a_gpu_is_known_by_its_whole_name(name, known):
    assert data_sheet(name) == known


def test_no_product_goes_far_beyond_the_peak():
    # A moment may be slow: a wrong count is wrong in each.
    assert any(0.02 < share_of_the_peak() < 1.5 for _ in range(5))


def share_of_the_peak() -> float:
    """What some products reached, of what the machine can do."""
    one = torch.ones(384, 384)
    meter = Meter(TrainingPlan(batch_size=2), CPU)
    with meter.counting():
        one @ one
    meter.read()
    for _ in range(20):
        one @ one
        meter._steps += 1
    values = meter.read()
    reached = values["tflops"] * 1e12
    # The peak is measured once in a process, and that moment may have been slow: the better of then and now.
    peak.cache_clear()
    best = max(reached / values["mfu"], peak(CPU, "fp32", 1))
    return reached / best
