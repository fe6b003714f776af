"""Words as numbers, and n-grams counted by NumPy and by compiled code to the same arrays."""

from __future__ import annotations

from dataclasses import fields
from random import Random

import numpy as np

from components.metrics.ngrams import Sentences, encode


def captions(seed: int, words: list[str], longest: int = 14) -> tuple[list, list]:
    random = Random(seed)

    def caption() -> list[str]:
        return random.choices(words, k=random.randint(0, longest))

    candidates = [caption() for _ in range(80)]
    return candidates, [[caption() for _ in range(random.randint(1, 4))] for _ in candidates]


def same(one: Sentences, other: Sentences) -> bool:
    return all(
        np.array_equal(getattr(one, each.name), getattr(other, each.name))
        for each in fields(Sentences)
    )


def test_tokens_that_hold_spaces_count_as_the_words_they_hold():
    odd = ["a", "dog", "3\u00a01/2", "a dog", "1/2", " ", "cat\u2003", "dog cat a"]
    candidates, references = captions(0, odd)
    split = [
        [" ".join(each).split() for each in candidates],
        [[" ".join(each).split() for each in several] for several in references],
    ]
    found = encode(candidates, references, split_spaces=True)
    assert same(found, encode(*split, split_spaces=False))
    assert not same(found, encode(candidates, references, split_spaces=False))
