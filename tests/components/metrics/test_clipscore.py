"""CLIPScore and RefCLIPScore, against the published programme's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.metrics import clipscore
from components.metrics.metric import MetricInputError

GOLDEN = json.loads((Path(__file__).parent / "golden/clipscore.json").read_text("utf-8"))
ITEMS = GOLDEN["items"]


def rows(name):
    return np.array([item[name] for item in ITEMS], np.float32)


@pytest.fixture(scope="module")
def stats():
    return clipscore.statistics(
        rows("image"), rows("cand"), [np.array(item["refs"], np.float32) for item in ITEMS]
    )


def test_every_golden_clip_score_is_equal(stats):
    wanted = [item["CLIPScore"] for item in ITEMS]
    assert np.abs(clipscore.per_image(stats) - wanted).max() < 1e-5
    assert clipscore.clip_score(stats) == pytest.approx(GOLDEN["meta"]["mean_CLIPScore"], abs=1e-5)


def test_every_golden_reference_term_is_equal(stats):
    assert np.abs(stats.reference_N - [item["ref_only"] for item in ITEMS]).max() < 1e-5


def test_every_golden_ref_clip_score_is_equal_where_the_paper_and_the_programme_agree(stats):
    each, below = clipscore.ref_per_image(stats), 0
    for value, item in zip(each, ITEMS, strict=True):
        if item["ref_only"] > 0:
            assert value == pytest.approx(item["RefCLIPScore"] or 0.0, abs=1e-5)
        else:
            below += 1
            assert value == 0.0
    assert 0 < below < len(ITEMS)


def test_the_programmes_raw_rule_follows_from_the_statistics(stats):
    for image, reference, item in zip(stats.image_N, stats.reference_N, ITEMS, strict=True):
        raw = 2 * image * reference / (image + reference)
        assert raw == pytest.approx(item["RefCLIPScore"], rel=1e-4, abs=1e-5)


def test_by_hand():
    stats = clipscore.statistics(
        np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]]), [np.array([[0.0, 2.0], [-1.0, 0.0]])]
    )
    assert stats.image_N[0] == pytest.approx(2.5 * 0.6)
    assert stats.reference_N[0] == pytest.approx(0.8)
    assert clipscore.ref_clip_score(stats) == pytest.approx(2 * 1.5 * 0.8 / (1.5 + 0.8))


def test_the_length_of_an_embedding_does_not_matter(stats):
    scaled = clipscore.statistics(
        1e30 * rows("image").astype(np.float64),
        1e-30 * rows("cand").astype(np.float64),
        [np.array(item["refs"]) for item in ITEMS],
    )
    assert clipscore.per_image(scaled) == pytest.approx(clipscore.per_image(stats), abs=1e-6)


def test_both_terms_nought_is_nought():
    stats = clipscore.statistics(
        np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]]), [np.array([[1.0, 0.0]])]
    )
    assert clipscore.clip_score(stats) == 0.0 and clipscore.ref_clip_score(stats) == 0.0


def test_whole_weights_equal_repeating_images(stats):
    drawn = np.random.default_rng(0).integers(len(ITEMS), size=30)
    counts = np.bincount(drawn, minlength=len(ITEMS))
    assert clipscore.clip_score(stats, counts) == pytest.approx(stats.image_N[drawn].mean())
    assert clipscore.ref_clip_score(stats, counts) == pytest.approx(
        clipscore.ref_per_image(stats)[drawn].mean()
    )


ONE = np.ones((1, 2))


@pytest.mark.parametrize(
    ("image", "candidate", "references", "says"),
    [
        (np.ones((0, 2)), np.ones((0, 2)), [], "shape"),
        (ONE, ONE, [], "references of 0 images"),
        (ONE, np.ones((1, 3)), [ONE], "same width"),
        (ONE, ONE, [np.ones((0, 2))], "References of image 0"),
        (ONE, ONE, [np.ones((1, 3))], "References of image 0"),
        (ONE, 0 * ONE, [ONE], "candidate embedding of row 0 is all 0"),
        (np.full((1, 2), np.nan), ONE, [ONE], "image embedding of row 0"),
        (ONE, ONE, [np.full((1, 2), np.inf)], "reference embedding of row 0"),
    ],
)
def test_embeddings_it_is_not_defined_for_are_refused_by_name(image, candidate, references, says):
    with pytest.raises(MetricInputError, match=says):
        clipscore.statistics(image, candidate, references)
