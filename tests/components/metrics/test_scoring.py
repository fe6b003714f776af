"""Every metric of the table over all images: equal to the reference, whatever the blocks, whoever computes them."""

from __future__ import annotations

import numpy as np
import pytest

from components.metrics import cider, scoring
from components.metrics.frequencies import DocumentFrequencies, document_frequencies, merge
from components.metrics.material import Texts, Words
from components.metrics.metric import MetricInputError
from components.metrics.processes import in_processes
from components.metrics.scorecard import MEASURES, choose
from components.table import UnknownName

PLAIN = tuple(
    name
    for name, measure in MEASURES.items()
    if measure.missing(None) is None and not measure.reads_texts
)


@pytest.fixture(scope="module")
def texts(golden):
    return Texts(
        [image["cand"] for image in golden.images], [image["refs"] for image in golden.images]
    )


@pytest.fixture
def small_blocks(monkeypatch):
    """Golden captions are few: blocks of 10, merged by 4, none kept."""
    monkeypatch.setattr(scoring, "BLOCK", 10)
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    monkeypatch.setattr(scoring, "KEPT", 0)


def assert_same_bits(one, other):
    assert one.corpus() == other.corpus()
    there = other.per_image()
    for name, value in one.per_image().items():
        assert np.array_equal(value, there[name]), name


def test_the_golden_corpus_gives_the_references_numbers(texts, golden):
    scores = scoring.score(texts, PLAIN)
    corpus, rows = scores.corpus(), scores.per_image()
    compared = [column for column in scores.columns if column.golden in golden.corpus]
    assert len(compared) >= 7
    for column in compared:
        assert corpus[column.name] == pytest.approx(
            golden.corpus[column.golden], abs=column.tolerance
        )
    for column in ("rouge_l", "cider_d", "cider"):
        key = {"rouge_l": "ROUGE_L", "cider_d": "CIDEr_D", "cider": "CIDEr"}[column]
        expected = [image[key] for image in golden.images]
        assert np.abs(rows[column] - expected).max() < 1e-9


def test_meteor_is_in_the_table_as_soon_as_its_data_are_there(texts, golden, meteor_data):
    assert "meteor" in choose("all", meteor_data).measures
    assert "METEOR" in choose("all", None).left_out
    scores = scoring.score(texts, ("meteor",), cache=meteor_data)
    assert scores.corpus()["meteor"] == pytest.approx(golden.corpus["METEOR"], abs=1e-12)
    expected = [image["METEOR"] for image in golden.images]
    assert np.abs(scores.per_image()["meteor"] - expected).max() < 1e-12
    with pytest.raises(MetricInputError, match="METEOR cannot be computed here"):
        choose("meteor", None)


def test_spice_says_what_it_needs_or_is_computed_from_texts_alone(texts, meteor_data):
    if why := MEASURES["spice"].missing(meteor_data):
        assert "pip install" in why
        return
    some = texts.part(slice(0, 12))
    values = scoring.score(some, ("spice",), cache=meteor_data).per_image()["spice_spacy"]
    assert values[0] == 1.0 and 0 < values.mean() < 1  # image 0 repeats its reference
    with pytest.raises(MetricInputError, match="whole captions"):
        scoring.score(Words([["a"]], [[["a"]]]), ("spice",), cache=meteor_data)


def test_blocks_change_no_more_than_the_order_of_a_sum(texts, small_blocks, monkeypatch):
    blocked = scoring.score(texts, PLAIN)
    monkeypatch.setattr(scoring, "BLOCK", 1000)
    whole = scoring.score(texts, PLAIN)
    for name, value in whole.corpus().items():
        assert blocked.corpus()[name] == pytest.approx(value, abs=1e-12), name


def test_kept_or_counted_again_gives_the_same_bits(texts, small_blocks, monkeypatch):
    again = scoring.score(texts, PLAIN)
    monkeypatch.setattr(scoring, "KEPT", 1000)
    assert_same_bits(again, scoring.score(texts, PLAIN))


