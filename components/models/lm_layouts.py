"""How the causal language models of `transformers` are laid out, so that one interface serves all of them.

Nothing is imported before a model is built: `transformers` takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn

from components.config import ConfigError

_UNSAFE = re.compile(r"implementation|auto_map|quantization|remote|kernel")
"""Names of settings by which `transformers` would choose, or fetch, other code."""

SPECIAL_IDS = ("bos", "eos", "pad")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where one kind of model keeps its sizes and parts."""

    module: str
    """The Python module of its classes."""
    config: str
    model: str
    trunk: str
    """Path in the model to what gives the states after the final norm."""
    blocks: str
    """Path in the model to the list of layers."""
    sizes: Mapping[str, str]
    """Our name of a size -> theirs."""
    multiples: Mapping[str, int]
    """Their sizes that follow from the width, and how many times it they are by default."""
    dropouts: tuple[str, ...]
    """Their names of the shares dropped in training."""
    absolute: bool
    """A learned vector for each position: there is a last one."""

    def config_class(self) -> Any:
        """The class of their configurations."""
        return getattr(import_module(self.module), self.config)

    def model_class(self) -> Any:
        """The class of their models."""
        return getattr(import_module(self.module), self.model)


LAYOUTS: Mapping[str, Layout] = {
    "gpt2": Layout(
        module="transformers.models.gpt2",
        config="GPT2Config",
        model="GPT2LMHeadModel",
        trunk="transformer",
        blocks="transformer.h",
        sizes={
            "width": "n_embd",
            "layers": "n_layer",
            "heads": "n_head",
            "positions": "n_positions",
        },
        multiples={"n_inner": 4},
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        absolute=True,
    ),
    "opt": Layout(
        module="transformers.models.opt",
        config="OPTConfig",
        model="OPTForCausalLM",
        trunk="model.decoder",
        blocks="model.decoder.layers",
        sizes={
            "width": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "positions": "max_position_embeddings",
        },
        multiples={"ffn_dim": 4, "word_embed_proj_dim": 1},
        dropouts=("dropout", "attention_dropout"),
        absolute=True,
    ),
    "gpt_neox": Layout(
        module="transformers.models.gpt_neox",
        config="GPTNeoXConfig",
        model="GPTNeoXForCausalLM",
        trunk="gpt_neox",
        blocks="gpt_neox.layers",
        sizes={
            "width": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "positions": "max_position_embeddings",
        },
        multiples={"intermediate_size": 4},
        dropouts=("attention_dropout", "hidden_dropout"),
        absolute=False,
    ),
    "llama": Layout(
        module="transformers.models.llama",
        config="LlamaConfig",
        model="LlamaForCausalLM",
        trunk="model",
        blocks="model.layers",
        sizes={
            "width": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "positions": "max_position_embeddings",
        },
        multiples={"intermediate_size": 4},
        dropouts=("attention_dropout",),
        absolute=False,
    ),
}
"""By their `model_type`."""


def layout_of(name: str) -> Layout:
    """The layout called `name`. Raises ConfigError for one that no adapter is written for."""
    if name not in LAYOUTS:
        raise ConfigError(
            f'No language model layout "{name}". Known: {", ".join(LAYOUTS)}. '
            "A new one is one entry in components/models/lm_layouts.py."
        )
    return LAYOUTS[name]


def build(
    name: str,
    sizes: Mapping[str, int],
    special_ids: Mapping[str, int],
    *,
    vocab_size: int,
    dropout: float,
    settings: Mapping[str, Any],
) -> nn.Module:
    """A model of a layout with random weights. `settings` are theirs, by their names, and come last."""
    layout = layout_of(name)
    theirs = {their: sizes[our] for our, their in layout.sizes.items()}
    theirs |= {their: times * sizes["width"] for their, times in layout.multiples.items()}
    theirs |= {f"{token}_token_id": special_ids[token] for token in SPECIAL_IDS}
    if refused := sorted(key for key in settings if _UNSAFE.search(key)):
        raise ConfigError(
            f"settings of a language model may not hold {', '.join(refused)}: they choose code, and not its numbers."
        )
    chosen = {**theirs, **dict.fromkeys(layout.dropouts, dropout), **settings}
    made: nn.Module = layout.model_class()(layout.config_class()(vocab_size=vocab_size, **chosen))
    return made


def sizes_of(name: str, theirs: Any) -> dict[str, Any]:
    """A `transformers` configuration as ours: width, layers, heads, positions, vocab_size, and the rest as settings."""
    layout = layout_of(name)
    ours = {our: getattr(theirs, their) for our, their in layout.sizes.items()}
    kept = (*layout.multiples, *layout.dropouts, "tie_word_embeddings")
    settings = theirs.to_diff_dict() | {their: getattr(theirs, their) for their in kept}
    told = {*layout.sizes.values(), *(f"{token}_token_id" for token in SPECIAL_IDS), "vocab_size"}
    no_settings = told | {"architectures", "dtype", "model_type", "transformers_version"}
    settings = {key: value for key, value in settings.items() if key not in no_settings}
    return {**ours, "vocab_size": theirs.vocab_size, "settings": settings}
