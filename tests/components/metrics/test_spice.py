"""SPICE from tuples, against what SPICE 1.0's own classes answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.metrics import spice, with_data
from components.metrics.metric import MetricInputError
from components.metrics.scene_graph import SceneGraph

GOLDEN = Path(__file__).parent / "golden"
ITEMS = json.loads((GOLDEN / "spice_tuples.json").read_text("utf-8"))
MERGING = json.loads((GOLDEN / "spice_merging.json").read_text("utf-8"))
SYNSETS = json.loads((GOLDEN / "spice_synsets.json").read_text("utf-8"))


def synonyms(word):
    return SYNSETS.get(word, ())


def counted(stats, image, category):
    column = list(spice.CATEGORIES).index(category)
    matched = int(stats.matched_NC[image, column])
    offered = int(stats.offered_NC[image, column])
    wanted = int(stats.wanted_NC[image, column])
    return [matched, offered - matched, wanted - matched]


@pytest.fixture(scope="module")
def stats():
    return spice.statistics(
        [item["test"] for item in ITEMS], [item["refs"] for item in ITEMS], synonyms
    )


@pytest.mark.parametrize("category", spice.CATEGORIES)
def test_every_golden_count_and_score_is_equal(stats, category):
    each = spice.per_image(stats, category)
    for image, item in enumerate(ITEMS):
        *counts, f, _, _ = item["scores"][category]
        assert counted(stats, image, category) == counts, item["id"]
        assert each[image] == pytest.approx(f or 0.0, abs=1e-12), item["id"]


def test_every_golden_count_without_synsets_is_equal():
    plain = spice.statistics([item["test"] for item in ITEMS], [item["refs"] for item in ITEMS])
    each = spice.per_image(plain)
    for image, item in enumerate(ITEMS):
        *counts, f, _, _ = item["all_nosynsets"]
        assert counted(plain, image, "All") == counts, item["id"]
        assert each[image] == pytest.approx(f, abs=1e-12), item["id"]


def test_merged_synonyms_are_counted_as_the_reference_counts_them():
    for item in MERGING:
        stats = spice.statistics(
            [item["test"]], [item["refs"]], synonyms if item["synsets"] else None
        )
        for category, counts in item["counts"].items():
            assert counted(stats, 0, category) == counts, (item, category)


@pytest.mark.slow
@pytest.mark.skipif(with_data.spice_missing(Path()) is not None, reason="METEOR's data are needed")
def test_the_synonyms_of_the_platform_are_those_the_reference_found(tmp_path):
    synsets = with_data._synonyms(tmp_path)
    assert {word: sorted(synsets(word)) for word in SYNSETS} == SYNSETS


def test_by_hand():
    stats = spice.statistics(
        [[["girl"], ["girl", "young"], ["girl", "court", "stand on"]]],
        [[[["girl"], ["court", "clay"]], [["girl"], ["girl", "court", "be stand on"]]]],
    )
    # Offered: girl, court, young, stand on. Wanted: girl, court, clay, stand on. Met: girl, court, stand on.
    assert counted(stats, 0, "All") == [3, 1, 1]
    assert spice.score(stats) == pytest.approx(3 / 4)


def test_be_in_front_of_a_relation_says_nothing_and_alone_it_stays():
    graph = SceneGraph(None)
    for relation in ("be on", "on", "be", "bear"):
        graph.add(["a", "b", relation])
    assert [t[2].words for t in graph.tuples if len(t) == 3] == [{"on"}, {"be"}, {"bear"}]


def test_two_statements_that_meet_the_same_one_score_above_one_as_in_the_reference():
    sets = {"auto": [1], "elevator_car": [2], "car": [1, 2]}
    stats = spice.statistics([[["auto"], ["elevator car"]]], [[[["car"]]]], lambda w: sets[w])
    assert counted(stats, 0, "All") == [2, 0, -1]
    assert spice.per_image(stats)[0] == pytest.approx(4 / 3)


def test_a_word_equally_near_to_two_goes_to_the_first():
    sets = {"auto": [1], "elevator_car": [2], "car": [1, 2]}
    for order in (["auto", "elevator car", "car"], ["elevator car", "auto", "car"]):
        concepts = [t[0].words for t in spice.merged([[[word] for word in order]], sets.get)]
        assert concepts == [{order[0], "car"}, {order[1]}]


def test_no_category_is_nan_and_those_nobody_asks_for_are_left_out(stats):
    found = spice.by_category(stats)
    assert list(found) == list(spice.CATEGORIES) and np.isfinite(list(found.values())).all()
    for category in list(spice.CATEGORIES)[1:]:
        reference = [item["scores"][category][3] for item in ITEMS]
        mean = np.mean([value for value in reference if value is not None])
        assert found[category] == pytest.approx(mean, abs=1e-12)
    bare = spice.statistics([[["dog", "red"]]], [[[["dog"]]]])
    assert spice.by_category(bare) == {"All": pytest.approx(2 / 3), "Object": 1.0}


def test_captions_without_tuples_score_nothing():
    stats = spice.statistics([[], [], [["a"]]], [[[]], [[["a"]]], [[]]])
    assert spice.per_image(stats).tolist() == [0.0, 0.0, 0.0] and spice.score(stats) == 0.0
    assert spice.by_category(stats) == {"All": 0.0, "Object": 0.0}


def test_whole_weights_equal_repeating_images(stats):
    drawn = np.random.default_rng(0).integers(len(ITEMS), size=len(ITEMS))
    counts = np.bincount(drawn, minlength=len(ITEMS))
    repeated = spice.statistics(
        [ITEMS[place]["test"] for place in drawn],
        [ITEMS[place]["refs"] for place in drawn],
        synonyms,
    )
    assert spice.score(stats, counts) == pytest.approx(spice.score(repeated), abs=1e-12)
    assert spice.by_category(stats, counts) == pytest.approx(spice.by_category(repeated), abs=1e-12)


@pytest.mark.parametrize(
    ("candidates", "references", "says"),
    [
        ([], [], "No image"),
        ([[]], [], "1 candidates but of references of 0"),
        ([[], []], [[[]], []], "Image 1 has no reference"),
        ([["dog"]], [[[]]], "plain string"),
        ([[["dog", 2]]], [[[]]], "its parts are words"),
        ([[["a", "b", "c", "d"]]], [[[]]], "tuple of 4 parts"),
        ([[[]]], [[[]]], "tuple of 0 parts"),
    ],
)
def test_what_are_no_tuples_is_refused_by_name(candidates, references, says):
    with pytest.raises(MetricInputError, match=says):
        spice.statistics(candidates, references)


def test_an_unknown_category_is_refused(stats):
    with pytest.raises(MetricInputError, match='No category "Colour"'):
        spice.per_image(stats, "Colour")