def test_processes_give_the_same_bits(texts):
    many = Texts(list(texts.candidates) * 40, list(texts.references) * 40)
    assert len(many.candidates) > 2 * scoring.BLOCK
    told = []
    with in_processes(2) as (run, shared):
        parallel = scoring.score(many, PLAIN, run=run, shared=shared, advance=told.append)
    assert_same_bits(parallel, scoring.score(many, PLAIN))
    assert sum(told) == len(many.candidates)


def test_an_error_of_a_block_is_raised_as_it_is():
    with in_processes(2) as (run, _), pytest.raises(ZeroDivisionError):
        list(run(_divide, [1, 0]))


def _divide(number):
    return 1 / number


def test_tokens_give_the_same_as_captions(texts, golden):
    words = Words(golden.candidates, golden.references)
    assert_same_bits(scoring.score(texts, PLAIN), scoring.score(words, PLAIN))


def test_saved_frequencies_are_named_by_their_digest(golden):
    words = Words(golden.candidates, golden.references)
    saved = document_frequencies(golden.references)
    scores = scoring.score(words, ("cider",), frequencies=saved)
    assert scores.statistics["cider"].frequencies == saved.digest
    own = scoring.score(words, ("cider",))
    assert own.statistics["cider"].frequencies == "references"
    assert own.statistics["cider"].frequency_images == len(golden.references)
    assert scores.corpus() == pytest.approx(own.corpus(), abs=1e-12)


@pytest.mark.parametrize("pieces", [1, 2, 7, 142])
def test_merged_frequencies_are_those_of_all(golden, pieces):
    parts = np.array_split(np.arange(len(golden.references)), pieces)
    merged = merge([document_frequencies([golden.references[i] for i in part]) for part in parts])
    whole = document_frequencies(golden.references)
    assert merged.images == whole.images
    assert spelt(merged) == spelt(whole)
    stats = [
        cider.statistics(golden.candidates, golden.references, record) for record in (merged, whole)
    ]
    assert np.allclose(cider.per_image(stats[0]), cider.per_image(stats[1]), atol=1e-12, rtol=0)


def spelt(record: DocumentFrequencies) -> dict[str, int]:
    """n-gram as text -> count."""
    found, parents = {}, [""]
    for keys, counts in zip(record.keys, record.counts, strict=True):
        texts = [
            f"{parents[key // len(record.words)]} {record.words[key % len(record.words)]}"
            for key in keys.tolist()
        ]
        found |= dict(zip(texts, counts.tolist(), strict=True))
        parents = texts
    return found


def test_nothing_to_merge_is_refused():
    with pytest.raises(MetricInputError, match="at least one"):
        merge([])


@pytest.mark.parametrize(
    ("candidates", "references", "says"),
    [([], [], "No image"), (["a"], [], "references of 0"), (["a"], [[]], "has no reference")],
)
def test_unpaired_captions_are_refused(candidates, references, says):
    with pytest.raises(MetricInputError, match=says):
        scoring.score(Texts(candidates, references), PLAIN)


def test_all_is_every_measure_that_can_be_computed_here():
    choice = choose("all")
    assert set(PLAIN) <= set(choice.measures)
    assert len(choice.measures) + len(choice.left_out) == len(MEASURES)


def test_measures_and_columns_are_named_in_any_case():
    choice = choose("BLEU-4, cider-d,rouge_l,")
    assert [column.shown for column in choice.columns] == ["BLEU-4", "ROUGE-L", "CIDEr-D"]
    assert choice.measures == ("bleu", "rouge_l", "cider")


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r'"blue-4".* Did you mean "bleu_4"'):
        choose("cider,blue-4")
    with pytest.raises(MetricInputError, match="No metric"):
        choose(" , ")
    with pytest.raises(MetricInputError, match=r'"all".* alone'):
        choose("bleu,ALL")


def test_names_are_said_once():
    columns = [column for measure in MEASURES.values() for column in measure.columns]
    for names in ([c.name for c in columns], [c.shown for c in columns]):
        assert len(set(names)) == len(names)
    for name, measure in MEASURES.items():
        assert (measure.statistics is None) != (measure.weighed is None), name
