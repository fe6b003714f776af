"""The caption tokeniser against the reference programme's output, and against text made to break it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.metrics.tokenise import tokenise


def test_every_golden_pair_is_equal(golden_pairs):
    assert len(golden_pairs) == 171
    wrong = [pair for pair in golden_pairs if " ".join(tokenise(pair["text"])) != pair["ptb"]]
    assert wrong == []


def test_every_golden_caption_is_equal(golden):
    texts = [
        pair
        for image in golden.images
        for pair in (
            (image["cand"], image["tok_cand"]),
            *zip(image["refs"], image["tok_refs"], strict=True),
        )
    ]
    assert len(texts) == 587
    assert [text for text, tokens in texts if " ".join(tokenise(text)) != tokens] == []


# Not golden pairs: sentences of our own, their right sides from a run of the reference programme.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the letter K. The man", "the letter k the man"),
        ("rock 'n", "rock 'n"),
        ("plan a-b. Go anti-U.S. now", "plan a-b go anti-u.s. now"),
        ("the letter K. Dogs bark", "the letter k. dogs bark"),
        ("could've who'd've y'all ya'll x", "could 've who 'd 've y' all ya 'll x"),
        ("ain't daren't shan't mayn't", "ai n't dare n't sha n't may n't"),
        ("'em 'til 'cause 'bout goin' c'mon ne'er hawai'i", "'em 'til 'cause bout goin c'mon ne'er hawai'i"),
        ("'tisn't 'twas 'twere gonna's wannabe", "'t is n't 't was twere gonna 's wannabe"),
        ("Gen. Lt. Gov. Thurs. Sat. approx. misc.", "gen. lt. gov. thurs. sat approx misc"),
        ("of mass. of Mass. of", "of mass of mass. of"),
        ("no. a no.5 fig. 5 pp. 5-6", "no a no. 5 fig. 5 pp. 5-6"),
        ("sink., and toilet", "sink. and toilet"),
        ("3.5mm v1.2 5x7 1.5-lb 5'10\" 6-8:30", "3.5 mm v1 .2 5x7 1.5-lb 5 10 6-8 :30"),
        ("10 1/2 inch 1990 1995 1999", "10\xa01/2 inch 1990\xa01995\xa01999"),
        ("NZ$5 us$5 A&B&C At&t C++11", "nz$ 5 us $ 5 a&b&c at & t c++ 11"),
        ("dog.The man.A cat!no 5th.the", "dog.the man.a cat!no 5th the"),
        ("five-o'clock jack-o-lantern U.S.-made anti-U.S. x", "five-o'clock jack-o-lantern u.s.-made anti-u.s. x"),
        (":-\\ :{ ;O =D :3 :-) x", ":-\\ :{ ;o =d :3 :--rrb- x"),
        ("5² ₹5 ♥ 🐶 a‑b a−b ❤️", "5 ² 5 ♥ a‑b a − b ❤"),
        ("&quot;a&quot; &lt;b&gt; it&apos;s AT&amp;T", "a < b > it 's at&t"),
        ("zz A'man isO'Brien the'Ba I'am zz", "zz a'man iso'brien the'ba i am zz"),
        ("zz B`ab the‘AB ne`arby d`rex ab`ab zz", "zz b`ab the‘ab ne`arby d`rex ab ab zz"),
        ("zz ab’man 1990s’shower a ’red ’n dog zz", "zz ab 'm an 1990s 's hower a 're d ’n dog zz"),
        ("rock 'N' roll since the '90S zz", "rock 'n' roll since the '90s zz"),
        ("zz 'emother 'tilxq 'tisxq c'monxq zz", "zz 'em other 'til xq 't isxq c'mon xq zz"),
        ("zz 5.: b5., 5.; it.:D 1.5., zz", "zz 5. b5. 5. it. :d 1.5 zz"),
        ("zz isn’tto inn't inn’t isn’t zz", "zz is n’tto inn t inn t is n't zz"),
        ("the city'S O'Hare D'll zz 'Sé zz", "the city 's o'hare d 'll zz 's é zz"),
    ],
)  # fmt: skip
def test_tricky_sentence(text, words):
    assert " ".join(tokenise(text)) == words


def test_a_clitic_at_the_very_end_is_kept():
    """The reference keeps it too once a line break follows, as one does in its file."""
    assert tokenise("than they're") == ["than", "they", "'re"]


@pytest.mark.parametrize("text", ["", "   ", "\t\n", "...", "\x00", "\ud800", "🐶", "\x85"])
def test_a_caption_without_words_has_no_tokens(text):
    assert tokenise(text) == []


def test_line_breaks_and_what_nobody_can_see_part_words():
    assert tokenise("a\rb\x0bc\u2028d\x00e\ud800f🐶g") == list("abcdefg")


def test_plain_captions_read_the_same_with_and_without_the_short_way():
    for text in ("A man cannot stay", "A dog sits on Main St.", "Vitamin C.", "Two dogs ."):
        # A comma filters out but sends the caption the long way.
        assert tokenise(text) == tokenise(", " + text)


@given(st.text())
def test_any_text_gives_clean_lower_case_words(text):
    for word in tokenise(text):
        assert word and " " not in word and word == word.lower()


PIECES_OF_TALK = ["dog's", "can't", "a.m.", "1/2", "#tag", "@me", "'em", "(x)", "3.5", "A-b", "and/or", "U.S.", ":)", "!", ","]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES_OF_TALK)))
def test_tokens_do_not_depend_on_how_many_spaces_part_them(pieces):
    assert tokenise(" ".join(pieces)) == tokenise("  ".join(pieces))


PIECES = ["a.", "a,", "a-", "a'", "(1", "<a", "&", "o'", "a@", "a_", "http://a.b/'", "1/2 ", "123-", "a!", "&#1", " ", "+1"]  # fmt: skip


def _cpu_s(text: str) -> float:
    """The least of three times."""
    found = []
    for _ in range(3):
        started = time.process_time()
        assert isinstance(tokenise(text), list)
        found.append(time.process_time() - started)
    return min(found)


@pytest.mark.parametrize("piece", PIECES)
def test_no_repetition_makes_it_slow(piece):
    """Four times the text takes about four times the time, however slow the machine; sixteen times would be a way in."""
    few = 12_500 // len(piece)
    assert _cpu_s(piece * few * 4) < 9 * _cpu_s(piece * few) + 0.01


def test_mixed_malice_takes_no_longer_than_its_length():
    text = "".join(piece * (100_000 // len(PIECES) // len(piece)) for piece in PIECES)
    assert _cpu_s(text * 4) < 9 * _cpu_s(text)


def test_one_word_of_ten_megabytes_is_one_token():
    assert tokenise("x" * 10_000_000 + "'") == ["x" * 10_000_000]
