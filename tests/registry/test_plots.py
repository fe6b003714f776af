"""Plots: pictures of what was measured, never of nothing."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from components.data.transforms import UnreadableImage
from components.records import Report
from registry.plots import (
    COLOURS,
    RIGHT,
    WRONG,
    Shown,
    loss_curve,
    metric_bars,
    recall_bars,
    sample_sheet,
)


def picture(png: bytes) -> Image.Image:
    return Image.open(BytesIO(png)).convert("RGB")


def pixels_of(png: bytes, colour: str) -> int:
    """How many pixels have exactly this colour."""
    wanted = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    counts = {found: count for count, found in picture(png).getcolors(1 << 24)}
    return counts.get(wanted, 0)


def report(**values: float) -> Report:
    return Report(checkpoint_digest="c", shards_digest="s", split="test", count=9, values=values)


def drawing(colour: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (20, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_equal_numbers_make_equal_pictures_and_other_numbers_others():
    points = [(step, {"loss": 1 / step}) for step in range(1, 30)]
    assert loss_curve(iter(points)) == loss_curve(points)
    assert loss_curve(points) != loss_curve(points[:-1])


def test_a_curve_nobody_reported_is_refused_by_name():
    with pytest.raises(ValueError, match="No report holds loss"):
        loss_curve([(1, {"lr": 0.1})])


def test_a_twice_as_high_number_is_a_twice_as_high_bar():
    def bar(value: float) -> int:
        return pixels_of(
            metric_bars(report(cider_d=value, bleu_4=1.0), ["cider_d", "bleu_4"]), COLOURS["model"]
        )

    alone = bar(0.0)
    assert (bar(0.8) - alone) == pytest.approx(2 * (bar(0.4) - alone), rel=0.05)


def test_controls_are_drawn_only_where_they_were_measured():
    plain = metric_bars(report(cider_d=0.8), ["cider_d"])
    controlled = metric_bars(report(**{"cider_d": 0.8, "image_blind/cider_d": 0.2}), ["cider_d"])
    assert pixels_of(plain, COLOURS["image_blind"]) == 0
    assert pixels_of(controlled, COLOURS["image_blind"]) > 100


def test_a_report_without_the_metrics_is_refused():
    with pytest.raises(ValueError, match="none of cider_d"):
        metric_bars(report(bleu_4=0.1), ["cider_d"])
    with pytest.raises(ValueError, match="no recall"):
        recall_bars(report(bleu_4=0.1))


def test_a_sheet_marks_right_and_wrong_and_takes_any_caption():
    hostile = "$5 and $\\frac{1 <script> \x00 \u202e" + "long " * 5000
    good = Shown(image=drawing("red"), caption=hostile, references=["a", "b"], right=True)
    bad = Shown(image=drawing("blue"), caption="", references=[], right=False)
    only_good, both = sample_sheet([good]), sample_sheet([good, bad] * 3)
    assert pixels_of(only_good, RIGHT) > 100
    assert pixels_of(only_good, WRONG) == 0
    assert pixels_of(both, WRONG) > 100
    assert picture(both).width <= 4 * picture(only_good).width + 4


def test_a_sheet_of_nothing_and_a_damaged_image_are_refused():
    with pytest.raises(ValueError, match="No samples"):
        sample_sheet([])
    with pytest.raises(UnreadableImage):
        sample_sheet([Shown(image=b"no", caption="", references=[], right=False)])


def test_recall_bars_show_both_ways():
    both = {f"{way}_r{k}": 0.5 for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    one = {name: value for name, value in both.items() if name.startswith("image")}
    assert picture(recall_bars(report(**both))).width > picture(recall_bars(report(**one))).width
