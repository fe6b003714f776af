from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.data.text import SMALLEST_VOCAB, SPECIALS, Tokenizer, TokenizerError, normalise

CAPTIONS = ["a red circle", "the circle is red", "A blue cross", "don’t piñata", "a red square"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, 300)


def round_trip(tokenizer: Tokenizer, caption: str) -> str:
    tokens_BT, _ = tokenizer.encode([caption], 100_000)
    return tokenizer.decode(tokens_BT[0].tolist())


def test_specials_stand_first_and_eos_last_even_when_merges_run_out() -> None:
    tokenizer = Tokenizer.train(["ab"], 10_000)
    assert (tokenizer.pad_id, tokenizer.bos_id) == (0, 1)
    assert tokenizer.vocab_size < 300
    assert tokenizer.eos_id == tokenizer.vocab_size - 1
    assert int(tokenizer.encode(["ab ba é"], 64)[0].max()) == tokenizer.eos_id


def test_the_vocabulary_is_at_most_what_was_asked(tokenizer: Tokenizer) -> None:
    assert Tokenizer.train(CAPTIONS, SMALLEST_VOCAB).vocab_size == SMALLEST_VOCAB
    assert Tokenizer.train(CAPTIONS, SMALLEST_VOCAB + 9).vocab_size == SMALLEST_VOCAB + 9


def test_a_vocabulary_too_small_for_the_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match=f"at least {SMALLEST_VOCAB}"):
        Tokenizer.train(CAPTIONS, SMALLEST_VOCAB - 1)


def test_every_training_caption_survives_the_round_trip(tokenizer: Tokenizer) -> None:
    for caption in CAPTIONS:
        lowered = unicodedata.normalize("NFC", caption.lower())
        assert round_trip(tokenizer, caption) == lowered


@given(st.text())
def test_any_caption_comes_back_normalised(tokenizer: Tokenizer, caption: str) -> None:
    assert round_trip(tokenizer, caption) == normalise(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "{{7*7}}",
        "${jndi}",
        "'; DROP TABLE",
        "\x00",
        "👩‍🚒 Z̷a̷l̷g̷o̷",
        "!?...",
        "=cmd()",
        "\x1b[31m",
        "x" * 50_000,
    ],
)
def test_odd_captions_come_back(tokenizer: Tokenizer, caption: str) -> None:
    assert round_trip(tokenizer, caption) == normalise(caption)


def test_a_caption_cannot_spell_a_special() -> None:
    captions = [" ".join([*SPECIALS, "<eos>"])] * 50
    tokenizer = Tokenizer.train(captions, 1000)
    tokens_BT, lengths_B = tokenizer.encode(captions[:1], 1000)
    inner = tokens_BT[0, 1 : lengths_B[0] - 1]
    assert bool(((inner >= len(SPECIALS)) & (inner < tokenizer.eos_id)).all())
    assert round_trip(tokenizer, captions[0]) == captions[0]


def test_white_space_collapses() -> None:
    assert normalise("  A\tred \n circle\u2028") == "a red circle"


def test_letters_and_their_marks_become_one() -> None:
    assert normalise("CAFE\u0301") == "caf\u00e9"


def test_a_word_is_the_same_token_at_the_start_and_further_in(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode(["red circle", "circle red"], 16)[0].tolist()
    assert sorted(first) == sorted(second)


def test_rows_are_bos_words_eos_and_padding(tokenizer: Tokenizer) -> None:
    tokens_BT, lengths_B = tokenizer.encode(["a red circle", "a", ""], 16)
    assert tokens_BT.dtype == lengths_B.dtype == torch.int64
    assert tokens_BT.shape[1] == int(lengths_B.max())
    assert tokens_BT[:, 0].tolist() == [tokenizer.bos_id] * 3
    for tokens_T, length in zip(tokens_BT, lengths_B, strict=True):
        assert int(tokens_T[length - 1]) == tokenizer.eos_id
        assert (tokens_T[length:] == tokenizer.pad_id).all()
        assert (tokens_T[:length] != tokenizer.pad_id).all()
    assert tokens_BT[2, :2].tolist() == [tokenizer.bos_id, tokenizer.eos_id]


def test_a_long_text_loses_its_end_and_keeps_eos(tokenizer: Tokenizer) -> None:
    whole, _ = tokenizer.encode(["a red circle is a red circle"], 100)
    cut, lengths_B = tokenizer.encode(["a red circle is a red circle"], 5)
    assert lengths_B.tolist() == [5]
    assert cut[0].tolist() == [*whole[0, :4].tolist(), tokenizer.eos_id]


def test_no_texts_give_an_empty_batch(tokenizer: Tokenizer) -> None:
    tokens_BT, lengths_B = tokenizer.encode([], 5)
    assert tokens_BT.shape == (0, 0)
    assert lengths_B.shape == (0,)


def test_too_few_tokens_for_both_ends_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="give 2 or more"):
        tokenizer.encode(["a"], 1)


