"""A pretrained tokenizer reads as its makers' does, behind our interface; no text spells a special."""

from __future__ import annotations

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from components.data.pretrained_text import NAMES, PretrainedTokenizer
from components.data.text import Tokenizer, TokenizerError

RESERVED = ("<|end|>", "<|a|>", "<|b|>", "<|c|>", "<|d|>", "<|e|>", "<|f|>", "<|g|>")
SPECIAL_IDS = dict(zip(NAMES, (3, 0, 4, 5, 6, 7, 2), strict=True))
CAPTIONS = ["A red circle", "the circle is red", "a <|end|> of it", "don’t piñata 12"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> PretrainedTokenizer:
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(RESERVED),
        show_progress=False,
    )
    bpe.train_from_iterator(CAPTIONS, trainer)
    # As a GGUF gives it: the reserved tokens are entries of the vocabulary and nothing more.
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    plain = tokenizers.Tokenizer(models.BPE(vocab=model["vocab"], merges=merges))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PretrainedTokenizer(plain, SPECIAL_IDS, len(RESERVED))


def test_texts_come_back_as_they_were_with_their_capitals(tokenizer: PretrainedTokenizer) -> None:
    for text in [*CAPTIONS, "Ünseen W0RDS\tand 🍕", "", " two  spaces "]:
        tokens_BT, lengths_B = tokenizer.encode([text], 200)
        assert tokens_BT[0, 0] == tokenizer.bos_id
        assert tokens_BT[0, lengths_B[0] - 1] == tokenizer.eos_id
        assert tokenizer.decode(tokens_BT[0].tolist()) == text


def test_no_text_spells_a_reserved_token(tokenizer: PretrainedTokenizer) -> None:
    assert min(tokenizer.words(" ".join([*RESERVED, "<bos>", "<eos>"]))) >= len(RESERVED)


def test_segments_are_joined_as_our_own_tokenizer_joins_them(
    tokenizer: PretrainedTokenizer,
) -> None:
    red, blue = tokenizer.words("a red circle"), tokenizer.words("blue")
    tokens, lengths, prompts = tokenizer.encode_segments(
        [(("a red circle", "blue"), ("blue",))], 99
    )
    sep = tokenizer.sep_id
    assert tokens[0].tolist() == [tokenizer.bos_id, *red, sep, *blue, *blue, tokenizer.eos_id]
    assert (lengths.item(), prompts.item()) == (tokens.shape[1], 2 + len(red) + len(blue))


def test_a_saved_one_is_read_by_the_one_loader_and_is_the_same(
    tokenizer: PretrainedTokenizer, tmp_path
) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    read = Tokenizer.load(tmp_path / "tokenizer.json")
    assert isinstance(read, PretrainedTokenizer)
    assert read.digest == tokenizer.digest
    assert read.vocab_size == tokenizer.vocab_size
    for name in ("pad_id", "bos_id", "mask_id", "image_id", "endofchunk_id", "sep_id", "eos_id"):
        assert getattr(read, name) == getattr(tokenizer, name)
    assert [read.words(text) for text in CAPTIONS] == [tokenizer.words(text) for text in CAPTIONS]
    ours = Tokenizer.train(CAPTIONS, 300)
    ours.save(tmp_path / "ours.json")
    assert type(Tokenizer.load(tmp_path / "ours.json")) is Tokenizer


@pytest.mark.parametrize("change", [{"<bos>": 3}, {"<eos>": 8}, {"<sep>": -1}])
def test_special_ids_that_are_the_same_or_no_reserved_tokens_are_refused(
    tokenizer: PretrainedTokenizer, change: dict
) -> None:
    with pytest.raises(
        TokenizerError, match="different reserved tokens, of which this tokenizer has 8"
    ):
        PretrainedTokenizer(tokenizer._bpe, SPECIAL_IDS | change, len(RESERVED))


def test_a_tokenizer_of_one_special_has_it_for_all_of_ours(tokenizer: PretrainedTokenizer) -> None:
    one = PretrainedTokenizer(tokenizer._bpe, dict.fromkeys(NAMES, 2), {2})
    tokens_BT, _ = one.encode(["a red circle"], 50)
    assert tokens_BT[0].tolist() == [2, *tokenizer.words("a red circle"), 2]
    assert one.decode(tokens_BT[0, 1:].tolist()) == "a red circle"


def test_a_damaged_file_is_refused(tokenizer: PretrainedTokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    for damage in ({"reserved": [3]}, {"bpe": {}}, {"more": 1}, {"special_ids": {"<bos>": 0}}):
        (tmp_path / "damaged.json").write_text(json.dumps(saved | damage))
        with pytest.raises(TokenizerError, match="no tokenizer of this version"):
            Tokenizer.load(tmp_path / "damaged.json")


def test_ids_out_of_range_are_refused(tokenizer: PretrainedTokenizer) -> None:
    with pytest.raises(TokenizerError, match="not in 0"):
        tokenizer.decode([tokenizer.vocab_size])
