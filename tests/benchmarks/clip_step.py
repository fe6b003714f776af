"""A CLIP training step beside open_clip's and transformers', from equal weights.

    python tests/benchmarks/clip_step.py [--rows 64] [--rounds 3]

Equal losses are checked first. Prints in fp32 and in bf16 the samples per CPU second of each side, each over open_clip's
with the lowest and highest of the rounds, the memory of a step, and the aims. Needs open_clip, which `make bench` installs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import open_clip_peer
import torch
from clip_peers import CONFIG, sides
from turns import aim, in_turns, matmul_gflops, memory, ratio, settle, table

from components.models.clip import Clip, ClipConfig


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=64)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    if why := open_clip_peer.absent():
        raise SystemExit(why)
    settle()
    params = sum(value.numel() for value in Clip(CONFIG).parameters())
    print(
        f"CLIP of {params / 1e6:.1f} M parameters, B={given.rows}, context 77, 15 tokens on average"
    )
    for bf16 in (False, True):
        measure(given.rows, given.rounds, bf16)


def measure(rows: int, rounds: int, bf16: bool) -> None:
    """One precision."""
    made = sides(rows, bf16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        losses = {name: each.loss().item() for name, each in made.items()}
    allowed = 2e-2 if bf16 else 2e-5
    assert all(abs(value - losses["open_clip"]) < allowed for value in losses.values()), losses
    print(
        f"\n{'bf16' if bf16 else 'fp32'}: losses {', '.join(f'{value:.5f}' for value in losses.values())}"
    )
    steps = {name: each.steps() for name, each in made.items()}
    found = in_turns(steps, rounds)
    table(found, unit="samples/s", per_s=rows)
    memory("memory of a step", steps)
    faster = {name: ratio(found["open_clip"], seconds)[0] for name, seconds in found.items()}
    aim("ours over open_clip", faster["ours"], 1.3 if bf16 else 1.5)
    aim("ours, text not cut, over open_clip", faster["ours, text not cut"], 1.05)
    over = ratio(found["transformers"], found["ours, text not cut"])[0]
    aim("ours, text not cut, over transformers", over, 1.05)
    if not bf16:
        seconds = sorted(found["ours, text not cut"])[rounds // 2]
        share = rows * flops(CONFIG) / seconds / matmul_gflops() / 1e9
        aim("ours, text not cut, share of the measured matmul", share, 0.55)


def flops(config: ClipConfig) -> float:
    """Of our step, per sample, with the whole context of a text; each last block makes the keys and values of all tokens,
    and the rest of one.
    """
    saved = 0.0
    for tokens, width, _ in _towers(config):
        saved += 20 * (tokens - 1) * width**2 + 4 * (tokens - 1) * tokens * width
    return whole_flops(config) - 3 * saved


def whole_flops(config: ClipConfig) -> float:
    """Of a step that computes every token of every block, per sample: three times the forward's products."""
    patches = (config.image_px // config.patch_px) ** 2
    forward = 2.0 * patches * 3 * config.patch_px**2 * config.vision_width
    for tokens, width, layers in _towers(config):
        forward += layers * (24 * tokens * width**2 + 4 * tokens**2 * width)
    return 3 * forward


def _towers(config: ClipConfig) -> tuple[tuple[int, int, int], ...]:
    patches = (config.image_px // config.patch_px) ** 2
    return (
        (patches + 1, config.vision_width, config.vision_layers),
        (config.max_tokens, config.text_width, config.text_layers),
    )


if __name__ == "__main__":
    main()
