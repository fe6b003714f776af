"""Texts that begin with given words, as the rectangle a captioner reads: short ones are padded on the left.

On the left, so that the next word of every row follows the last column. Positions count each row's own tokens, and
padding is read by nobody, so a row writes what it would write alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.abilities import CannotAnswer, Captions
from components.data.texts import question_prompt
from components.decoding.greedy import greedy
from components.models.blocks import KeysValues
from components.models.text_cache import TextCache

if TYPE_CHECKING:
    from components.data.text import Tokenizer

Prompts = Sequence[Sequence[int]] | None
"""Token ids after `<bos>` that each row's text begins with; None: none does."""


class QuestionTooLong(CannotAnswer):
    """A question that leaves no place for an answer."""


def write_answers(
    model: Captions,
    pixels_BCHW: Tensor,
    questions: Sequence[str],
    tokenizer: Tokenizer,
    keys_B: Tensor | None = None,
    *,
    before: int,
    positions: int | None,
    longest: int,
) -> list[str]:
    """What a captioner writes greedily after "question: … answer:" about each image.

    before: tokens that stand before a question, `<bos>` and the image's counted. positions: tokens that the model reads
    and writes in all; None: no end. longest: tokens of an answer, `<eos>` counted, where there is room for so many.
    Raises QuestionTooLong.
    """
    prompts = [tokenizer.words(question_prompt(question)) for question in questions]
    if positions is not None:
        asked = max(map(len, prompts), default=0)
        longest = min(longest, positions - before - asked)
        if longest < 1:
            raise QuestionTooLong(
                f"The longest question has {asked} tokens, {before} stand before it, and the model reads and writes "
                f"{positions} in all; ask shorter, or train with a larger max_tokens or, where a language model is a "
                "part, one with more positions."
            )
    written = greedy(
        model, pixels_BCHW, keys_B, eos_id=tokenizer.eos_id, max_tokens=longest, prompts=prompts
    )
    return [tokenizer.decode(ids) for ids in written]


@dataclass(frozen=True)
class Given:
    """What stands before the first written word."""

    tokens_BT: Tensor
    """int64: `<pad> … <bos> words`, without `<eos>`."""
    padding_B: Tensor | None
    """int64: leading `<pad>` of each row; None if no row has any."""

    @property
    def positions_BT(self) -> Tensor:
        """Place of each token in its own text, from 0 at `<bos>`; 0 at padding too."""
        place_BT = torch.arange(self.tokens_BT.shape[1], device=self.tokens_BT.device)[None]
        if self.padding_B is not None:
            place_BT = (place_BT - self.padding_B[:, None]).clamp(min=0)
        return place_BT.expand(self.tokens_BT.shape[0], -1)

    @property
    def real_BT(self) -> Tensor | None:
        """bool: False at padding; None if no row has any."""
        if self.padding_B is None:
            return None
        column_T = torch.arange(self.tokens_BT.shape[1], device=self.tokens_BT.device)
        return column_T >= self.padding_B[:, None]

    @property
    def mask(self) -> Tensor | None:
        """Which tokens (last dimension) each token may read: bool (B, 1, T, T); None if no row is padded.

        Causal, and without padding; but padding reads itself, since a softmax over nothing is NaN and would spread.
        """
        real_BT = self.real_BT
        if real_BT is None:
            return None
        column_T = torch.arange(real_BT.shape[1], device=real_BT.device)
        asking_T1 = column_T[:, None]
        return ((column_T <= asking_T1) & real_BT[:, None] | (column_T == asking_T1))[:, None]

    def cache(self, layers: Sequence[KeysValues]) -> TextCache:
        """What was read of it, as each layer's keys and values, to go on from."""
        next_B1 = self.positions_BT[:, -1:] + 1
        real_BT = self.real_BT
        return TextCache(tuple(layers), next_B1, None if real_BT is None else real_BT[:, None])

    def hide_padding(self, hidden_BTD: Tensor) -> Tensor:
        """Hidden states with zeros at padding, as `Captions.prefill` returns them."""
        real_BT = self.real_BT
        return hidden_BTD if real_BT is None else hidden_BTD * real_BT.unsqueeze(-1)


def given(prompts: Prompts, rows: int, *, bos_id: int, pad_id: int, device: Any) -> Given:
    """`<bos>` and each row's prompt, padded on the left to the longest.

    Raises ValueError unless there is one prompt a row.
    """
    if prompts is None:
        return Given(torch.full((rows, 1), bos_id, device=device), None)
    if len(prompts) != rows:
        raise ValueError(f"{len(prompts)} prompts for {rows} images; give each image one.")
    longest = max(map(len, prompts), default=0)
    padding = [longest - len(prompt) for prompt in prompts]
    texts = [
        [pad_id] * pad + [bos_id, *prompt] for pad, prompt in zip(padding, prompts, strict=True)
    ]
    padding_B = torch.tensor(padding, device=device) if any(padding) else None
    return Given(torch.tensor(texts, dtype=torch.long, device=device), padding_B)
