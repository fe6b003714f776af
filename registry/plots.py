"""Pictures of a run, as PNG bytes: its curves, its numbers beside their controls, and what it says of images.

Drawn on figures of their own (no pyplot), so that threads and servers may draw at once. One look for all.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from components.records import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#22313a", "#6b7c86", "#e3e8eb"
RIGHT, WRONG = "#2f855a", "#b83b3b"
COLOURS = {
    "model": "#1f6f8b",
    "image_blind": "#e09f3e",
    "nearest_pixels": "#9fb3bd",
    "most_frequent": "#c3cfd5",
    "chance": "#dfe6ea",
}
"""The model stands out, the control that should be far below it is warm, the trivial baselines are pale."""
LINES = ("#1f6f8b", "#e09f3e", "#7a5195", "#2f855a", "#b83b3b")
DPI = 110
_COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image of a sample sheet: what was written, what would be right, and whether it is."""

    image: bytes
    """Encoded PNG, JPEG or WebP."""
    caption: str
    references: Sequence[str]
    right: bool


def loss_curve(
    points: Iterable[tuple[int, Mapping[str, float]]], names: Sequence[str] = ("loss",)
) -> bytes:
    """Values over steps; `points` are (step, values) as training reports them, `names` what to draw of them.

    Raises ValueError if none of the names was reported: an empty picture would look like a result.
    """
    reported = list(points)
    series = {name: _series(reported, name) for name in names}
    drawn = {name: rows for name, rows in series.items() if rows}
    if not drawn:
        raise ValueError(f"No report holds {', '.join(names)}; there is nothing to draw.")
    figure, axes = _page(7.2, 3.8, "Training")
    for (name, rows), colour in zip(drawn.items(), LINES * len(drawn), strict=False):
        steps, values = zip(*rows, strict=True)
        axes.plot(steps, values, color=colour, linewidth=1.8, label=name)
        axes.annotate(
            f"{values[-1]:.3g}", (steps[-1], values[-1]), xytext=(6, 0), textcoords="offset points",
            color=colour, va="center", fontsize=9,
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    _legend(axes)
    return _png(figure)


def metric_bars(report: Report, metrics: Sequence[str], title: str = "") -> bytes:
    """Each metric of the model beside its control and baselines; what was not measured has no bar."""
    shown = [name for name in metrics if name in report.values]
    if not shown:
        raise ValueError(
            f"The report holds none of {', '.join(metrics)}; there is nothing to draw."
        )
    return _bars(report, shown, title or f"{report.split}: {report.count} images", shown)


def recall_bars(report: Report) -> bytes:
    """Recall at 1, 5 and 10, image to text and text to image, beside the control and chance."""
    shown = [
        (f"{way}_r{k}", f"{way.replace('_to_', ' → ')}\nR@{k}")
        for way in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
        if f"{way}_r{k}" in report.values
    ]
    if not shown:
        raise ValueError("The report holds no recall; only a family that embeds has one.")
    title = f"Retrieval on {report.split}: {report.count} images"
    return _bars(report, [name for name, _ in shown], title, [tick for _, tick in shown])


def sample_sheet(samples: Sequence[Shown], title: str = "What it says") -> bytes:
    """Images with the written caption, right ones and wrong ones told apart by sign and colour, and a reference."""
    if not samples:
        raise ValueError("No samples were given; there is nothing to draw.")
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.95 * rows + 0.5), dpi=DPI, facecolor="white")
    right = sum(sample.right for sample in samples)
    figure.suptitle(
        f"{title}   ({right} of {len(samples)} right)", x=0.02, ha="left", color=INK, fontsize=13
    )
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for cell, sample in zip(cells, samples, strict=False):
        _cell(cell, sample)
    for cell in cells[len(samples) :]:
        cell.set_axis_off()
    figure.tight_layout(h_pad=2.2, rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))
    return _png(figure)


def _bars(report: Report, names: Sequence[str], title: str, ticks: Sequence[str]) -> bytes:
    columns = [
        column for column in COLOURS if any(_key(column, name) in report.values for name in names)
    ]
    figure, axes = _page(max(5.5, 1.35 * len(names) + 1.5), 3.9, title)
    width = 0.82 / len(columns)
    for place, column in enumerate(columns):
        found = [
            (index, report.values[_key(column, name)])
            for index, name in enumerate(names)
            if _key(column, name) in report.values
        ]
        at = [index + (place - (len(columns) - 1) / 2) * width for index, _ in found]
        heights = [value for _, value in found]
        label = column.replace("_", " ")
        bars = axes.bar(at, heights, width * 0.92, color=COLOURS[column], label=label)
        colour = INK if column == "model" else FAINT
        axes.bar_label(bars, [f"{value:.2f}" for value in heights], fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), ticks)
    axes.margins(y=0.14)
    _legend(axes, columns=len(columns))
    return _png(figure)


def _cell(cell: Axes, sample: Shown) -> None:
    from components.data.transforms import read_picture

    picture = read_picture(sample.image)
    picture.thumbnail((160, 160))
    cell.imshow(picture)
    cell.set_xticks([])
    cell.set_yticks([])
    colour = RIGHT if sample.right else WRONG
    for spine in cell.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.6)
    said = _wrapped(f"{'✓' if sample.right else '✗'} {sample.caption or '(nothing)'}")
    meant = _wrapped("reference: " + (" · ".join(sample.references) or "none"), 34)
    # Captions are data: a "$" in one is a dollar, not mathematics.
    cell.set_title(said, fontsize=9, color=colour, loc="left", parse_math=False)
    cell.text(
        0, -0.04, meant, transform=cell.transAxes, va="top", fontsize=8, color=FAINT, parse_math=False
    )  # fmt: skip


def _page(width_in: float, height_in: float, title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="tight", facecolor="white")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=INK, fontsize=12, pad=26, parse_math=False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=0)
    axes.xaxis.label.set_color(FAINT)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    return figure, axes


def _legend(axes: Axes, columns: int = 5) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, frameon=False, fontsize=8.5,
        labelcolor=INK, handlelength=1.0, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def _series(
    points: Sequence[tuple[int, Mapping[str, float]]], name: str
) -> list[tuple[int, float]]:
    return [(step, values[name]) for step, values in points if name in values]


def _key(column: str, name: str) -> str:
    return name if column == "model" else f"{column}/{name}"


def _wrapped(text: str, letters: int = 30, lines: int = 2) -> str:
    clean = "".join(letter for letter in text[:400] if letter.isprintable())
    return "\n".join(textwrap.wrap(clean, letters, max_lines=lines, placeholder=" …"))


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    # No software name or date inside: equal numbers make equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
