"""A JPEG picture to 224 px a core: ours beside plain Pillow, and Pillow where the file's own scaling (`draft`) does the most.

Draft reads a file at a half, a quarter or an eighth of its size, as near above 224 as there is: other pixels come out of
it, and how far off they are is printed beside what it saves.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from PIL import Image
from turns import aim, in_turns, peak_mb, ratio, settle, table

from components.data.transforms import decode

SIDE = 224


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--files", type=int, default=32)
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    settle()
    random = np.random.default_rng(0)
    for size in ((500, 375), (1600, 1200)):
        measure([jpeg(size, random) for _ in range(given.files)], size, given.rounds)


def jpeg(size: tuple[int, int], random: np.random.Generator) -> bytes:
    """Soft colours under grain, of quality 90: about as many bytes as a photograph of 500 x 375 has."""
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    soft = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32)
    grain = random.normal(0, 10, (*soft.shape[:2], 1))
    out = io.BytesIO()
    Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def measure(files: list[bytes], size: tuple[int, int], rounds: int) -> None:
    """Pictures of one size."""
    sides = {
        "Pillow": lambda: np.stack([plain(each, draft=False) for each in files]),
        "Pillow, draft": lambda: np.stack([plain(each, draft=True) for each in files]),
        "ours": lambda: np.stack([decode(each, SIDE) for each in files]),
    }
    made = {name: run() for name, run in sides.items()}
    assert np.array_equal(made["ours"], made["Pillow"])
    off = np.abs(made["Pillow, draft"].astype(int) - made["Pillow"])
    print(
        f"\n{size[0]} x {size[1]}, {sum(map(len, files)) / len(files) / 1000:.0f} kB a file; ours equals Pillow, "
        f"draft is off by {off.mean():.2f} of 255 on average, {off.max()} at most"
    )
    found = in_turns(sides, rounds)
    table(found, unit="images/s", per_s=len(files))
    print("  memory: " + ", ".join(f"{name} {peak_mb(run):.0f} MB" for name, run in sides.items()))
    aim("ours over Pillow", ratio(found["Pillow"], found["ours"])[0], 1.5)


def plain(image: bytes, *, draft: bool) -> np.ndarray:
    """What everybody writes: decode, the centre square, bicubic."""
    picture = Image.open(io.BytesIO(image))
    if draft:
        picture.draft("RGB", (SIDE, SIDE))
    picture = picture.convert("RGB")
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    picture = picture.resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


if __name__ == "__main__":
    main()
