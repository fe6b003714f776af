"""Detections are measured among all names at once, by group of classes, and beside what sees another image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.abilities import Detections
from components.data.batches import SplitImages, load_split
from components.evaluation.detecting import detecting, truth_of, vocabulary
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.records import BatchSpec

NAMES = {f"{name}_{group}" for name in ("ap", "ap50") for group in ("all", "base", "novel")}
PX = 48


class Oracle:
    """Knows each image's boxes by its pixels; `blurs` moves them, `names` says what it calls them."""

    def __init__(self, images: SplitImages, labels, *, moved: float = 0.0, calls=lambda at: at):
        self.asked = []
        truths = zip(images.pixels_NCHW, truth_of(images, labels), strict=True)
        self.known = [(pixels, truth) for pixels, truth in truths]
        self.moved, self.calls = moved, calls

    def batch_spec(self) -> BatchSpec:
        return BatchSpec(image_px=PX, max_tokens=16, boxes=True)

    def detect(self, pixels_BCHW, class_tokens_CT, class_lengths_C, base_C):
        self.asked.append((class_tokens_CT, base_C))
        return [self._find(pixels) for pixels in pixels_BCHW]

    def _find(self, pixels):
        (truth,) = [truth for known, truth in self.known if torch.equal(known, pixels)]
        return Detections(
            boxes_N4=torch.tensor(truth.boxes_N4).view(-1, 4) + self.moved,
            scores_N=torch.ones(len(truth.classes_N)),
            classes_N=torch.tensor([self.calls(at) for at in truth.classes_N], dtype=torch.int64),
        )


@pytest.fixture
def splits(tiny_shards):
    """Training and test drawings at 48 px, the blue ones novel."""

    def made(split: str) -> SplitImages:
        images = load_split(tiny_shards, split, PX)
        rows = [
            replace(
                row,
                sample=replace(
                    row.sample,
                    boxes=tuple(
                        replace(box, novel=box.label.startswith("blue")) for box in row.sample.boxes
                    ),
                ),
            )
            for row in images.rows
        ]
        # Two drawings may be equal pixel by pixel; here each carries its number.
        pixels = images.pixels_NCHW.clone()
        pixels[:, 0, 0, 0] = torch.arange(len(rows), dtype=torch.uint8)
        return replace(images, rows=rows, pixels_NCHW=pixels)

    return {split: made(split) for split in ("train", "test", "test_concept")}


@pytest.fixture
def subject(splits, tiny_tokenizer):
    def make(model_of, split: str = "test") -> Subject:
        images, train = splits[split], splits["train"]
        model = model_of(images, vocabulary(train, images).labels)
        return Subject(
            model=model, tokenizer=tiny_tokenizer, images=images, train=train, plan=EvaluationPlan()
        )

    return make


def test_what_finds_everything_scores_one_in_every_group_and_blind_nearly_nothing(subject) -> None:
    values = detecting(subject(Oracle))
    assert set(values) == {
        prefix + name for prefix in ("", "image_blind/", "chance/") for name in NAMES
    }
    for name in NAMES:
        assert values[name] == pytest.approx(1)
        assert values[f"image_blind/{name}"] < 0.2
        assert values[f"chance/{name}"] < 0.3


def test_the_vocabulary_is_all_names_at_once_base_first(subject, splits) -> None:
    words = vocabulary(splits["train"], splits["test_concept"])
    assert list(words.labels[: words.base]) == sorted(words.labels[: words.base])
    assert not any(label.startswith("blue") for label in words.labels[: words.base])
    # Novel names of the training images are asked for too, and those training never saw.
    assert {"blue cross", "red cross"} <= set(words.labels[words.base :])
    made = subject(Oracle, "test_concept")
    detecting(made)
    tokens_CT, base_C = made.model.asked[0]
    assert len(tokens_CT) == len(base_C) == len(words.labels)
    assert base_C.tolist() == [True] * words.base + [False] * (len(words.labels) - words.base)


def test_a_group_that_no_image_holds_is_left_out(subject) -> None:
    values = detecting(subject(Oracle, "test_concept"))
    assert "ap_novel" in values
    assert "ap_base" not in values


def test_novel_objects_called_base_cost_the_novel_classes_alone_their_recall(subject) -> None:
    def calls_all_base(images, labels):
        blue = {at for at, label in enumerate(labels) if label.startswith("blue")}
        return Oracle(images, labels, calls=lambda at: 0 if at in blue else at)

    values = detecting(subject(calls_all_base))
    assert values["ap_novel"] == 0
    assert 0.8 < values["ap_base"] < 1


def test_boxes_a_little_off_lose_only_the_strict_overlaps(subject) -> None:
    values = detecting(subject(lambda images, labels: Oracle(images, labels, moved=2.0)))
    assert values["ap50_all"] == pytest.approx(1)
    assert values["ap_all"] < 0.8


def test_a_text_branch_of_its_own_gets_a_column(subject) -> None:
    class TwoJudges(Oracle):
        def detect_by_text(self, *asked):
            return [replace(each, scores_N=each.scores_N[:0], boxes_N4=each.boxes_N4[:0],
                            classes_N=each.classes_N[:0]) for each in self.detect(*asked)]  # fmt: skip

    values = detecting(subject(TwoJudges))
    assert values["text_only/ap_all"] == 0
    assert values["ap_all"] == pytest.approx(1)


def test_a_model_with_one_judge_has_no_column_of_its_text_alone(subject) -> None:
    class OneJudge(Oracle):
        detect_by_text = None

    assert not any(name.startswith("text_only/") for name in detecting(subject(OneJudge)))


def test_classes_are_asked_for_in_every_prompt_of_the_model(
    subject, splits, tiny_tokenizer
) -> None:
    class Prompted(Oracle):
        def batch_spec(self) -> BatchSpec:
            return BatchSpec(image_px=PX, max_tokens=16, boxes=True, prompts=("{}", "a {}"))

    made = subject(Prompted)
    assert detecting(made)["ap_all"] == pytest.approx(1)
    tokens, base = made.model.asked[0]
    label = vocabulary(splits["train"], splits["test"]).labels[0]
    assert len(tokens) == 2 * len(base)
    assert [tiny_tokenizer.decode(row) for row in tokens[:2].tolist()] == [label, f"a {label}"]


def test_a_split_without_boxes_is_not_measured(subject) -> None:
    made = subject(Oracle)
    bare = [replace(row, sample=replace(row.sample, boxes=())) for row in made.images.rows]
    assert detecting(replace(made, images=replace(made.images, rows=bare))) == {}


def test_true_boxes_are_in_the_pixels_of_the_decoded_image(splits) -> None:
    images = splits["test"]
    truth = truth_of(images, vocabulary(splits["train"], images).labels)[0]
    (box,) = images.rows[0].sample.boxes
    assert truth.boxes_N4[0] == pytest.approx(
        [side * PX / 32 for side in (box.left_px, box.top_px, box.right_px, box.bottom_px)]
    )
