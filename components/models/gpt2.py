"""GPT-2's layers, written out so that a family can put its own between them (Radford et al. 2019).

Names, products and their order are GPT-2's: with copied weights the states are bitwise those of `transformers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.config import ConfigError
from components.models.blocks import KeysValues, attend
from components.models.parts import Part


class Affine(nn.Module):
    """`x W + b` with W as (in, out), the way GPT-2 stores it: a transposed product rounds otherwise."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inward, outward))
        self.bias = nn.Parameter(torch.zeros(outward))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x_BTD: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x_BTD.reshape(-1, x_BTD.shape[-1]), self.weight)
        return flat.view(*x_BTD.shape[:-1], -1)


class CausalAttention(nn.Module):
    """Each token looks at those before it and at itself."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn = Affine(width, 3 * width)
        self.c_proj = Affine(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x_BTD: Tensor, past: KeysValues | None, mask: Tensor | None
    ) -> tuple[Tensor, KeysValues]:
        """What was seen, and keys and values up to the end; `past` and `mask` as in `blocks.attend`."""
        mixed_BTD, kept = attend(
            self.c_attn(x_BTD), self.heads, past, causal=True, mask=mask,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.drop(self.c_proj(mixed_BTD)), kept


class TwoLayers(nn.Module):
    """Four times as wide, GELU by its tanh formula, and back."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.c_fc = Affine(width, 4 * width)
        self.c_proj = Affine(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.drop(self.c_proj(gelu_new(self.c_fc(x_BTD))))


def gelu_new(x: Tensor) -> Tensor:
    """GELU as GPT-2 computes it; torch's kernel of the same formula rounds otherwise."""
    return (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
    )


def initialise_gpt2(blocks: nn.ModuleList) -> None:
    """What leads back into the sum starts smaller the deeper the model: 0.02 / (2 layers)^1/2."""
    for block in blocks:
        for layer in (block.attn.c_proj, block.mlp.c_proj):
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * len(blocks)))


def copy_gpt2(part: Part, decoder: nn.Module, *, heads: int) -> None:
    """Copy a GPT-2's weights into `decoder`'s tensors of the same names; of positions, as many as it has.

    decoder: has `wte`, `wpe`, `h` (whose blocks may hold more than GPT-2's) and `ln_f`.
    Raises ConfigError, nothing copied, for a language model of another layout, width, depth, heads or vocabulary, or
    with too few positions.
    """
    theirs, ours = _weights(part, heads), decoder.state_dict(keep_vars=True)
    missing = sorted(theirs.keys() - ours.keys())
    if missing:
        raise _no_fit(part, f"it has more layers: {missing[0]} and {len(missing) - 1} tensors more")
    places = ours["wpe.weight"].shape[0]
    if theirs["wpe.weight"].shape[0] < places:
        raise _no_fit(
            part, f"it has {theirs['wpe.weight'].shape[0]} positions, max_tokens={places}"
        )
    taken = {
        name: value[:places] if name == "wpe.weight" else value for name, value in theirs.items()
    }
    for name, value in taken.items():
        if value.shape != ours[name].shape:
            raise _no_fit(part, f"{name} is {tuple(value.shape)}, ours {tuple(ours[name].shape)}")
    _refuse_fewer_layers(part, theirs, len(decoder.h))
    with torch.no_grad():
        for name, value in taken.items():
            ours[name].copy_(value)


def _weights(part: Part, heads: int) -> Mapping[str, Tensor]:
    model = next((made for made in part.module.modules() if _is_gpt2(made)), None)
    if model is None:
        raise _no_fit(part, "it is not of GPT-2's layout")
    about = model.config
    if about.n_head != heads:
        raise _no_fit(part, f"it has {about.n_head} heads, ours {heads}")
    if about.activation_function != "gelu_new" or about.layer_norm_epsilon != 1e-5:
        raise _no_fit(part, f"its activation {about.activation_function} or norms are not GPT-2's")
    weights: Mapping[str, Tensor] = model.transformer.state_dict()
    return weights


def _is_gpt2(module: nn.Module) -> bool:
    return getattr(getattr(module, "config", None), "model_type", "") == "gpt2" and hasattr(
        module, "transformer"
    )


def _refuse_fewer_layers(part: Part, theirs: Mapping[str, Tensor], layers: int) -> None:
    found = len({name.split(".")[1] for name in theirs if name.startswith("h.")})
    if found != layers:
        raise _no_fit(part, f"it has {found} layers, ours {layers}")


def _no_fit(part: Part, why: str) -> ConfigError:
    return ConfigError(
        f"The language model {part.origin.kind}:{part.origin.name} does not fit: {why}. Give the family's config its "
        "sizes (width, layers, heads, max_tokens), or train a language model of these."
    )
