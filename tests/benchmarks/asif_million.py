"""ASIF at a million anchors: what it takes to hold them, to find a query's 800 nearest, and to compare two descriptions.

The peer is the published procedure, written here: one product with all anchors, topk, and descriptions unfolded. Features
are random: how long it takes does not depend on them, and which encoder made them is no part of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from clip_peers import CONFIG
from prefix_writer import GPT2
from torch import Tensor
from torch.nn import functional as F
from turns import aim, cpu_s, in_turns, peak_mb, ratio, settle, table

from components.models.anchors import in_order, rows_of
from components.models.asif import Asif, AsifConfig
from components.models.causal_lm import CausalLm
from components.models.clip import Clip
from components.models.parts import Origin, Part
from components.models.relative import Relative

WIDTH = 512


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--anchors", type=int, default=1_000_000)
    asked.add_argument("--queries", type=int, default=250)
    asked.add_argument("--k", type=int, default=800)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    settle()
    torch.manual_seed(0)
    model = empty(given.k)
    build(model, given.anchors)
    nearest(model, given.queries, given.rounds)
    compare(given.anchors, min(given.queries, 100), given.k, given.rounds)


def empty(k: int) -> Asif:
    """Without anchors, by the paper's settings."""
    origin = Origin(kind="random", name="benchmark")
    modules = {"vision": Clip(CONFIG), "text": CausalLm(GPT2)}
    parts = {
        name: Part(module=module, tokenizer=None, origin=origin) for name, module in modules.items()
    }
    config = AsifConfig(image_px=CONFIG.image_px, k=k, text_by="states", centre=False)
    return Asif(config, parts)


def build(model: Asif, count: int) -> None:
    """What `Asif.build` does once the pairs are encoded."""
    made = {
        "image_anchors": F.normalize(torch.randn(count, WIDTH), dim=1),
        "text_anchors": F.normalize(torch.randn(count, WIDTH), dim=1),
        "ids": torch.randperm(2 * count)[:count],
        "pictures": torch.randint(0, 256, (count, 32), dtype=torch.uint8),
        "captions": torch.zeros(count, model.config.max_tokens, dtype=torch.int64),
    }
    size_mb = sum(each.nbytes for each in made.values()) / 1e6

    def hold() -> None:
        model._hold(**rows_of(in_order(made), torch.randperm(count)))

    memory = peak_mb(hold)
    print(f"\n{count} anchors of two times {WIDTH} numbers, {size_mb:.0f} MB once encoded")
    print(f"  put in order and held: {cpu_s(hold):.1f} s, {memory:.0f} MB beyond them")


def nearest(model: Asif, count: int, rounds: int) -> None:
    """The first half: a query's k nearest anchors."""
    anchors_ND, config = model.image_anchors, model.config
    query_BD = F.normalize(torch.randn(count, WIDTH), dim=1)

    def bare() -> None:
        for block_CD in anchors_ND.split(config.chunk):
            _ = query_BD @ block_CD.T

    def published() -> Tensor:
        return (query_BD @ anchors_ND.T).topk(config.k, dim=1).values

    def ours() -> Tensor:
        return model._nearest(query_BD, "image", config.k)[0]

    found = ours().sort(dim=1, descending=True).values
    torch.testing.assert_close(found, published().clamp(min=0), atol=1e-6, rtol=1e-5)
    print(f"\nthe {config.k} nearest anchors of {count} queries, equal to the published to 1e-6")
    sides = {"published, anchors at length 1": published, "bare product": bare, "ours": ours}
    seconds = in_turns(sides, rounds)
    table(seconds)
    aim("share of the bare product", ratio(seconds["bare product"], seconds["ours"])[0], 0.75)
    memory = {name: peak_mb(run) for name, run in sides.items()}
    print("  memory: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in memory.items()))
    aim("200 MB over ours", 200 / memory["ours"], 1)


def compare(anchors: int, count: int, k: int, rounds: int) -> None:
    """The second half: descriptions of images with descriptions of texts."""
    images, texts = (
        Relative(
            F.normalize(torch.rand(count, k), dim=1),
            torch.stack([torch.randperm(anchors)[:k].sort().values for _ in range(count)]),
            anchors,
        )
        for _ in range(2)
    )
    sides = {
        "unfolded": lambda: images.dense() @ texts.dense().T,
        "sparse": lambda: images.products(texts),
    }
    torch.testing.assert_close(sides["sparse"](), sides["unfolded"](), atol=1e-6, rtol=1e-4)
    print(f"\nscores of {count} x {count} descriptions")
    found = in_turns(sides, rounds)
    table(found)
    aim("ratio", ratio(found["unfolded"], found["sparse"])[0], 10)


if __name__ == "__main__":
    main()
