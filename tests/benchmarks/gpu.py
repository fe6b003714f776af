"""What one GPU does with our CLIP and our decoders beside transformers' in the same run; needs torch and transformers alone.

    python tests/benchmarks/gpu.py            on a GPU, in less than 8 minutes
    python tests/benchmarks/gpu.py --tiny     anywhere, in seconds: that it runs, not how fast

Prints samples/s, MFU and peak memory of a training step of each side, ms of the contrastive loss, captions/s, and each over
transformers'. Seconds are of the wall, between synchronisations; sides turn about. MFU is of the products that a side really
computes, against the bf16 matmul measured at the start.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from clip_peers import Stepper, batch_of, normalised, transformers_clip, uncut
from clip_step import flops, whole_flops
from prefix_writer import GPT2, PrefixWriter, prefixes
from torch import Tensor
from torch.nn import functional as F
from turns import in_turns, ratio

from components.decoding.beam import beam
from components.decoding.greedy import greedy
from components.models.clip import Clip, ClipConfig
from components.objectives.contrastive import info_nce

TINY = ClipConfig(
    vision="vit", image_px=32, patch_px=16, vision_width=32, vision_layers=2, vision_heads=2,
    max_tokens=48, text_width=32, text_layers=2, text_heads=2, embed_width=16, vocab_size=64,
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--tiny", action="store_true")
    given = asked.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        raise SystemExit("No GPU here; --tiny tries the script on a CPU.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    began_s = time.monotonic()
    peak = matmul_flops(device, 256 if given.tiny else 8192)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}; bf16 matmul {peak / 1e12:.3g} TFLOP/s")
    train(
        TINY if given.tiny else ClipConfig.small(),
        32 if given.tiny else 1024,
        device,
        peak,
        given.tiny,
    )
    loss(512 if given.tiny else 65_536, 32 if given.tiny else 768, device, peak)
    caption(device, given.tiny)
    print(f"\nall of it took {time.monotonic() - began_s:.0f} s")


def train(config: ClipConfig, rows: int, device: str, peak: float, tiny: bool) -> None:
    """A training step in bf16: forward, loss, backward, fused AdamW."""
    print(f"\nCLIP step, B={rows}, bf16, context {config.max_tokens}, 15 tokens on average")
    torch.manual_seed(0)
    batch, ours = batch_of(rows, config, device), Clip(config).to(device)
    whole = Clip(config).to(device)
    whole.load_state_dict(ours.state_dict())
    hub = transformers_clip(ours).to(device)
    pixels = normalised(batch, ours)

    def theirs(model: Any) -> Tensor:
        found = model(input_ids=batch.tokens_BT, pixel_values=pixels, return_loss=True)
        return found.loss

    made = {
        "transformers": Stepper(hub, lambda: theirs(hub), bf16=True),
        "ours, text not cut": Stepper(whole, lambda: whole.loss(uncut(batch)).total, bf16=True),
        "ours": Stepper(ours, lambda: ours.loss(batch).total, bf16=True),
    }
    work = {
        "transformers": whole_flops(config),
        "ours, text not cut": flops(config),
        "ours": flops(replace(config, max_tokens=17)),
    }
    if not tiny:
        other = transformers_clip(ours).to(device)
        compiled = torch.compile(other)
        made["transformers, compiled"] = Stepper(other, lambda: theirs(compiled), bf16=True)
        work["transformers, compiled"] = whole_flops(config)
    with torch.autocast(device, dtype=torch.bfloat16):
        losses = {side: each.loss().item() for side, each in made.items()}
    print("  losses " + ", ".join(f"{side} {value:.4f}" for side, value in losses.items()))
    assert max(losses.values()) - min(losses.values()) < 0.05, losses
    steps = {side: each.steps() for side, each in made.items()}
    found = timed(steps, device, rounds=2 if tiny else 10)
    for side, seconds in found.items():
        rate = rows / statistics.median(seconds)
        mfu = rate * work[side] / peak
        print(
            f"  {side:28}{rate:10.1f} samples/s  MFU {mfu:6.1%}  peak {peak_mb(steps[side], device)}"
        )
    over(found, "transformers")


def loss(rows: int, width: int, device: str, peak: float) -> None:
    """The contrastive loss alone; a whole matrix of logits beside it only where it fits easily."""
    image, text = F.normalize(torch.randn(2, rows, width, device=device), dim=-1)
    torch.set_float32_matmul_precision("high")

    def run() -> None:
        leaves = [each.clone().requires_grad_() for each in (image, text)]
        info_nce(*leaves, 50.0).backward()

    seconds = statistics.median(timed({"ours": run}, device, rounds=3)["ours"])
    share = 3 * 2 * rows**2 * width / seconds / peak
    print(f"\ninfo_nce, N={rows}, D={width}, TF32 products: {1000 * seconds:.1f} ms, "
          f"{share:.1%} of three bf16 products, peak {peak_mb(run, device)}")  # fmt: skip
    torch.set_float32_matmul_precision("highest")


def caption(device: str, tiny: bool) -> None:
    """Captions of 20 tokens by a GPT-2 of 45 M parameters; identical captions are counted, as bits of ties may differ."""
    config = (
        replace(
            GPT2, width=32, layers=2, heads=2, vocab_size=300, eos_id=299, bos_id=299, pad_id=299
        )
        if tiny
        else GPT2
    )
    writer = PrefixWriter(config).to(device)
    for rows in (1, 4) if tiny else (1, 64):
        inputs = prefixes(rows, config.width).to(device)
        mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=device)

        def generate(beams: int, inputs: Tensor = inputs, mask: Tensor = mask) -> list[list[int]]:
            written: Tensor = writer.lm.model.generate(
                inputs_embeds=inputs, attention_mask=mask, max_new_tokens=20, min_new_tokens=20,
                num_beams=beams, do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            return written.tolist()

        for search, beams, ours in (("greedy", 1, greedy), ("beam 5", 5, beam)):
            sides = {
                "transformers": lambda beams=beams, generate=generate: generate(beams),
                "ours": lambda ours=ours, inputs=inputs: ours(
                    writer, inputs, eos_id=-1, max_tokens=20
                ),
            }
            theirs, mine = (side() for side in sides.values())
            same = sum(one == other for one, other in zip(theirs, mine, strict=True))
            found = timed(sides, device, rounds=1 if tiny else 3)
            rates = ", ".join(
                f"{side} {rows / statistics.median(each):.1f}" for side, each in found.items()
            )
            print(
                f"\n{search}, {rows} at once: {same} of {rows} captions identical; captions/s: {rates}"
            )
            over(found, "transformers")


def timed(
    sides: Mapping[str, Callable[[], Any]], device: str, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each side in each round, after two that do not count."""
    return in_turns(sides, rounds, partial(wall_s, device=device), unseen=2)


def wall_s(run: Callable[[], Any], device: str) -> float:
    synchronise(device)
    began_s = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - began_s


def over(found: Mapping[str, list[float]], peer: str) -> None:
    """Each side's rate over the peer's, round by round."""
    for side, seconds in found.items():
        if side != peer:
            median, least, most = ratio(found[peer], seconds)
            print(f"    {side} over {peer}: {median:.2f} [{least:.2f}–{most:.2f}]")


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_mb(run: Callable[[], Any], device: str) -> str:
    """Device memory that a turn needs beyond what is held before it."""
    if device != "cuda":
        return "not measured"
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return f"{(torch.cuda.max_memory_allocated() - before) / 1e6:.0f} MB"


def matmul_flops(device: str, side: int) -> float:
    """FLOP/s of one bf16 product, the best of ten."""
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    seconds = timed({"matmul": lambda: a @ b}, device, rounds=10)["matmul"]
    return 2 * side**3 / min(seconds)


if __name__ == "__main__":
    main()
