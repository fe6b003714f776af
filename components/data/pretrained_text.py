"""The tokenizer a pretrained language model came with, behind the interface of our own (components/data/text.py).

Its text is left as it is: such a model knows capitals. The special ids are tokens that its makers reserved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self

import tokenizers

from components.data.text import SPECIALS, Tokenizer, TokenizerError

NAMES = (*SPECIALS, "<eos>")


class PretrainedTokenizer(Tokenizer):
    """A byte-level BPE whose specials are ids of its own vocabulary, chosen by name."""

    def __init__(
        self,
        bpe: tokenizers.Tokenizer,
        special_ids: Mapping[str, int],
        reserved: int | Collection[int],
    ) -> None:
        """special_ids: an id for each of our specials; no two the same, but those it lacks may be its `<eos>`.
        reserved: ids that are no text, or below which none is.

        The BPE must not know the reserved tokens as such, or a caption could spell one. Raises TokenizerError for ids
        that cannot work.
        """
        self._bpe = bpe
        self._reserved = frozenset(range(reserved) if isinstance(reserved, int) else reserved)
        self.vocab_size = max(bpe.get_vocab_size(), *(one + 1 for one in self._reserved))
        self._special_ids = {name: int(special_ids[name]) for name in NAMES}
        self._refuse_specials()
        (
            self.pad_id, self.bos_id, self.mask_id, self.image_id, self.endofchunk_id, self.sep_id,
            self.eos_id,
        ) = (self._special_ids[name] for name in NAMES)  # fmt: skip
        self.digest = hashlib.sha256(self._to_json().encode()).hexdigest()

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> Self:
        """The tokenizer of a file that `save` wrote."""
        if saved.keys() != {"special_ids", "reserved", "bpe"}:
            raise ValueError("its keys are not ours")
        bpe = tokenizers.Tokenizer.from_str(json.dumps(saved["bpe"]))
        return cls(bpe, saved["special_ids"], saved["reserved"])

    def words(self, text: str) -> list[int]:
        """The ids of a text alone, read as words that follow others: with a space before the first."""
        ids: list[int] = self._bpe.encode(f" {text}", add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first `<eos>`, all reserved tokens left out. Raises TokenizerError for ids out of range."""
        words = []
        for token in map(int, ids):
            if not 0 <= token < self.vocab_size:
                raise TokenizerError(f"Token {token} is not in 0..{self.vocab_size - 1}.")
            if token == self.eos_id:
                break
            if token not in self._reserved:
                words.append(token)
        text: str = self._bpe.decode(words)
        return text.removeprefix(" ")

    def _refuse_specials(self) -> None:
        eos = self._special_ids["<eos>"]
        own = [one for one in self._special_ids.values() if one != eos]
        if len(set(own)) < len(own) or not {eos, *own} <= self._reserved:
            raise TokenizerError(
                f"special_ids={self._special_ids} must be different reserved tokens, of which this tokenizer has "
                f"{len(self._reserved)}."
            )

    def _to_json(self) -> str:
        saved = {"special_ids": self._special_ids, "reserved": sorted(self._reserved)}
        whole = {**saved, "bpe": json.loads(self._bpe.to_str())}
        return json.dumps(whole, sort_keys=True, allow_nan=False) + "\n"