def test_decoding_stops_at_eos_and_drops_specials(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["a red circle"], 16)[0][0].tolist()
    assert tokenizer.decode([0, *ids[:2], 3, *ids[2:], *ids]) == "a red circle"


@pytest.mark.parametrize("token", [-1, 300, 10**9])
def test_decoding_refuses_ids_that_are_no_tokens(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(TokenizerError, match=f"Token {token} is not in 0"):
        tokenizer.decode([token])


def test_half_a_character_becomes_the_replacement_mark(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["語"], 16)[0][0].tolist()
    assert "\ufffd" in tokenizer.decode(ids[:-2])


def test_save_and_load_keep_ids_and_digest(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.digest == tokenizer.digest
    assert loaded.encode(CAPTIONS, 9)[0].equal(tokenizer.encode(CAPTIONS, 9)[0])


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", "null", '{"specials": [], "eos": "<eos>", "bpe": {}}', "[" * 100_000],
)
def test_a_damaged_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match="is no tokenizer"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_a_damaged_model_in_a_good_file_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    path.write_text(path.read_text().replace('"type": "BPE"', '"type": "XYZ"'))
    with pytest.raises(TokenizerError, match="is no tokenizer"):
        Tokenizer.load(path)


TRAIN = """
from components.data.text import Tokenizer
words = [f"{a} {b}" for a in ("red", "green", "blue", "azure") for b in ("ring", "star", "arc", "ark")]
print(Tokenizer.train(words, 330).digest)
"""


def test_training_is_the_same_in_every_process_and_order() -> None:
    colours = ("red", "green", "blue", "azure")
    words = [f"{a} {b}" for b in ("ark", "star", "arc", "ring") for a in colours]
    here = Tokenizer.train(words, 330).digest
    for threads in ("1", "4"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        result = subprocess.run(
            [sys.executable, "-c", TRAIN],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == here


def test_segments_are_joined_by_sep_and_the_prompt_is_counted_with_bos(
    tokenizer: Tokenizer,
) -> None:
    red, blue = tokenizer.words("a red circle"), tokenizer.words("a blue cross")
    rows = [(("a red circle", "a blue cross"), ("a blue cross",)), ((), ("a red circle",))]
    tokens_BT, lengths_B, prompts_B = tokenizer.encode_segments(rows, 100)
    bos, sep, eos = tokenizer.bos_id, tokenizer.sep_id, tokenizer.eos_id
    assert tokens_BT[0].tolist() == [bos, *red, sep, *blue, *blue, eos]
    assert tokens_BT[1, : lengths_B[1]].tolist() == [bos, *red, eos]
    assert set(tokens_BT[1, lengths_B[1] :].tolist()) == {tokenizer.pad_id}
    assert prompts_B.tolist() == [2 + len(red) + len(blue), 1]
    assert {tokens.dtype for tokens in (tokens_BT, lengths_B, prompts_B)} == {torch.int64}


def test_a_long_row_keeps_its_end_and_a_prompt_without_room_leaves_nothing_to_learn(
    tokenizer: Tokenizer,
) -> None:
    words = tokenizer.words("a red circle the circle is red")
    row = (("a red circle",), ("the circle is red",))
    given = 1 + len(tokenizer.words("a red circle"))
    for longest in range(2, len(words) + 2):
        tokens_BT, lengths_B, prompts_B = tokenizer.encode_segments([row], longest)
        assert tokens_BT[0].tolist() == [
            *[tokenizer.bos_id, *words][: longest - 1],
            tokenizer.eos_id,
        ]
        assert lengths_B.item() == longest
        assert prompts_B.item() == min(given, longest)


def test_no_segment_spells_the_sep_between_segments(tokenizer: Tokenizer) -> None:
    tokens_BT, _, _ = tokenizer.encode_segments([((), ("a <sep> b <eos>", "c"))], 100)
    assert tokens_BT[0].tolist().count(tokenizer.sep_id) == 1
    assert tokens_BT[0].tolist().count(tokenizer.eos_id) == 1
