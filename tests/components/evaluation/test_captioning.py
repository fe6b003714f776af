"""Captions are written once, belong to their images, and are scored beside their control and baselines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.catalog import METRICS
from components.data.batches import load_split
from components.decoding import revision
from components.decoding.revision import code_revision
from components.evaluation import captioning as captioning_module
from components.evaluation.captioning import (
    captions_key,
    columns,
    most_frequent,
    nearest_captions,
    read_captions,
    score_captions,
    score_columns,
    write_captions,
)
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.metrics import material
from components.records import Captions, Checkpoint


@pytest.fixture
def subject(tiny_shards, tiny_tokenizer):
    return Subject(
        model=None,
        tokenizer=tiny_tokenizer,
        images=load_split(tiny_shards, "test", 32),
        train=load_split(tiny_shards, "train", 32),
        plan=EvaluationPlan(),
    )


def test_the_references_themselves_score_perfectly():
    references = [
        ["a red circle", "the circle is red"],
        ["a blue cross"],
        ["one green square here"],
    ]
    values = score_captions([first for first, *_ in references], references)
    assert values["exact_match"] == 1.0
    assert values["rouge_l"] == pytest.approx(1.0)
    assert values["bleu_1"] == pytest.approx(1.0)


def test_every_metric_of_the_table_is_scored_and_in_the_catalog(meteor_data):
    references = [["a red circle", "the circle is red"], ["a blue cross"]]
    candidates = ["a red circle", "a cross"]
    without, with_meteor = (
        score_captions(candidates, references, cache) for cache in (None, meteor_data)
    )
    assert set(with_meteor) - set(without) == {"meteor"}
    assert {"cider", "cider_d", "rouge_1", "rouge_2", "rouge_l", "bleu_4"} <= set(without)
    assert set(with_meteor) <= set(METRICS)
    assert 0 < with_meteor["meteor"] < 1


def test_perfect_captions_are_worthless_on_shuffled_images(subject):
    written = [row.sample.captions[0] for row in subject.images.rows]
    values = score_columns(subject.images, columns(subject, written))
    assert values["exact_match"] == 1.0
    assert values["image_blind/exact_match"] == 0.0
    assert values["cider_d"] > values["image_blind/cider_d"]


def test_a_copied_caption_is_any_of_the_nearest_image_and_not_always_its_first(subject):
    train = SimpleNamespace(
        rows=[
            SimpleNamespace(sample=SimpleNamespace(captions=(f"{row} a", f"{row} b")))
            for row in range(len(subject.images.rows))
        ],
        pixels_NCHW=subject.images.pixels_NCHW,
    )
    drawn = [nearest_captions(subject.images, train, seed) for seed in range(8)]
    assert all(copied.split()[0] == str(row) for row, copied in enumerate(drawn[0]))
    assert {copied.split()[1] for copies in drawn for copied in copies} == {"a", "b"}
    assert drawn[0] == nearest_captions(subject.images, train, 0)


def test_the_most_frequent_caption_is_counted_over_images(subject):
    rows = [
        SimpleNamespace(sample=SimpleNamespace(captions=captions))
        for captions in (("b", "b", "b"), ("a", "c"), ("a",), ("d",))
    ]
    assert most_frequent(SimpleNamespace(rows=rows)) == "a"


def test_stored_captions_are_not_written_again(subject, tmp_path):
    path = tmp_path / "stored.jsonl"
    lines = [{"id": row.sample.id, "caption": "kept"} for row in subject.images.rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    captions = write_captions(subject, path, "key")  # a model of None could not write
    assert set(read_captions(captions, subject.images)) == {"kept"}


def test_captions_of_other_images_are_refused(subject, tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text('{"id": "somebody else", "caption": "a"}\n')
    with pytest.raises(ValueError, match="other images"):
        read_captions(Captions(path=path, key="k", count=1), subject.images)


def test_another_decoding_is_another_key(tmp_path):
    checkpoint = Checkpoint(
        path=tmp_path, digest="d", family="virtex", step=1, seed=0, shards_digest="s"
    )
    plans = [
        EvaluationPlan(),
        EvaluationPlan(beams=1),
        EvaluationPlan(decoder="greedy"),
        EvaluationPlan(max_tokens=9),
        EvaluationPlan(prompt="a photo of"),
        EvaluationPlan(decoder="nucleus"),
        EvaluationPlan(decoder="nucleus", seed=1),
        EvaluationPlan(decoder="magic"),
        EvaluationPlan(decoder="magic", beta=0.25),
    ]
    assert len({captions_key(checkpoint, "s", "test", plan) for plan in plans}) == len(plans)
    # A class prompt does not change which words a captioner writes, nor does a default that is said out loud.
    for same in (EvaluationPlan(prompts=("{}",)), EvaluationPlan(beams=5)):
        assert captions_key(checkpoint, "s", "test", same) == captions_key(
            checkpoint, "s", "test", EvaluationPlan()
        )


def test_mended_decoding_code_is_another_key(tmp_path, monkeypatch):
    checkpoint = Checkpoint(
        path=tmp_path, digest="d", family="virtex", step=1, seed=0, shards_digest="s"
    )
    before = captions_key(checkpoint, "s", "test", EvaluationPlan())
    mended = tmp_path / "components"
    shutil.copytree(
        Path(revision.__file__).parents[1], mended, ignore=shutil.ignore_patterns("__pycache__")
    )
    with (mended / "models" / "magic.py").open("a") as file:
        file.write("# mended\n")
    monkeypatch.setattr(revision, "__file__", str(mended / "decoding" / "revision.py"))
    code_revision.cache_clear()
    try:
        assert captions_key(checkpoint, "s", "test", EvaluationPlan()) != before
    finally:
        code_revision.cache_clear()


def test_every_metric_reads_tokens_and_ngrams_that_are_made_once(monkeypatch, subject):
    counted = {"tokenise": 0, "count_grams": 0}
    for name, module in {"tokenise": captioning_module, "count_grams": material}.items():
        real = getattr(module, name)

        def counting(given, name=name, real=real):
            counted[name] += 1
            return real(given)

        monkeypatch.setattr(module, name, counting)
    written = [row.sample.captions[0] for row in subject.images.rows]
    score_columns(subject.images, columns(subject, written))
    references = sum(len(row.sample.captions) for row in subject.images.rows)
    side_by_side = 4
    assert counted == {
        "tokenise": references + side_by_side * len(written),
        "count_grams": side_by_side,
    }
