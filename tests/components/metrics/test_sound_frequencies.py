"""Document frequencies that came from a file are looked at before words are weighed by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.metrics.frequencies import DocumentFrequencies, document_frequencies
from components.metrics.metric import MetricInputError
from components.metrics.sound_frequencies import refuse_unsound


@pytest.fixture
def record():
    return document_frequencies([[["a", "cat", "sits", "here"]], [["a", "dog"]], [[]]])


@pytest.mark.parametrize("references", [[[["a", "cat"], ["b"]], [["a"]]], [[[]]]])
def test_what_counting_gives_is_sound(references):
    found = document_frequencies(references)
    refuse_unsound(found)
    refuse_unsound(DocumentFrequencies.from_bytes(found.to_bytes()))


def test_a_golden_record_is_sound(golden):
    refuse_unsound(document_frequencies(golden.references))


@pytest.mark.parametrize("images", [0, -3, 1])
def test_a_number_of_images_that_the_counts_do_not_allow_is_refused(record, images):
    with pytest.raises(MetricInputError, match="damaged"):
        refuse_unsound(replace(record, images=images))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda each: -each, "stand in -2"),
        (lambda each: each * 0, "stand in 0"),
        (lambda each: each[1:], "have 4 counts"),
        (lambda each: each[None], "no rows"),
        (lambda each: each * np.nan, "no rows"),
    ],
)
def test_counts_that_are_none_are_refused(record, change, says):
    with pytest.raises(MetricInputError, match=says):
        refuse_unsound(replace(record, counts=(change(record.counts[0]), *record.counts[1:])))


@pytest.mark.parametrize(
    ("order", "change", "says"),
    [
        (0, lambda each: each[::-1], "1-grams are out of order"),
        (0, lambda each: each + 1, "1-grams go on"),
        (1, lambda each: each + 1000, "2-grams go on"),
        (3, lambda each: each - 1000, "4-grams go on"),
    ],
)
def test_n_grams_that_are_none_are_refused(record, order, change, says):
    keys = list(record.keys)
    keys[order] = change(keys[order])
    with pytest.raises(MetricInputError, match=says):
        refuse_unsound(replace(record, keys=tuple(keys)))


def test_a_word_twice_is_refused(record):
    with pytest.raises(MetricInputError, match="not all different"):
        refuse_unsound(replace(record, words=(record.words[0],) * len(record.words)))


def test_bytes_of_a_damaged_record_are_refused_where_they_are_read(record):
    damaged = replace(record, images=-3)
    with pytest.raises(MetricInputError, match="damaged"):
        DocumentFrequencies.from_bytes(damaged.to_bytes())
