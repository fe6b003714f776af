"""Detections on a picture: the right places, names without markup, and nothing below the threshold."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from components.abilities import Detections
from components.evaluation.drawing import SIDE_PX, draw_detections


def found(*boxes, scores=None, classes=None) -> Detections:
    return Detections(
        boxes_N4=torch.tensor(boxes).view(-1, 4),
        scores_N=torch.tensor(scores or [0.9] * len(boxes)),
        classes_N=torch.tensor(classes or [0] * len(boxes)),
    )


def read(png: bytes) -> np.ndarray:
    with Image.open(BytesIO(png), formats=["PNG"]) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


WHITE = Image.new("RGB", (64, 64), "white")


def test_a_box_is_drawn_at_its_place_in_the_enlarged_picture() -> None:
    drawn = read(draw_detections(WHITE, found([16.0, 24.0, 48.0, 56.0]), ["fox"], image_px=64))
    assert drawn.shape == (SIDE_PX, SIDE_PX, 3)
    changed = (drawn != 255).any(axis=-1)
    rows, columns = np.nonzero(changed)
    scale = SIDE_PX / 64
    assert columns.min() == 16 * scale and abs(columns.max() - 48 * scale) <= 3
    assert abs(rows.max() - 56 * scale) <= 3
    assert not changed[int(30 * scale) : int(50 * scale), int(20 * scale) : int(44 * scale)].any()


def test_nothing_below_the_threshold_is_drawn() -> None:
    faint = found([16.0, 24.0, 48.0, 56.0], scores=[0.2])
    assert (read(draw_detections(WHITE, faint, ["fox"], image_px=64)) == 255).all()
    shown = draw_detections(WHITE, faint, ["fox"], image_px=64, at_least=0.1)
    assert (read(shown) != 255).any()


def test_the_middle_square_of_a_wide_picture_is_what_was_searched() -> None:
    wide = Image.new("RGB", (128, 64), "white")
    wide.paste("black", (0, 0, 32, 64))
    drawn = read(draw_detections(wide, found(), [], image_px=64))
    assert drawn.shape == (SIDE_PX, SIDE_PX, 3)
    assert (drawn[:, 8:] == 255).all()


def test_two_classes_have_two_colours() -> None:
    both = found([4.0, 30.0, 20.0, 60.0], [40.0, 30.0, 60.0, 60.0], classes=[0, 1])
    drawn = read(draw_detections(WHITE, both, ["fox", "<b>cat</b>"], image_px=64))
    left, right = drawn[450, 4 * 8 + 1], drawn[450, 40 * 8 + 1]
    assert not (left == right).all()


def test_a_class_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no label"):
        draw_detections(WHITE, found([1.0, 1.0, 9.0, 9.0], classes=[3]), ["fox"], image_px=64)
