"""What the tensors of a model are called, each once, and which are its own."""

from __future__ import annotations

from torch import Tensor, nn


def named(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of its own; of tensors that are one (tied embeddings) the first name only.

    What belongs to a part it was handed is not its own: `checkpoint.py` keeps parts apart.
    """
    parts = getattr(model, "handed_parts", {}).values()
    foreign = {
        id(value) for part in parts for value in part.module.state_dict(keep_vars=True).values()
    }
    first: dict[int, str] = {}
    # keep_vars: the very parameters, so that tied ones are one object
    tensors = model.state_dict(keep_vars=True)
    return {
        name: value
        for name, value in tensors.items()
        if first.setdefault(id(value), name) == name and id(value) not in foreign
    }
