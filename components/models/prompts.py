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
        return positions(self.padding_B, 0, self.tokens_BT.shape[1], self.tokens_BT.device).expand(
            len(self.tokens_BT), -1
        )

    @property
    def real_BT(self) -> Tensor | None:
        """bool: False at padding; None if no row has any."""
        if self.padding_B is None:
            return None
        column_T = torch.arange(self.tokens_BT.shape[1], device=self.tokens_BT.device)
        return column_T >= self.padding_B[:, None]

    def hide_padding(self, hidden_BTD: Tensor) -> Tensor:
        """Hidden states with zeros at padding, as `Captions.prefill` returns them."""
        if self.padding_B is None:
            return hidden_BTD
        column_T = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)
        return hidden_BTD * (column_T >= self.padding_B[:, None]).unsqueeze(-1)


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


def positions(padding_N: Tensor | None, start: int, count: int, device: Any) -> Tensor:
    """Place in its own text of each of `count` columns from column `start` on: (N, count), or (1, count) unpadded."""
    column_T = torch.arange(start, start + count, device=device)
    if padding_N is None:
        return column_T[None]
    return (column_T - padding_N[:, None]).clamp(min=0)


def readable(padding_N: Tensor | None, queries: int, keys: int) -> Tensor | None:
    """Which of `keys` columns each of the last `queries` may read: bool (N, 1, queries, keys); None if no row is padded.

    Causal, and without padding; but padding reads itself, since a softmax over nothing is NaN and would spread.
    """
    if padding_N is None:
        return None
    column_S = torch.arange(keys, device=padding_N.device)
    asking_Q1 = column_S[keys - queries :, None]
    real_N1S = (column_S >= padding_N[:, None])[:, None]
    return ((column_S <= asking_Q1) & real_N1S | (column_S == asking_Q1))[:, None]
