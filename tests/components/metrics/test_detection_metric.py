"""COCO's average precision: cases worked by hand, and pycocotools' own numbers on random sets."""

from __future__ import annotations

import numpy as np
import pytest

from components.metrics.detection import MOST, Guess, Truth, overlap, score, statistics
from components.metrics.metric import MetricInputError

BOX = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def one(guess_boxes, scores, truth_boxes, guess_classes=None, truth_classes=None, classes=1):
    guess = Guess(
        boxes_N4=guess_boxes, scores_N=scores, classes_N=guess_classes or [0] * len(scores)
    )
    truth = Truth(boxes_N4=truth_boxes, classes_N=truth_classes or [0] * len(truth_boxes))
    return statistics([guess], [truth], classes)


def random_set(seed: int, images: int = 12, classes: int = 4):
    dice = np.random.default_rng(seed)
    guesses, truths = [], []
    for _ in range(images):
        count = int(dice.integers(0, 5))
        corner, side = dice.uniform(0, 60, (count, 2)), dice.uniform(4, 30, (count, 2))
        boxes, kinds = np.hstack([corner, corner + side]), dice.integers(0, classes, count)
        truths.append(Truth(boxes_N4=boxes, classes_N=kinds))
        # Near copies of the objects, some of another class, and boxes anywhere; scores in tenths, so that many tie.
        near = np.repeat(boxes, 3, axis=0) + dice.normal(0, 2, (3 * count, 4))
        wild = dice.uniform(0, 60, (6, 2))
        found = np.vstack([near, np.hstack([wild, wild + dice.uniform(4, 30, (6, 2))])])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        named = np.concatenate([np.repeat(kinds, 3), dice.integers(0, classes, 6)])
        other = dice.random(len(named)) < 0.2
        named[other] = dice.integers(0, classes, int(other.sum()))
        marks = dice.integers(0, 11, len(named)) / 10
        guesses.append(Guess(boxes_N4=found, scores_N=marks, classes_N=named))
    return guesses, truths


def by_pycocotools(guesses, truths, classes, only=None):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def wide(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    objects = [
        {"image_id": at, "category_id": int(kind), "bbox": wide(box), "iscrowd": 0,
         "area": float((box[2] - box[0]) * (box[3] - box[1]))}
        for at, truth in enumerate(truths, start=1)
        for box, kind in zip(truth.boxes_N4, truth.classes_N, strict=True)
    ]  # fmt: skip
    for number, each in enumerate(objects, start=1):
        each["id"] = number
    there = COCO()
    there.dataset = {
        "images": [{"id": at} for at in range(1, len(truths) + 1)],
        "categories": [{"id": number} for number in range(classes)],
        "annotations": objects,
    }
    there.createIndex()
    found = there.loadRes(
        [
            {"image_id": at, "category_id": int(kind), "bbox": wide(box), "score": float(mark)}
            for at, guess in enumerate(guesses, start=1)
            for box, mark, kind in zip(guess.boxes_N4, guess.scores_N, guess.classes_N, strict=True)
        ]
    )
    judge = COCOeval(there, found, "bbox")
    if only is not None:
        judge.params.catIds = only
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[0], judge.stats[1]


@pytest.mark.parametrize("seed", range(6))
def test_it_equals_pycocotools_on_random_sets(seed: int) -> None:
    guesses, truths = random_set(seed)
    stats = statistics(guesses, truths, 4)
    assert score(stats) == pytest.approx(by_pycocotools(guesses, truths, 4), abs=1e-12)
    assert 0.05 < score(stats)[0] < 0.95, "a set that is neither hopeless nor trivial"


def test_it_equals_pycocotools_on_a_group_of_classes() -> None:
    guesses, truths = random_set(7, classes=6)
    among = np.array([True, False, False, True, True, False])
    found = score(statistics(guesses, truths, 6), among)
    assert found == pytest.approx(by_pycocotools(guesses, truths, 6, only=[0, 3, 4]), abs=1e-12)


def test_only_the_best_hundred_of_a_class_count_in_an_image() -> None:
    dice = np.random.default_rng(0)
    corner = dice.uniform(100, 200, (MOST, 2))
    wrong = np.hstack([corner, corner + 5])
    stats = one(np.vstack([wrong, [BOX]]), [0.9] * MOST + [0.1], [BOX])
    assert score(stats) == (0, 0)
    assert score(one(np.vstack([wrong[:-1], [BOX]]), [0.9] * (MOST - 1) + [0.1], [BOX]))[0] > 0


def test_a_perfect_box_scores_one_and_a_missed_one_nothing() -> None:
    assert score(one([BOX], [0.3], [BOX])) == (pytest.approx(1), pytest.approx(1))
    assert score(one([FAR], [0.3], [BOX])) == (0, 0)
    assert score(one([], [], [BOX])) == (0, 0)


def test_an_overlap_of_0_7_passes_five_of_ten_thresholds() -> None:
    ap, ap50 = score(one([[0, 0, 10, 7]], [1.0], [BOX]))
    assert (ap, ap50) == (pytest.approx(0.5), pytest.approx(1))


def test_a_wrong_detection_before_the_right_one_halves_the_precision() -> None:
    assert score(one([FAR, BOX], [0.9, 0.8], [BOX]))[1] == pytest.approx(0.5)
    assert score(one([FAR, BOX], [0.7, 0.8], [BOX]))[1] == pytest.approx(1)


def test_a_second_box_on_one_object_is_wrong() -> None:
    # One of two objects found, then the same again, then the other: recalls to 0.5 at 1, the rest at 2/3.
    stats = one([BOX, BOX, FAR], [0.9, 0.8, 0.7], [BOX, FAR])
    assert score(stats)[1] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_of_another_class_is_wrong() -> None:
    stats = one([BOX], [0.9], [BOX], guess_classes=[1], truth_classes=[0], classes=2)
    assert score(stats) == (0, 0)


def test_classes_that_do_not_occur_are_left_out_and_none_left_is_refused() -> None:
    stats = one([BOX, FAR], [0.9, 0.8], [BOX], guess_classes=[0, 1], classes=3)
    assert np.isnan(stats.precision_KT[1:]).all()
    assert score(stats)[0] == pytest.approx(1)
    with pytest.raises(MetricInputError, match="No object"):
        score(stats, [False, True, True])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"guess_boxes": [[0, 0, float("nan"), 1]]}, "NaN"),
        ({"scores": [float("nan")]}, "NaN"),
        ({"guess_boxes": [[5, 0, 1, 1]]}, "right or bottom"),
        ({"guess_classes": [3]}, "beyond"),
        ({"scores": [0.1, 0.2], "guess_classes": [0, 0]}, "one of each"),
    ],
)
def test_what_has_no_average_precision_is_refused_by_name(changes, named: str) -> None:
    given = {"guess_boxes": [BOX], "scores": [0.5], "truth_boxes": [BOX], **changes}
    with pytest.raises(MetricInputError, match=named):
        one(**given)


def test_no_images_are_refused() -> None:
    with pytest.raises(MetricInputError, match="at least one image"):
        statistics([], [], 1)


def test_overlap_of_boxes_without_area_is_nothing() -> None:
    flat = np.array([[0.0, 0.0, 0.0, 5.0]])
    assert overlap(flat, flat).tolist() == [[0.0]]
