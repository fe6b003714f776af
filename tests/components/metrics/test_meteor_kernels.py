"""METEOR's compiled kernels give the very counts of plain Python, and are chosen where they pay."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import numpy as np
import pytest

from components.metrics.meteor import counting
from components.metrics.meteor.corpus import prepare

pytest.importorskip("numba")


def same(candidates, references, resources) -> bool:
    corpus = prepare(candidates, references, resources)
    plain = counting.count(corpus, compiled=False)
    return len(plain) > 0 and np.array_equal(plain, counting.count(corpus, compiled=True))


def test_counts_of_the_golden_captions_are_the_same(golden, meteor_resources):
    assert same(golden.candidates, golden.references, meteor_resources)


def test_counts_of_captions_full_of_ties_are_the_same(golden, meteor_resources):
    random = Random(0)
    few = ["a", "a", "the", "dog", "dogs", "man", "men", "two", "a couple", "a group of", "person"]
    many = sorted({word for caption in golden.candidates for word in caption})

    def caption() -> list[str]:
        words = random.choice([few, many, many[:40]])
        return " ".join(random.choices(words, k=random.randint(0, 25))).split()

    candidates = [caption() for _ in range(400)]
    references = [[caption() for _ in range(random.randint(1, 4))] for _ in candidates]
    for candidate, several in zip(candidates[::5], references[::5], strict=True):
        several[0] = random.sample(candidate, len(candidate))
    assert same(candidates, references, meteor_resources)


@pytest.mark.parametrize("words", [62, 63, 64, 65, 127, 130])
def test_counts_at_the_edges_of_bit_sets_are_the_same(words, meteor_resources):
    long = [f"w{number}" for number in range(words)]
    assert same([long, long[::-1]], [[long[::-1], long[1:]], [long, long[:-1]]], meteor_resources)


def test_counts_of_captions_past_the_limits_are_the_same(meteor_resources):
    often = ["dog", "dogs", "a", "puppy"] * 600
    other = ["dogs", "a", "two"] * 700
    nearly = ["cat"] * 100
    candidates = [often, other, nearly, [*nearly, "dog"], []]
    references = [[other], [often, ["a"]], [nearly], [[*nearly, "cat"]], [often, []]]
    assert same(candidates, references, meteor_resources)


CHOICE = """
import sys
from components.metrics.meteor import counting
from components.metrics.meteor.corpus import prepare
from components.metrics.meteor.resources import from_parts
resources = from_parts(["a"], [], {}, [("a dog", "dogs")], "tiny")
images = int(sys.argv[1])
corpus = prepare([["a", "dog"]] * images, [[["dogs"]]] * images, resources)
counts = counting.count(corpus)
print((counts[:, 21] == 2).all(), "numba" in sys.modules)
"""


@pytest.mark.parametrize(("images", "loads"), [(3, False), (2000, True)])
def test_a_few_images_do_not_load_the_compiler(images, loads):
    ended = subprocess.run(
        [sys.executable, "-c", CHOICE, str(images)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["True", str(loads)]


def test_without_numba_the_counts_are_the_same():
    hidden = 'import sys; sys.modules["numba"] = None; sys.argv = ["", "2000"]\n'
    # A finder that answers None is what an environment without the package looks like.
    hidden += "import importlib.util as u; found = u.find_spec\n"
    hidden += 'u.find_spec = lambda name, *rest: None if name == "numba" else found(name, *rest)\n'
    ended = subprocess.run(
        [sys.executable, "-c", hidden + CHOICE], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split()[0] == "True"
