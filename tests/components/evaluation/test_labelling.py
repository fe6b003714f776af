"""Labelling by pairs: a model that knows names every image, one that does not see gets nothing for ties."""

from __future__ import annotations

import pytest
import torch

from components.data.batches import load_split
from components.evaluation.labelling import labelling, score_labels
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.records import BatchSpec


class Knowing:
    """Scores a label by whether it is the image's own; images come by their keys."""

    def __init__(self, subject_images, tokenizer, *, sees: bool = True) -> None:
        self.label = {row.key: row.sample.label for row in subject_images.rows}
        self.tokenizer, self.sees, self.passes = tokenizer, sees, 0

    def batch_spec(self) -> BatchSpec:
        return BatchSpec(image_px=32, max_tokens=16)

    def match(self, pixels, tokens, lengths, keys=None) -> torch.Tensor:
        self.passes += len(tokens)
        texts = [self.tokenizer.decode(row) for row in tokens.tolist()]
        pairs = zip(texts, keys.tolist(), strict=True)
        return torch.tensor(
            [float(self.sees and text == self.label[key // 2]) for text, key in pairs]
        )


@pytest.fixture
def subject(tiny_shards, tiny_tokenizer):
    def make(*, sees: bool = True, **plan) -> Subject:
        images, train = (load_split(tiny_shards, split, 32) for split in ("test", "train"))
        model = Knowing(images, tiny_tokenizer, sees=sees)
        return Subject(
            model=model, tokenizer=tiny_tokenizer, images=images, train=train,
            plan=EvaluationPlan(**plan),
        )  # fmt: skip

    return make


def test_a_model_that_knows_names_every_image_and_is_lost_on_others(subject) -> None:
    knowing = subject()
    values = labelling(knowing)
    labels = {row.sample.concept for row in knowing.images.rows}
    assert values["match_zero_shot_accuracy"] == 1.0
    assert values["image_blind/match_zero_shot_accuracy"] < 0.5
    assert values["chance/match_zero_shot_accuracy"] == 1 / len(labels)
    assert knowing.model.passes == len(labels) * len(knowing.images.rows)


def test_equal_scores_name_nothing(subject) -> None:
    assert labelling(subject(sees=False))["match_zero_shot_accuracy"] == 0.0


def test_scores_stand_an_image_a_row_and_a_label_a_column(subject) -> None:
    knowing = subject()
    labels = [row.sample.label for row in knowing.images.rows]
    scores = score_labels(knowing, [3, 0], labels)
    wanted = torch.tensor([[float(label == labels[at]) for label in labels] for at in (3, 0)])
    assert torch.equal(scores, wanted)


def test_a_plan_without_lists_leaves_it_out(subject) -> None:
    silent = subject(match_lists=0)
    assert labelling(silent) == {}
    assert silent.model.passes == 0


def test_many_labels_mean_fewer_images(subject, monkeypatch) -> None:
    knowing = subject()
    labels = len({row.sample.concept for row in knowing.images.rows})
    monkeypatch.setattr("components.evaluation.labelling.MOST_PAIRS", 3 * labels + 1)
    labelling(knowing)
    assert knowing.model.passes == 3 * labels
