"""METEOR's parts: its view of a line, stems, base forms, the tree of paraphrases, the beam."""

from __future__ import annotations

import json
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from components.metrics.meteor import lexicon, paraphrases, stems
from components.metrics.meteor.aligner import EXACT, PARAPHRASE, STEM, Match, align
from components.metrics.meteor.normalise import Prefixes, normalise, normalise_line
from components.metrics.meteor.stems import stemmer
from components.metrics.meteor.synonyms import parse_exceptions, parse_synsets, resolve

PARTS = json.loads((Path(__file__).parent / "golden" / "meteor_parts.json").read_text("utf-8"))


@pytest.mark.parametrize(("line", "expected"), PARTS["normalize"])
def test_a_line_is_normalised_as_the_reference_does(line, expected, meteor_resources):
    assert normalise_line(line, meteor_resources.prefixes).lower() == expected


@pytest.mark.parametrize(("line", "expected"), PARTS["normalize"])
def test_words_of_a_tokenised_line_are_those_of_the_line(line, expected, meteor_resources):
    words = normalise(line.split(" "), meteor_resources.prefixes)
    assert words == [word for word in expected.split(" ") if word]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], []),
        ([""], []),
        (["a", "", "b"], ["a", "b"]),
        (["a", "|||", "b"], ["a", "b"]),
        (["\ud800"], ["\ud800"]),
        (["a\ud800b"], ["a", "\ud800", "b"]),
        (["\u0130"], ["i\u0307"]),
        (["3\u00a01/2"], ["3", "1", "/", "2"]),
    ],
    ids=ascii,
)
def test_odd_tokens_have_defined_words(tokens, expected):
    assert normalise(tokens, Prefixes.parse([])) == expected


def test_dots_stay_as_the_prefixes_say():
    prefixes = Prefixes.parse(["# a remark", "", "Dr", "No #NUMERIC_ONLY#"])
    assert normalise_line("Dr. Who", prefixes) == "Dr. Who"
    assert normalise_line("Mr. Who", prefixes) == "Mr . Who"
    assert normalise_line("No. 5 No. X", prefixes) == "No. 5 No . X"


def test_stems_equal_the_reference():
    stem = stemmer()
    assert [stem(word) for word, _ in PARTS["stem"]] == [expected for _, expected in PARTS["stem"]]


def test_a_monstrous_word_is_its_own_stem():
    assert stemmer()("cats" * 1_000_000) == "cats" * 1_000_000


def test_an_absent_stemmer_says_which_extra_brings_it(monkeypatch):
    monkeypatch.setattr(stems, "version", lambda name: "3.0.1")
    with pytest.raises(stems.StemmerMissing, match=r"3\.0\.1 is installed.*\[metrics\]"):
        stemmer()


SYNSETS = parse_synsets("dog\n1 2\nman\n3\nwolf\n4\nmen\n5\nmiss\n6\nmis\n7\nbake\n8\nbak\n9\n")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dog", [1, 2]),
        ("dogs", [1, 2]),
        ("men", [5, 3]),  # its own first, then its base form's
        ("wolves", [4]),  # by the list of exceptions
        ("misss", []),  # nothing is taken from "ss"
        ("baked", [8]),  # "bake" is tried before "bak", and ends it
        ("xs", []),
        ("", []),
    ],
)
def test_synsets_are_the_words_own_and_its_base_forms(word, expected):
    assert resolve(word, SYNSETS, parse_exceptions("wolf\nwolves wolfs\n")) == expected


def test_a_lexicon_answers_as_the_rules_do_for_known_and_unknown_words():
    words = ["dog", "man", "men", "bake", "bak", "wolf", "none"]
    known = lexicon.build(words, {word: resolve(word, SYNSETS, {}) for word in words}, SYNSETS, str)
    asked = ["men", "dogs", "baked", "zzz", "misss", "none", "wolfs", "\ud800"]
    place, synset = known.synsets(asked, known.rows(asked))
    found = {word: [] for word in asked}
    for at, number in zip(place, synset, strict=True):
        found[asked[at]].append(int(number))
    assert found == {word: resolve(word, SYNSETS, {}) for word in asked}


