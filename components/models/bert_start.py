"""VisualBERT starts from the weights of a BERT, or of another VisualBERT, where these fit tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.config import ConfigError
from components.models.parts import Part
from components.models.text_bert import TextBert


def copy_bert(part: Part, model: nn.Module) -> None:
    """Copy a TextBert's weights, or all but the tower and the answers of a VisualBERT's.

    Raises ConfigError, nothing copied, for another model or other sizes.
    """
    named = f"The text model {part.origin.kind}:{part.origin.name}"
    if not isinstance(part.module, TextBert | type(model)):
        raise ConfigError(
            f"{named} is a {type(part.module).__name__}; VisualBERT starts from a TextBert or a VisualBERT."
        )
    whole = isinstance(part.module, type(model))
    theirs, ours = (
        {name: value for name, value in made.state_dict().items() if _is_start(name, whole)}
        for made in (part.module, model)
    )
    _refuse_unlike(named, theirs, ours, "width, layers, heads, positions and vocabulary")
    heads = part.module.config.heads, model.config.heads
    if heads[0] != heads[1]:
        raise ConfigError(
            f"{named} has {heads[0]} heads, VisualBERT {heads[1]}; give both the same."
        )
    with torch.no_grad():
        for name, value in ours.items():
            value.copy_(theirs[name])


def _is_start(name: str, whole: bool) -> bool:
    # Statistics of regions belong to the tower they were looked at with.
    own = ("vision.", "answering.", "standardised.")
    return not name.startswith(own) if whole else name.startswith("bert.")


def _refuse_unlike(
    named: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], settings: str
) -> None:
    """Raise ConfigError unless both have the same tensors in the same shapes.

    named: whose tensors come, as an error says it. settings: those that must be equal.
    """
    unlike = [
        f"{name} {tuple(theirs[name].shape) if name in theirs else 'missing'}"
        for name, value in ours.items()
        if name not in theirs or theirs[name].shape != value.shape
    ] + sorted(theirs.keys() - ours.keys())
    if unlike:
        raise ConfigError(
            f"{named} does not fit: {unlike[0]} of {len(unlike)} tensors. Give both configs the same {settings}."
        )
