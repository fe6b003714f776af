"""A report as pictures: which there are follows from what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence

from components.catalog import METRICS
from components.data.shards import read_images, read_manifest
from components.metrics.tokenise import tokenise
from components.records import Captions, Report, Shards
from components.training.progress import Progress
from registry.plots import Shown, loss_curve, metric_bars, recall_bars, sample_sheet

SAMPLES = 24


def pictures(shards: Shards, lines: Sequence[Progress], report: Report) -> dict[str, bytes]:
    """Name -> PNG."""
    shares = [name for name in METRICS if name in report.values and METRICS[name].high == 1.0]
    recalls = [name for name in shares if "_r" in name and METRICS[name].ability == "embeds"]
    made = {"loss": loss_curve([(line.step, line.values) for line in lines])}
    if bars := [name for name in shares if name not in recalls]:
        made["metrics"] = metric_bars(report, bars)
    if recalls:
        made["recall"] = recall_bars(report)
    if report.captions is not None:
        made["samples"] = sample_sheet(samples(shards, report.split, report.captions))
    return made


def samples(shards: Shards, split: str, captions: Captions) -> list[Shown]:
    """Images of a split, evenly taken, with what was written of each."""
    written = {
        line["id"]: line["caption"]
        for line in map(json.loads, captions.path.read_text().splitlines())
    }
    rows = [row for row in read_manifest(shards) if row.sample.split == split]
    taken = rows[:: -(-len(rows) // SAMPLES)]
    return [
        Shown(
            image=image,
            caption=written[row.sample.id],
            references=row.sample.captions,
            right=tokenise(written[row.sample.id])
            in [tokenise(each) for each in row.sample.captions],
        )
        for row, image in zip(taken, read_images(shards, taken), strict=True)
    ]
