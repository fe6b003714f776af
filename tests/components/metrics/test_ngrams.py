"""Words as numbers, and n-grams counted by NumPy and by compiled code to the same arrays."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from random import Random

import numpy as np
import pytest

from components.metrics import frequencies, ngrams
from components.metrics.ngrams import Grams, Pairs, count_by_sorting, encode


def captions(seed: int, words: list[str], longest: int = 14) -> tuple[list, list]:
    random = Random(seed)

    def caption() -> list[str]:
        return random.choices(words, k=random.randint(0, longest))

    candidates = [caption() for _ in range(80)]
    return candidates, [[caption() for _ in range(random.randint(1, 4))] for _ in candidates]


def same(one: object, other: object) -> bool:
    """Records of the same arrays, types included."""
    pairs = [(getattr(one, each.name), getattr(other, each.name)) for each in fields(one)]
    return all(
        same(*pair)
        if isinstance(pair[0], Pairs)
        else np.array_equal(*pair) and np.asarray(pair[0]).dtype == np.asarray(pair[1]).dtype
        for pair in pairs
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


FEW, MANY = ["a", "dog", "the", "on"], [f"w{number}" for number in range(40)]
CASES = [(FEW, 14), (MANY, 14), (["a"], 30), (MANY, 3), (FEW, 0), ([*FEW, *MANY], 200)]


@pytest.mark.parametrize(("words", "longest"), CASES, ids=range(len(CASES)))
def test_compiled_counting_gives_the_same_arrays(words, longest):
    kernels = pytest.importorskip("components.metrics.gram_kernels")
    sentences = encode(*captions(1, words, longest), split_spaces=True)
    plain, fast = count_by_sorting(sentences), kernels.count_grams(sentences)
    assert [order.order for order in fast] == [1, 2, 3, 4]
    for one, other in zip(plain, fast, strict=True):
        assert same(one, other)
        counted = frequencies.count_images(sentences, one)
        assert np.array_equal(counted, kernels.in_references(sentences, one))


def test_compiled_look_up_finds_the_same_frequencies(monkeypatch):
    kernels = pytest.importorskip("components.metrics.gram_kernels")
    record = frequencies.document_frequencies(captions(2, [*FEW, *MANY[:2]])[1])
    sentences = encode(*captions(3, [*FEW, *MANY[1:3], "new"]), split_spaces=True)
    grams: list[Grams] = count_by_sorting(sentences)
    found = {}
    for name, chosen in {"plain": None, "fast": kernels}.items():
        monkeypatch.setattr(frequencies, "compiled", lambda chosen=chosen: chosen)
        found[name] = record.look_up(sentences, grams)
    for plain, fast in zip(found["plain"], found["fast"], strict=True):
        assert np.array_equal(plain, fast) and plain.any() and not plain.all()


def test_no_compiler_is_loaded_to_count():
    says = "import sys; from components.metrics import bleu, ngrams;"
    says += "bleu.statistics([['a']] * 3000, [[['a', 'b']]] * 3000);"
    says += "print(ngrams.compiled(), 'numba' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["None", "False"]


def test_a_loaded_compiler_is_used():
    kernels = pytest.importorskip("components.metrics.gram_kernels")
    assert ngrams.compiled() is kernels
