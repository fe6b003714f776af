"""Scores on the way to a person, as a table, and to a program, as one JSON object."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from flows.scoring.scored import Scored
from flows.terminal import plain, say

WIDTH = 80
"""Characters of the widest table."""


def show(scored: Scored) -> None:
    """The table, and below it what the numbers stand on."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", box=box.SIMPLE_HEAD)
    table.add_column("value", justify="right")
    if scored.intervals:
        table.add_column("95 % interval", justify="right")
    table.add_column("off the reference by", justify="right")
    for column in scored.choice.columns:
        cells = [column.shown, f"{scored.corpus[column.name]:.6f}"]
        if scored.intervals:
            low, high = scored.intervals[column.name]
            cells.append(f"{low:.4f} … {high:.4f}")
        table.add_row(*cells, _parity(scored, column.shown))
    console = Console(highlight=False)
    # In a narrower terminal lines break, and no number loses its end.
    console.width = max(console.width, WIDTH) if sys.stdout.isatty() else WIDTH
    console.print(table)
    for line in _notes(scored):
        say(plain(line))


def _parity(scored: Scored, shown: str) -> str:
    found = scored.certificate.metrics.get(shown) if scored.certificate else None
    if found is None:
        return "-"
    return f"{found.deviation:.0e}" if found.passed else f"{found.deviation:.0e}, DIFFERS"


def _notes(scored: Scored) -> Iterator[str]:
    pairs = scored.pairs
    references = sum(map(len, pairs.references))
    yield f"{len(pairs.ids)} images, {references} references, coverage {pairs.coverage:.2%}"
    if pairs.without_candidate:
        yield f"left out: {len(pairs.without_candidate)} images without a candidate"
    if pairs.without_reference:
        yield f"left out: {len(pairs.without_reference)} candidates without a reference"
    if weighed := frequencies(scored):
        mode = (
            "these references" if weighed["mode"] == "corpus" else f"saved {weighed['digest'][:12]}"
        )
        yield f"CIDEr's document frequencies: {mode}, {weighed['images']} images"
    if scored.intervals:
        yield f"intervals: {scored.request.resamples} bootstrap draws of images, seed {scored.request.seed}"
    for name, why in scored.choice.left_out.items():
        yield f"not computed: {name}: {why}"
    if scored.certificate is not None:
        yield f"certificate {scored.certificate.id} (`diptych metrics certify`)"
    else:
        yield "no certificate: the golden corpus is not in this checkout"


def show_images(scored: Scored) -> None:
    """A line an image, between tabs, to be cut and sorted by other tools."""
    rows = scored.scores.per_image()
    say("\t".join(["image_id", *(column.shown for column in scored.choice.columns)]))
    for place, image in enumerate(scored.pairs.ids):
        values = (f"{rows[column.name][place]:.6f}" for column in scored.choice.columns)
        print("\t".join([plain(image), *values]))


def to_dict(scored: Scored) -> dict[str, Any]:
    """Everything, as JSON can hold it: numbers as the reference programmes scale them."""
    shown = {column.name: column.shown for column in scored.choice.columns}
    rows = {name: values.tolist() for name, values in scored.scores.per_image().items()}
    return {
        "n": len(scored.pairs.ids),
        "corpus": {title: scored.corpus[name] for name, title in shown.items()},
        "intervals": {
            title: list(scored.intervals[name]) for name, title in shown.items() if scored.intervals
        },
        "per_image": {
            image: {title: rows[name][place] for name, title in shown.items()}
            for place, image in enumerate(scored.pairs.ids)
        },
        "certificates": {title: _certificate(scored, title) for title in shown.values()},
        "coverage": {
            "share": scored.pairs.coverage,
            "without_candidate": list(scored.pairs.without_candidate),
            "without_reference": list(scored.pairs.without_reference),
        },
        "document_frequencies": frequencies(scored),
        "bootstrap": {"resamples": scored.request.resamples, "seed": scored.request.seed},
        "not_computed": scored.choice.left_out,
    }


def _certificate(scored: Scored, shown: str) -> dict[str, Any] | None:
    """None for what no reference programme prints, and where there is no golden corpus."""
    parity = scored.certificate.metrics.get(shown) if scored.certificate else None
    if scored.certificate is None or parity is None:
        return None
    return {
        "id": scored.certificate.id,
        "largest_deviation": parity.deviation,
        "tolerance": parity.tolerance,
        "passed": parity.passed,
    }


def frequencies(scored: Scored) -> dict[str, Any] | None:
    """What CIDEr weighed words by; None where it was not asked for."""
    found = scored.scores.statistics.get("cider")
    if found is None:
        return None
    own = found.frequencies == "references"
    return {
        "mode": "corpus" if own else "saved",
        "images": found.frequency_images,
        "digest": _digest(scored) if own else found.frequencies,
    }


def _digest(scored: Scored) -> str:
    """sha256 of the references, as what was counted."""
    digest = hashlib.sha256()
    for several in scored.pairs.references:
        digest.update(json.dumps(several).encode() + b"\n")
    return digest.hexdigest()
