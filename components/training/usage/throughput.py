"""How fast a training goes and what it takes: samples, tokens, arithmetic, memory and processor time since the last report.

Nothing here asks a GPU anything between reports.
"""

from __future__ import annotations

import functools
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from components.objectives.workers import workers
from components.records import Batch
from components.training.plan import TrainingPlan

PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L4": 121e12, "V100": 125e12}
"""Dense 16-bit multiply-adds of a GPU by its data sheet, as FLOP/s."""


class Meter:
    """Counts steps; `read` gives rates since the last reading."""

    def __init__(self, plan: TrainingPlan, device: torch.device) -> None:
        self._plan, self._device = plan, device
        self._flops = 0.0
        self._steps = self._tokens = self._skipped = 0
        self._since_s, self._cpu_since_s = time.monotonic(), time.process_time()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Around the first step's passes: what they multiply is taken for what each step does."""
        if self._flops:
            yield
            return
        with _Flops() as counted:
            yield
        self._flops = counted.total

    def count(self, batch: Batch, *, skipped: bool) -> None:
        """One more step. batch: this worker's, still on the CPU."""
        self._steps += 1
        self._skipped += skipped
        self._tokens += int(batch.lengths_B.sum())

    def read(self) -> dict[str, float]:
        """`samples_per_s` and `tokens_per_s` of all workers, padding not counted; `tflops` and `mfu` of this one: what it
        multiplies, in 10^12 FLOP/s and as a share of what the device can; `cpu_s`, peak `memory_mb` and `gpu_memory_mb`;
        with fp16 `skipped` steps."""
        now_s, cpu_now_s = time.monotonic(), time.process_time()
        spent_s = max(now_s - self._since_s, 1e-9)
        rate = self._flops * self._steps / spent_s
        values = {
            "samples_per_s": self._steps * self._plan.batch_size / spent_s,
            "tokens_per_s": self._tokens * workers() / spent_s,
            "tflops": rate / 1e12,
            "mfu": rate / peak(self._device, self._plan.precision, self._plan.threads),
            "cpu_s": cpu_now_s - self._cpu_since_s,
            "memory_mb": _peak_memory_mb(),
        }
        if self._device.type == "cuda":
            values["gpu_memory_mb"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        if self._plan.precision == "fp16":
            values["skipped"] = self._skipped
        self._steps = self._tokens = self._skipped = 0
        # Read again: measuring the peak, once in a process, is no training.
        self._since_s, self._cpu_since_s = time.monotonic(), time.process_time()
        return values


def data_sheet(name: str) -> float | None:
    """FLOP/s of a GPU by the name its driver gives it, as "NVIDIA A100-SXM4-40GB"; None for one we do not know."""
    words = re.split(r"[ -]", name)
    return next((value for each, value in PEAKS.items() if each in words), None)


@functools.cache
def peak(device: torch.device, precision: str, threads: int) -> float:
    """FLOP/s that MFU is a share of: a known GPU's data sheet, else the best of a few products of square matrices here.

    `fp32` on a GPU, and every CPU, are measured: data sheets speak of 16 bits, and of clocks that a CPU does not keep.
    threads: those it is measured with, which torch is set to already.
    """
    if device.type == "cuda" and precision != "fp32":
        known = data_sheet(torch.cuda.get_device_name(device))
        if known:
            return known
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    side = 4096 if device.type == "cuda" else 512
    square = torch.ones(side, side, dtype=dtype, device=device)
    return 2 * side**3 / min(_timed_s(square) for _ in range(4))


def _timed_s(square: torch.Tensor) -> float:
    begun_s = time.perf_counter()
    torch.mm(square, square)
    if square.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun_s


class _Flops(TorchDispatchMode):
    """Adds up what torch's own counter knows of, and the attention it does not know on CPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
            self.total += sdpa_flop_count(*(each.shape for each in args[:3]))
        elif packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
            # Five products in place of two.
            self.total += 2.5 * sdpa_flop_count(*(each.shape for each in args[1:4]))
        return out


def _peak_memory_mb() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return used / 2**20 if sys.platform == "darwin" else used / 2**10
