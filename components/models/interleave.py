"""Rows of a batch -> documents of several images and texts, as Flamingo and its like learn from.

An image is one token in the text. Which image a token sees is its text-time: 1 for the document's first image, 0 for
none. M documents, S images each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from components.abilities import LanguageModel, Shots, Views
from components.config import ConfigError

NO_LABEL = -100


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Ids of the tokens that give a document its shape."""

    bos: int
    eos: int
    pad: int
    image: int
    chunk: int
    """Ends the text of one image: `<|endofchunk|>`."""


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Interleaved documents, padded at their end."""

    tokens_MT: Tensor
    """int64."""
    labels_MT: Tensor
    """int64: the token itself where it is to be predicted from those before it, NO_LABEL elsewhere."""
    times_MT: Tensor
    """int64: the number of the image that a token sees, from 1; 0 where it sees none."""
    rows_MS: Tensor
    """int64: which row of the batch each image came from; -1 where a document has fewer."""

    @classmethod
    def of(cls, views: Views) -> Documents:
        """The documents that another model read."""
        return cls(**{each.name: views[each.name] for each in fields(cls)})


def interleave(
    tokens_BT: Tensor,
    lengths_B: Tensor,
    prompts_B: Tensor,
    marks: Marks,
    *,
    images: int,
    ahead: Sequence[bool],
) -> Documents:
    """Groups of `images` rows, in order, each as one document; the last takes what is left.

    tokens_BT: `<bos> w … <eos>` and padding; prompts_B: leading tokens of each row that are not learnt.
    ahead: one bool a document. False: `<bos> <image> text <|endofchunk|> <image> text … <eos>`, and a token sees the last
        image before it. True: each text stands before its image and sees the next one (Alayrac et al. 2022, A.3.2).
    No label on `<image>`, on padding, nor where the tokens up to it have seen no image or the wrong one.
    """
    made = []
    tokens, lengths, prompts = tokens_BT.tolist(), lengths_B.tolist(), prompts_B.tolist()
    for number, start in enumerate(range(0, len(tokens_BT), images)):
        texts = [
            (tokens[row][1 : lengths[row] - 1], prompts[row] - 1)
            for row in range(start, min(start + images, len(tokens_BT)))
        ]
        made.append((_document(texts, marks, ahead[number]), start, len(texts)))
    device, longest = tokens_BT.device, max(len(lines) for lines, _, _ in made)
    padding = (marks.pad, NO_LABEL, 0)
    table_MT3 = torch.tensor(
        [lines + [padding] * (longest - len(lines)) for lines, _, _ in made], device=device
    )
    rows = [
        [start + slot if slot < count else -1 for slot in range(min(images, len(tokens_BT)))]
        for _, start, count in made
    ]
    tokens_MT, labels_MT, times_MT = table_MT3.unbind(dim=-1)
    return Documents(
        tokens_MT=tokens_MT,
        labels_MT=labels_MT,
        times_MT=times_MT,
        rows_MS=torch.tensor(rows, device=device),
    )


def demonstrations(shown: Sequence[tuple[bool, Sequence[int]]], marks: Marks) -> list[int]:
    """Examples in front of a query: `<image> text <|endofchunk|>` of each, or its text alone where that is False."""
    ids: list[int] = []
    for has_image, words in shown:
        ids += [*([marks.image] if has_image else []), *words, marks.chunk]
    return ids


def behind_shots(
    shots: Sequence[Shots], queries: Sequence[Sequence[int]], marks: Marks, device: Any
) -> tuple[list[list[int]], list[Tensor], Tensor]:
    """Each query behind its demonstrations: the texts, the demonstrations' pictures, and whose picture is where.

    The last is (M, S) as `queries_behind` has it, where the queries' own pictures come first.
    """
    texts: list[list[int]] = []
    pictures: list[Tensor] = []
    counts: list[int] = []
    for given, query in zip(shots, queries, strict=True):
        shown = [(image is not None, words) for image, words in given]
        texts.append([*demonstrations(shown, marks), *query])
        counts.append(sum(has_image for has_image, _ in shown))
        pictures += [image for image, _ in given if image is not None]
    return texts, pictures, queries_behind(counts, device)


def queries_behind(counts: Sequence[int], device: Any) -> Tensor:
    """(M, S) int64: which picture each image of a prompt is, where queries come first and demonstrations in order.

    counts: images among each query's demonstrations, which stand before it. -1 where a prompt has fewer.

    >>> queries_behind([2, 0], "cpu").tolist()
    [[2, 3, 0], [1, -1, -1]]
    """
    most, rows, first = max(counts) + 1, [], len(counts)
    for query, count in enumerate(counts):
        rows.append([*range(first, first + count), query] + [-1] * (most - 1 - count))
        first += count
    return torch.tensor(rows, device=device)


def padded_left(
    texts: Sequence[Sequence[int]], marks: Marks, device: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """`<bos>` and each text, so that its next word follows the last column: tokens_MT, times_MT, and mask_MT of what
    is no padding."""
    longest = max(map(len, texts))
    padding = [longest - len(text) for text in texts]
    tokens_MT = torch.tensor(
        [[marks.pad] * pad + [marks.bos, *text] for pad, text in zip(padding, texts, strict=True)],
        device=device,
    )
    column_T = torch.arange(longest + 1, device=device)
    mask_MT = column_T >= torch.tensor(padding, device=device)[:, None]
    return tokens_MT, (tokens_MT == marks.image).cumsum(dim=1), mask_MT


def alike_rows(
    text: Sequence[int], rows: int, marks: Marks, device: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """As `padded_left`, of the same text in every row: nothing to pad, and the number of rows may be a graph's."""
    one = padded_left([text], marks, device)
    tokens_MT, times_MT, mask_MT = (each.expand(rows, -1) for each in one)
    return tokens_MT, times_MT, mask_MT


def _document(
    texts: Sequence[tuple[list[int], int]], marks: Marks, ahead: bool
) -> list[tuple[int, int, int]]:
    """(token, label, time) of each place. A label's token is predicted at the place before it, by what that one sees."""
    lines = [(marks.bos, NO_LABEL, 1 if ahead else 0)]
    for time, (words, given) in enumerate(texts, start=1):
        image = (marks.image, NO_LABEL, time)
        text = [
            (word, word if place >= given else NO_LABEL, time)
            for place, word in enumerate([*words, marks.chunk])
        ]
        if ahead:
            # The image's own place already writes the next text, so it sees the next image; after the last there is none.
            lines += [*text, (marks.image, NO_LABEL, time + 1 if time < len(texts) else 0)]
        else:
            lines += [image, *text]
    last = 0 if ahead else len(texts)
    return [*lines, (marks.eos, NO_LABEL if ahead else marks.eos, last)]


def require_room(lm: LanguageModel, tokens: int) -> None:
    """Raise ConfigError for a text of more tokens than a language model has positions."""
    most = lm.max_positions
    if most is not None and tokens > most:
        raise ConfigError(
            f"A text of {tokens} tokens, and the language model has {most} positions; take fewer demonstrations, "
            "fewer images_per_document, a smaller max_tokens, or a language model trained with more positions."
        )
