"""Which graphs a model is exported as: its abilities decide, as for how it is measured.

Embeds    image, text                        pixels -> embedding; tokens, lengths -> embedding
Captions  prefill, step                      pixels -> logits, state; tokens, state -> logits, state
Matches   match                              pixels, tokens, lengths -> score (captioners match by what they write)
Steers    image, text, prefill, step, logits its CLIP's two towers, and its language model's; the search is outside
Detects   text, search, regions, scores      names -> embedding; pixels -> boxes, maps; boxes -> embeddings -> scores
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from components.abilities import Captions, Detects, Embeds, Matches, Steers
from components.data.text import Tokenizer
from components.export.detecting import detector
from components.export.graph import Call, Graph, NotExportable, of_rows
from components.export.writing import captioner, language_model

TEXTS = ("a red circle", "the small blue square is here", "two")
"""What example tokens are made of; numbers that two graphs are compared on, no claim about any model."""


@torch.no_grad()
def graphs_of(model: nn.Module, tokenizer: Tokenizer) -> list[Graph]:
    """The graphs of a model in eval mode. Raises NotExportable for a family that none can be made of."""
    made: Any = model
    pixels, tokens, lengths = _examples(made, tokenizer)
    if isinstance(model, Steers):
        return [
            *_embedder(made.clip, made.handed_parts["clip"].tokenizer),
            *language_model(made.lm, tokens),
        ]
    if isinstance(model, Detects):
        return [_text(made.clip, tokens, lengths), *detector(made, pixels)]
    found = _embedder(made, tokenizer) if isinstance(model, Embeds) else []
    if isinstance(model, Captions):
        found += captioner(made, pixels, tokens)
    elif isinstance(model, Matches) and not isinstance(model, Embeds):
        pairs = {"pixels": pixels, "tokens": tokens, "lengths": lengths}
        found.append(of_rows("match", Call(made.match), pairs, {"tokens": (0, 1)}))
    if not found:
        raise NotExportable(
            f"{type(model).__name__} neither embeds, nor writes captions, nor matches, nor detects: what it does besides "
            "has no graph. `--format hub` writes any family."
        )
    return found


def _embedder(model: Any, tokenizer: Tokenizer) -> list[Graph]:
    pixels, tokens, lengths = _examples(model, tokenizer)
    image = of_rows("image", Call(model.embed_images), {"pixels": pixels})
    return [image, _text(model, tokens, lengths)]


def _text(model: Any, tokens: Tensor, lengths: Tensor) -> Graph:
    texts = {"tokens": tokens, "lengths": lengths}
    return of_rows("text", Call(model.embed_texts), texts, {"tokens": (0, 1)})


def _examples(model: Any, tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    spec = model.batch_spec()
    draw = torch.Generator().manual_seed(0)
    side = (len(TEXTS), 3, spec.image_px, spec.image_px)
    pixels = torch.randint(0, 256, side, generator=draw, dtype=torch.uint8)
    tokens, lengths = tokenizer.encode(list(TEXTS), spec.max_tokens)
    return pixels, torch.as_tensor(tokens), torch.as_tensor(lengths)