def test_stems_of_known_and_unknown_words_are_equal_where_the_stems_are():
    stem = stemmer()
    known = lexicon.build(["dogs", "runs"], {}, {}, stem)
    asked = ["dog", "dogs", "running", "runs", "cat"]
    one, two, three, four, five = known.stems(asked, known.rows(asked), stem).tolist()
    assert one == two and three == four and len({one, three, five}) == 3


def test_the_tree_finds_every_phrase_where_it_stands():
    row = {"a": 0, "b": 1, "c": 2}
    tree = paraphrases.from_phrases([("a", "b c"), ("a b", "c"), ("a", "a b"), ("b c a", "a")], row)
    text = np.array([0, 1, 2, 0, -1, 1, 2])  # a b c a | ? b c
    room = np.array([4, 3, 2, 1, 3, 2, 1])
    at, width, node = tree.occurrences(text, room)
    pairs = list(zip(at.tolist(), width.tolist(), strict=True))
    # Prefixes of phrases ("b") are nodes, too; they have no paraphrase.
    assert pairs == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (5, 1), (5, 2), (6, 1)]
    by_place = dict(zip(pairs, node.tolist(), strict=True))
    nodes = np.unique(node)
    phrase, other = tree.among(nodes)
    named = [(int(nodes[a]), int(nodes[b])) for a, b in zip(phrase, other, strict=True)]
    a, bc, ab = by_place[0, 1], by_place[1, 2], by_place[0, 2]
    assert [pair for pair in named if pair[0] == a] == [(a, bc), (a, ab)]  # the table's order


def test_nothing_is_found_in_an_empty_tree():
    tree = paraphrases.from_phrases([], {"a": 0})
    at, *_ = tree.occurrences(np.array([0]), np.array([1]))
    assert not len(at)


def words(*pairs: tuple[int, int], matcher: int = EXACT) -> list[list[Match]]:
    options: list[list[Match]] = [[] for _ in range(1 + max(i for i, _ in pairs))]
    for i, j in pairs:
        options[i].append(Match(matcher, i, 1, j, 1))
    return options


def test_words_that_can_match_one_way_only_are_matched():
    matches, chunks = align(words((0, 2), (1, 0), (2, 1)))
    assert [(match.i, match.j) for match in matches] == [(0, 2), (1, 0), (2, 1)] and chunks == 2


def test_of_equal_matches_the_ones_in_fewest_chunks_are_taken():
    matches, chunks = align(words((0, 0), (0, 2), (1, 3), (1, 1)))
    assert chunks == 1 and [(m.i, m.j) for m in matches] in ([(0, 0), (1, 1)], [(0, 2), (1, 3)])


def test_an_ambiguous_stem_match_is_worth_less_than_its_chunk():
    # What METEOR does: half a word is added to whole numbers, and the chunk it opens costs.
    assert align(words((0, 0), (0, 1), matcher=STEM)) == ([], 0)
    assert align(words((0, 0), matcher=STEM)) == ([Match(STEM, 0, 1, 0, 1)], 1)


def test_a_phrase_covers_its_words():
    phrase = Match(PARAPHRASE, 0, 2, 0, 3)
    assert align([[phrase], [Match(EXACT, 1, 1, 2, 1)]])[0] in (
        [phrase],
        [Match(EXACT, 1, 1, 2, 1)],
    )


def test_most_words_are_matched_where_the_beam_holds_all_alignments():
    def most(options):
        pairs = [match for matches in options for match in matches]
        best = 0
        for order in permutations(range(3)):
            best = max(best, sum((m.i, m.j) in set(enumerate(order)) for m in pairs))
        return best

    random = np.random.default_rng(0)
    for _ in range(50):
        options = [
            [Match(EXACT, i, 1, int(j), 1) for j in np.flatnonzero(random.random(3) < 0.6)]
            for i in range(3)
        ]
        assert len(align(options)[0]) == most(options)


def test_the_parts_import_without_numba_and_snowballstemmer():
    assert (
        "components.metrics.meteor.resources" in sys.modules
    )  # imported by conftest, no extra asked
