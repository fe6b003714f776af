"""What one answer of a model costs: parameters, multiplications and milliseconds for a single sample."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from components.abilities import Captions, Detects, Embeds, Steers
from components.catalog import DECODERS
from components.data.batches import SplitImages
from components.data.row_boxes import base_classes, in_prompts
from components.data.text import Tokenizer

WARM, TIMED = 2, 10
"""Answers before the clock, and on it."""

WRITTEN = 8
"""Tokens of the caption that is counted and timed."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one sample, on the CPU with the threads torch has now."""

    parameters: int
    """All that are held, frozen parts and ASIF's anchors included; each shared one once."""
    macs: int
    """Multiplications with additions of products and convolutions: half of the operations torch counts."""
    latency_ms: float
    """Median of what it takes of the processor; a clock on the wall would tell how busy the machine is."""


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    counted: int = sdpa_flop_count(query, key, value)
    return counted


_ON_CPUS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""What torch's counter does not know."""


def cost(model: Any, tokenizer: Tokenizer, images: SplitImages) -> Cost:
    """What a model's first ability costs for the first image: a pair embedded, a caption of `WRITTEN` tokens written
    greedily (or steered), objects found, or a pair judged.
    """
    answer = _answer(model, tokenizer, images)
    with _frozen(model), torch.inference_mode():
        for _ in range(WARM):
            answer()
        with FlopCounterMode(display=False, custom_mapping=_ON_CPUS) as counter:
            answer()
        took_s = [_timed(answer) for _ in range(TIMED)]
    return Cost(
        parameters=sum(
            value.numel()
            for value in (*model.parameters(), *model.buffers())
            if value.is_floating_point()
        ),
        macs=counter.get_total_flops() // 2,
        latency_ms=1000 * statistics.median(took_s),
    )


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Torch's counter stumbles over parameters that learn where inference mode is on, as decoders set it."""
    learning = [value for value in model.parameters() if value.requires_grad]
    for value in learning:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in learning:
            value.requires_grad_(True)


def _timed(answer: Callable[[], object]) -> float:
    began_s = time.process_time()
    answer()
    return time.process_time() - began_s


def _answer(model: Any, tokenizer: Tokenizer, images: SplitImages) -> Callable[[], object]:
    # Without keys: a frozen tower would remember the image and cost nothing.
    pixels_1CHW = images.pixels_NCHW[:1]
    spec = model.batch_spec()
    texts = tokenizer.encode([images.rows[0].sample.captions[0]], spec.max_tokens)
    if isinstance(model, Embeds):
        return lambda: (model.embed_images(pixels_1CHW), model.embed_texts(*texts))
    if isinstance(model, Captions):
        decoder = DECODERS["magic" if isinstance(model, Steers) else "greedy"]
        # No id is -1: every model writes as much.
        return lambda: decoder(model, pixels_1CHW, eos_id=-1, max_tokens=WRITTEN)
    if isinstance(model, Detects):
        names = base_classes(images.rows)
        classes = tokenizer.encode(in_prompts(names, spec.prompts), spec.max_tokens)
        base_C = torch.ones(len(names), dtype=torch.bool)
        return lambda: model.detect(pixels_1CHW, *classes, base_C)
    return lambda: model.match(pixels_1CHW, *texts)
