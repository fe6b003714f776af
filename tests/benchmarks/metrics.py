"""Our caption metrics and the reference programmes, turn about: `make bench-metrics`.

    python tests/benchmarks/metrics.py [--sizes 1000 5000 40504] [--cache .diptych/metrics]

Prints for each number of images the CPU seconds (wall beside them) of every stage on either side, their ratio, peak memory
and by how much the scores differ; then the CPU seconds of the whole command `diptych score` on 1,000 images. The peer is
pycocoevalcap 1.2 with Java, where both are there; nothing else of the project needs either.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from caption_sets import caption_set, unpack

ROOT = Path(__file__).parents[2]
SIDE = Path(__file__).parent / "metrics_side.py"
STAGES = ("tokens", "BLEU + ROUGE-L + CIDEr-D", "METEOR")
ALONE = ("ROUGE-L", "CIDEr-D")
"""The same again, each computed alone; no part of the sum."""
SIZES = (1000, 5000, 40504)
ROUNDS = {1000: 2}
"""Each side's least CPU time of so many turns counts; one turn for more images."""


def main() -> None:
    """Measure and print; exit code 0 with or without a peer."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="images")
    asked.add_argument("--cache", type=Path, default=ROOT / ".diptych" / "metrics")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-metrics-") as temporary:
        folder = Path(temporary)
        absent = unpack(folder)
        if absent:
            print(f"No peer to compare with, ours alone: {absent}")
        for images in given.sizes:
            measure(images, folder, given.cache, with_peer=absent is None)
        cold(folder)


def measure(images: int, folder: Path, cache: Path, *, with_peer: bool) -> None:
    """One size, sides turn about."""
    name, candidates, references = caption_set(images)
    captions = folder / "captions.json"
    captions.write_text(json.dumps([candidates, references]), "utf-8")
    sides = {"ours": cache, "peer": folder} if with_peer else {"ours": cache}
    turns: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(ROUNDS.get(images, 1)):
        for side, where in sides.items():
            turns[side].append(run(side, captions, where))
    count = len(candidates) + sum(map(len, references))
    print(f"\n{len(candidates):,} images, {count:,} captions of {name}")
    print(f"{'CPU seconds (wall)':28} {'ours':>18} {'peer':>18} {'ratio':>7}")
    best = {side: least(found) for side, found in turns.items()}
    shared = [stage for stage in STAGES if all(stage in side for side in best.values())]
    for stage in [*shared, *ALONE]:
        shown = f"{stage} alone" if stage in ALONE else stage
        line(shown, {side: seconds[stage] for side, seconds in best.items()})
    line("all", {side: total(seconds, shared) for side, seconds in best.items()})
    for side, found in turns.items():
        peak = max(turn["peak_mib"] for turn in found)
        before = max(turn["before_mib"] for turn in found)
        said = f", of it {before:.0f} MiB before the first caption" if before else ", Java's beside"
        print(f"peak memory, {side}: {peak:.0f} MiB{said}")
    if with_peer:
        (folder / "cache").write_text(str(cache))
        parity(run("check", captions, folder), turns["peer"][0]["values"])


def run(side: str, captions: Path, where: Path) -> dict:
    """A side in a fresh process, with one thread."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(SIDE), side, str(captions), str(where)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def least(turns: list[dict]) -> dict[str, list[float]]:
    """Each stage's turn of least CPU time."""
    stages = turns[0]["seconds"]
    return {stage: min(turn["seconds"][stage] for turn in turns) for stage in stages}


def total(seconds: dict[str, list[float]], stages: list[str]) -> list[float]:
    return [sum(seconds[stage][part] for stage in stages) for part in (0, 1)]


def line(stage: str, sides: dict[str, list[float]]) -> None:
    cells = [f"{cpu:.3f} ({wall:.2f})" for cpu, wall in sides.values()]
    ratio = f"{sides['peer'][0] / sides['ours'][0]:.1f}" if "peer" in sides else "-"
    print(f"{stage:28} {cells[0]:>18} {(cells[1:] or ['-'])[0]:>18} {ratio:>7}")


def parity(ours: dict, theirs: dict[str, float]) -> None:
    """The peer tokenises all captions in one file and reads on over line ends; so its own tokens are compared."""
    off = {name: abs(value - theirs[name]) for name, value in ours["values"].items()}
    said = ", ".join(f"{name} {by:.0e}" for name, by in off.items())
    print(f"corpus scores of the same tokens differ by {said}")
    print(f"captions that the peer tokenised otherwise than alone: {ours['other_tokens']}")


def cold(folder: Path) -> None:
    """The whole command on 1,000 images in a fresh process, imports and intervals included."""
    _, candidates, references = caption_set(1000)
    files = {
        "c.json": [{"image_id": n, "caption": text} for n, text in enumerate(candidates)],
        "r.json": [{"image_id": n, "captions": some} for n, some in enumerate(references)],
    }
    for name, lines in files.items():
        (folder / name).write_text(json.dumps(lines))
    command = [sys.executable, "-m", "flows.cli", "score", "--candidates", str(folder / "c.json")]
    command += ["--references", str(folder / "r.json")]
    print(
        "\n`diptych score` on 1,000 images, fresh process, CPU seconds, 1,000 bootstrap draws included:"
    )
    for metrics in ("bleu,rouge-l,cider-d", "bleu,rouge-l,cider-d,meteor"):
        least_s = min(_cpu_of([*command, "--metrics", metrics]) for _ in range(2))
        print(f"  {metrics:30} {least_s:.2f}")


def _cpu_of(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
