"""Images -> captions as text, by a decoder and its options; the one place where a plan's options reach a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from components.abilities import Captions
from components.catalog import DECODERS
from components.data.text import Tokenizer
from components.decoding.options import read_by


def write(
    model: Captions,
    tokenizer: Tokenizer,
    pixels_BCHW: Tensor,
    decoding: Mapping[str, Any],
    keys_B: Tensor | None = None,
) -> list[str]:
    """One caption an image, without its prompt, up to where `end` says that it ends.

    decoding: as `EvaluationPlan.decoding` names it. Raises UnknownName for a decoder that there is not, BadOption.
    """
    decoder = DECODERS[decoding["decoder"]]
    prompt = decoding.get("prompt", "")
    ids = tokenizer.words(prompt) if prompt else []  # some tokenizers spell nothing as a space
    written = decoder(
        model,
        pixels_BCHW,
        keys_B,
        eos_id=tokenizer.eos_id,
        max_tokens=decoding["max_tokens"],
        prompts=[ids] * len(pixels_BCHW) if ids else None,
        **read_by(decoder, decoding),
    )
    texts = [tokenizer.decode(row) for row in written]
    end = decoding.get("end", "")
    return [text.partition(end)[0].strip() for text in texts] if end else texts
