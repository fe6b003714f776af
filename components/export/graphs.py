"""Which graphs a model is exported as: its abilities decide, as for how it is measured.

    Embeds    image, text        pixels -> embedding; tokens, lengths -> embedding
    Captions  prefill, step      pixels -> logits, state; tokens, state -> logits, state
    Matches   match              pixels, tokens, lengths -> score (families that write captions match by those)

A captioner's two graphs hand its cache along as plain tensors, so that what is written is what `greedy` writes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.abilities import Captions, Embeds, Matches, Steers
from components.data.text import Tokenizer
from components.export.states import leaves, with_leaves

TEXTS = ("a red circle", "the small blue square is here", "two")
"""What example tokens are made of; numbers that two graphs are compared on, no claim about any model."""


class NotExportable(ValueError):
    """A model, or a part of it, that no graph can be made of; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One function of a model, with inputs to make the graph from and others to try it with."""

    name: str
    module: nn.Module
    """Its forward takes `*inputs`, in this order, and gives a tuple of tensors."""
    inputs: Mapping[str, Tensor]
    """Two rows."""
    growing: Mapping[str, tuple[int, ...]]
    """Dimensions of each input that may have another size: rows, and the tokens read so far."""
    outputs: tuple[str, ...]
    probes: tuple[tuple[Tensor, ...], ...]
    """One row, and three with other lengths."""


@torch.no_grad()
def graphs_of(model: nn.Module, tokenizer: Tokenizer) -> list[Graph]:
    """The graphs of a model in eval mode. Raises NotExportable for a family that none can be made of."""
    pixels, tokens, lengths = _examples(model, tokenizer)
    found: list[Graph] = []
    if isinstance(model, Steers):
        raise NotExportable(
            "A family that steers scores the texts of its candidates one by one as it writes (MAGIC); export the CLIP "
            "and the language model that it was handed."
        )
    if isinstance(model, Embeds):
        found.append(_of_rows("image", _Call(model.embed_images), {"pixels": pixels}))
        texts = {"tokens": tokens, "lengths": lengths}
        found.append(_of_rows("text", _Call(model.embed_texts), texts, {"tokens": (0, 1)}))
    if isinstance(model, Captions):
        found += _captioner(model, pixels, tokens)
    elif isinstance(model, Matches) and not isinstance(model, Embeds):
        pairs = {"pixels": pixels, "tokens": tokens, "lengths": lengths}
        found.append(_of_rows("match", _Call(model.match), pairs, {"tokens": (0, 1)}))
    if not found:
        raise NotExportable(
            f"{type(model).__name__} neither embeds, nor writes captions, nor matches: what it does besides (boxes, "
            "whose number depends on the image) is no graph of fixed shape."
        )
    return found


class _Call(nn.Module):
    """A method as a module, whose parameters are those of the model it belongs to."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.model = method.__self__
        self._name = method.__name__

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (getattr(self.model, self._name)(*inputs),)


class _Prefill(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        state, logits_BV, _ = self.model.prefill(*inputs)
        return logits_BV, *leaves(state)


class _Step(nn.Module):
    def __init__(self, model: Any, like: Any) -> None:
        super().__init__()
        self.model, self._like = model, like

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tokens_N, *state = inputs
        after, hidden_ND = self.model.step(with_leaves(self._like, state), tokens_N)
        return self.model.logits(hidden_ND), *leaves(after)


def _of_rows(
    name: str,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    growing: Mapping[str, tuple[int, ...]] | None = None,
) -> Graph:
    """A graph whose inputs all have a row each; probes are one of three rows, and all of them."""
    growing = {each: (growing or {}).get(each, (0,)) for each in inputs}
    return Graph(
        name=name,
        module=module,
        inputs={each: value[:2] for each, value in inputs.items()},
        growing=growing,
        outputs=("score" if name == "match" else "embedded",),
        probes=(_cut(inputs, [2]), _cut(inputs, [0, 1, 2])),
    )


def _cut(inputs: Mapping[str, Tensor], rows: Sequence[int]) -> tuple[Tensor, ...]:
    """Rows of each input, tokens no longer than the longest text among them."""
    chosen = {name: value[list(rows)] for name, value in inputs.items()}
    if "lengths" in chosen:
        chosen["tokens"] = chosen["tokens"][:, : int(chosen["lengths"].max())]
    return tuple(chosen.values())


def _captioner(model: Any, pixels: Tensor, tokens: Tensor) -> list[Graph]:
    first, _, _ = model.prefill(pixels[:2])
    after, _ = model.step(first, tokens[:2, 1])
    longer, _ = model.step(after, tokens[:2, 1])
    three, _, _ = model.prefill(pixels)
    names = tuple(f"state_{number}" for number in range(len(leaves(first))))
    outputs = ("logits", *(f"new_{name}" for name in names))
    sizes = zip(leaves(first), leaves(after), leaves(three), strict=True)
    growing = {
        name: tuple(
            place
            for place, (two, read, rows) in enumerate(
                zip(*(each.shape for each in same), strict=True)
            )
            if two != read or two != rows
        )
        for name, same in zip(names, sizes, strict=True)
    }
    step = Graph(
        name="step",
        module=_Step(model, first),
        inputs={"tokens": tokens[:2, 1], **dict(zip(names, leaves(after), strict=True))},
        growing={"tokens": (0,), **growing},
        outputs=outputs,
        probes=((tokens[:, 1], *leaves(three)), (tokens[:2, 1], *leaves(longer))),
    )
    prefill = Graph(
        name="prefill",
        module=_Prefill(model),
        inputs={"pixels": pixels[:2]},
        growing={"pixels": (0,)},
        outputs=outputs,
        probes=((pixels[:1],), (pixels,)),
    )
    return [prefill, step]


def _examples(model: Any, tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    spec = model.batch_spec()
    draw = torch.Generator().manual_seed(0)
    side = (len(TEXTS), 3, spec.image_px, spec.image_px)
    pixels = torch.randint(0, 256, side, generator=draw, dtype=torch.uint8)
    tokens, lengths = tokenizer.encode(list(TEXTS), spec.max_tokens)
    return pixels, torch.as_tensor(tokens), torch.as_tensor(lengths)
