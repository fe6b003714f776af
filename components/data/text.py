"""Captions <-> token ids: a byte-level BPE made from the training captions (Sennrich et al. 2016, arXiv:1508.07909).

The specials stand outside the BPE, so that no caption can spell one: "<eos>" in a caption is five characters.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from components import atomic

SPECIALS = ("<pad>", "<bos>", "<mask>", "<image>", "<|endofchunk|>", "<sep>")
"""Ids 0 to 5; `<eos>` follows the BPE as the largest id, where CLIP's text tower looks for it."""

_ALPHABET = 256
SMALLEST_VOCAB = len(SPECIALS) + _ALPHABET + 1


SegmentRow = tuple[Sequence[str], Sequence[str]]
"""A prompt and a text, each in segments."""


class TokenizerError(ValueError):
    """A vocabulary, a file or token ids that cannot work; the message says what would."""


def normalise(caption: str) -> str:
    """Lower case, NFC, and runs of white space as one space: what a caption is after a round trip."""
    return " ".join(unicodedata.normalize("NFC", caption.lower()).split())


class Tokenizer:
    """Turns captions into padded token ids and back, and remembers itself by a digest."""

    def __init__(self, bpe: tokenizers.Tokenizer) -> None:
        self._bpe = bpe
        self.vocab_size: int = len(SPECIALS) + bpe.get_vocab_size() + 1
        self.pad_id = SPECIALS.index("<pad>")
        self.bos_id = SPECIALS.index("<bos>")
        self.mask_id = SPECIALS.index("<mask>")
        self.image_id = SPECIALS.index("<image>")
        self.endofchunk_id = SPECIALS.index("<|endofchunk|>")
        self.sep_id = SPECIALS.index("<sep>")
        self.eos_id = self.vocab_size - 1
        self.digest = hashlib.sha256(self._to_json().encode()).hexdigest()

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int) -> Self:
        """Learn merges from captions: the same captions, in any order, give the same digest.

        vocab_size: the most entries, specials included; few captions give fewer. Raises `TokenizerError` below 263.
        """
        if vocab_size < SMALLEST_VOCAB:
            raise TokenizerError(
                f"vocab_size={vocab_size} cannot hold the {len(SPECIALS) + 1} specials and 256 bytes; "
                f"give at least {SMALLEST_VOCAB}."
            )
        bpe = tokenizers.Tokenizer(models.BPE())
        # The added space makes a word at the start the same token as one further in.
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIALS) - 1,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        bpe.train_from_iterator((normalise(caption) for caption in captions), trainer)
        return cls(bpe)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote, be it ours or a pretrained one; raise `TokenizerError` for any other file."""
        from components.data.pretrained_text import PretrainedTokenizer  # it is made of this class

        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if "special_ids" in saved:
                return PretrainedTokenizer.from_saved(saved)
            if saved.keys() != {"specials", "eos", "bpe"} or tuple(saved["specials"]) != SPECIALS:
                raise ValueError("its keys or specials are not ours")
            return cls(tokenizers.Tokenizer.from_str(json.dumps(saved["bpe"])))
        except FileNotFoundError:
            raise
        except Exception as error:  # tokenizers raises bare Exception for a damaged model
            raise TokenizerError(
                f"{path} is no tokenizer of this version ({error}); take the one of the checkpoint, or train again."
            ) from error

    def save(self, path: Path) -> None:
        """Write the tokenizer as canonical JSON, whole or not at all."""
        atomic.write_text(path, self._to_json())

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """`<bos> words <eos>` of each text, then `<pad>` up to the longest of these texts.

        max_tokens: the longest row, both ends included; a longer text loses its last words and keeps its `<eos>`.
        Returns tokens_BT and lengths_B, both int64; lengths count the ends and no padding.
        """
        tokens_BT, lengths_B, _ = self.encode_segments(
            [((), (text,)) for text in texts], max_tokens
        )
        return tokens_BT, lengths_B

    def encode_segments(
        self, rows: Sequence[SegmentRow], max_tokens: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`<bos> prompt text <eos>` of each row; the segments of a prompt, and those of a text, have `<sep>` between.

        Returns tokens_BT and lengths_B as `encode` does, and prompts_B: how many leading tokens are given, `<bos>`
        counted. A row that is too long loses the last words of its text and keeps its `<eos>`; where the prompt leaves
        no room at all the whole row counts as given.
        """
        if max_tokens < 2:
            raise TokenizerError(
                f"max_tokens={max_tokens} holds no <bos> and <eos>; give 2 or more."
            )
        made = [self._row(prompt, text, max_tokens) for prompt, text in rows]
        return padded([ids for ids, _ in made], [given for _, given in made], self.pad_id)

    def words(self, text: str) -> list[int]:
        """The ids of a text alone, without `<bos>` and `<eos>`: how a prompt is given."""
        # encode_batch would start threads, which cost more than they give on a batch of captions.
        return [word + len(SPECIALS) for word in self._bpe.encode(normalise(text)).ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first `<eos>`, specials left out.

        Bytes that are no UTF-8 (a model may write such) become U+FFFD. Raises `TokenizerError` for ids out of range.
        """
        words = []
        for token in map(int, ids):
            if not 0 <= token < self.vocab_size:
                raise TokenizerError(f"Token {token} is not in 0..{self.vocab_size - 1}.")
            if token == self.eos_id:
                break
            if token >= len(SPECIALS):
                words.append(token - len(SPECIALS))
        text: str = self._bpe.decode(words)
        return text.removeprefix(" ")

    def _row(
        self, prompt: Sequence[str], text: Sequence[str], longest: int
    ) -> tuple[list[int], int]:
        given = [self.bos_id, *self._joined(prompt)]
        if len(given) >= longest:
            return [*given[: longest - 1], self.eos_id], longest
        return [*[*given, *self._joined(text)][: longest - 1], self.eos_id], len(given)

    def _joined(self, segments: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for number, segment in enumerate(segments):
            ids += [self.sep_id] * (number > 0) + self.words(segment)
        return ids

    def _to_json(self) -> str:
        whole = {"specials": SPECIALS, "eos": "<eos>", "bpe": json.loads(self._bpe.to_str())}
        return json.dumps(whole, sort_keys=True, allow_nan=False) + "\n"


def padded(
    rows: Sequence[Sequence[int]], given: Sequence[int], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of ids as tokens_BT with padding after them, their lengths_B, and `given` as prompts_B; all int64."""
    lengths_B = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    tokens_BT = torch.full((len(rows), max(map(len, rows), default=0)), pad_id)
    for tokens_T, row in zip(tokens_BT, rows, strict=True):
        tokens_T[: len(row)] = torch.tensor(row)
    return tokens_BT, lengths_B, torch.tensor(given, dtype=torch.int64)
