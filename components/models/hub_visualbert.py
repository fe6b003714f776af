"""VisualBERT in transformers' layout: which of its tensors and settings are which of ours.

The image tower and the special ids are not in such a folder: transformers' VisualBERT is handed regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from components.config import ConfigError
from components.models import hub_layout
from components.models.hub_layout import HubLayoutRefused, Names
from components.models.parts import Part
from components.models.visualbert import VisualBert, VisualBertConfig

MODEL_TYPE = "visual_bert"
PRETRAINING, ANSWERING = "VisualBertForPreTraining", "VisualBertForQuestionAnswering"

SIZES = {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("width", 768),
    "num_hidden_layers": ("layers", 12),
    "num_attention_heads": ("heads", 12),
    "max_position_embeddings": ("positions", 512),
    "hidden_dropout_prob": ("dropout", 0.1),
}
"""Their name of a setting -> ours, and transformers' default, which it does not always write."""
FIXED = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "bypass_transformer": False,
    "tie_word_embeddings": True,
}
"""The one way our layers work; transformers' defaults too."""
IGNORED = (
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "visual_bert.embeddings.position_ids",
)
"""What older folders hold twice (the words' vectors, the head's bias), and 0, 1, 2, ..."""

TRUNK = {
    "bert.words": "embeddings.word_embeddings",
    "bert.places": "embeddings.position_embeddings",
    "bert.segments": "embeddings.token_type_embeddings",
    "visual_segments": "embeddings.visual_token_type_embeddings",
    "visual_places": "embeddings.visual_position_embeddings",
}
"""Tables: a weight each."""
TRUNK_LAYERS = {
    "bert.norm": "embeddings.LayerNorm",
    "inward": "embeddings.visual_projection",
    "pooler": "pooler.dense",
}
BLOCK = {
    "attention.outward": "attention.output.dense",
    "norm_attention": "attention.output.LayerNorm",
    "layers.0": "intermediate.dense",
    "layers.2": "output.dense",
    "norm_layers": "output.LayerNorm",
}
HEADS = {
    PRETRAINING: {
        "bert.head.0": "cls.predictions.transform.dense",
        "bert.head.2": "cls.predictions.transform.LayerNorm",
        "matching": "cls.seq_relationship",
    },
    ANSWERING: {"answering": "cls"},
}


def from_pretrained(
    folder: Path, parts: Mapping[str, Part] | None = None, **settings: Any
) -> VisualBert:
    """A VisualBERT with the folder's weights, in eval mode; a head that its architecture lacks stays random.

    settings: what their config does not hold: `vision` and what belongs to it, `max_tokens`, special ids, and
    `visual_segment`, which must be what the checkpoint was made with and by default is transformers' 1. Raises
    HubLayoutRefused, and ConfigError where the map of our vision is not as wide as its regions.
    """
    hub = hub_layout.read_config(folder, MODEL_TYPE)
    architecture = _architecture(hub, folder)
    model = VisualBert(config_of(hub, architecture, settings), parts or {})
    regions = hub.get("visual_embedding_dim", 512)
    if model.vision.map_width != regions:
        raise ConfigError(
            f"{folder} reads regions {regions} wide, and the map of vision={model.config.vision!r} is "
            f"{model.vision.map_width} wide; choose a vision as wide as its regions."
        )
    named = names(model.config.layers, architecture)
    shown = _Shown({name: value for name, value in model.state_dict().items() if name in named})
    hub_layout.load(shown, folder, named, ignored=IGNORED)
    return model.eval()


def save_pretrained(model: VisualBert, folder: Path, architecture: str = PRETRAINING) -> None:
    """Write a model so that transformers reads it and is handed regions as our tower gives them.

    Standardising is folded into the matrix that regions meet first. architecture: `VisualBertForPreTraining` (words
    and matching) or `VisualBertForQuestionAnswering`. Raises HubLayoutRefused for a head the model lacks.
    """
    known = [PRETRAINING, *([ANSWERING] if model.answering is not None else [])]
    if architecture not in known:
        raise HubLayoutRefused(
            f'This model has no "{architecture}"; it can be saved as {" or ".join(known)}.'
        )
    named = names(model.config.layers, architecture)
    tensors = model.state_dict() | folded(model)
    shown = _Shown({name: value for name, value in tensors.items() if name in named})
    folder.mkdir(parents=True, exist_ok=True)
    hub_layout.write(shown, folder, named, hub_config(model, architecture))


def config_of(
    hub: Mapping[str, Any], architecture: str, settings: Mapping[str, Any]
) -> VisualBertConfig:
    """Our config for theirs and our own settings. Raises HubLayoutRefused for what our layers do not have."""
    theirs = hub_layout.settings(hub, {**FIXED, "hidden_size": 768, "intermediate_size": 3072})
    hub_layout.require(
        theirs, {**FIXED, "intermediate_size": 4 * theirs["hidden_size"]}, "config.json"
    )
    ours = {our: hub.get(their, default) for their, (our, default) in SIZES.items()}
    if twice := sorted(settings.keys() & ours.keys()):
        raise ConfigError(f"The folder itself says what {', '.join(twice)} are; leave them out.")
    if architecture == ANSWERING:
        labels = hub.get("id2label", {})
        answers = tuple(labels[number] for number in sorted(labels, key=int))
        ours |= {"answers": answers, "most_answers": len(answers)}
    return VisualBertConfig(**{"visual_segment": 1, "standardise_batches": 0, **ours, **settings})


def hub_config(model: VisualBert, architecture: str) -> dict[str, Any]:
    """Their config for a model of ours."""
    config = model.config
    labels = {str(number): answer for number, answer in enumerate(config.answers)}
    return {
        **{their: getattr(config, our) for their, (our, _) in SIZES.items()},
        **FIXED,
        "architectures": [architecture],
        "model_type": MODEL_TYPE,
        "attention_probs_dropout_prob": config.dropout,
        "intermediate_size": 4 * config.width,
        "visual_embedding_dim": model.vision.map_width,
        "pad_token_id": 0,
        **({"id2label": labels} if architecture == ANSWERING else {}),
    }


def names(layers: int, architecture: str) -> Names:
    """Our tensors' names -> theirs, of a model of so many blocks and the heads of an architecture."""
    found: dict[str, str | tuple[str, ...]] = {
        f"{our}.weight": f"visual_bert.{their}.weight" for our, their in TRUNK.items()
    }
    pairs = {our: f"visual_bert.{their}" for our, their in TRUNK_LAYERS.items()}
    pairs |= HEADS[architecture]
    for number in range(layers):
        block, layer = f"bert.blocks.{number}", f"visual_bert.encoder.layer.{number}"
        pairs |= {f"{block}.{our}": f"{layer}.{their}" for our, their in BLOCK.items()}
        for kind in ("weight", "bias"):
            found[f"{block}.attention.inward.{kind}"] = tuple(
                f"{layer}.attention.self.{part}.{kind}" for part in ("query", "key", "value")
            )
    if architecture == PRETRAINING:
        found["bert.head_bias"] = "cls.predictions.bias"
    return found | {
        f"{our}.{kind}": f"{their}.{kind}"
        for our, their in pairs.items()
        for kind in ("weight", "bias")
    }


def folded(model: VisualBert) -> dict[str, Tensor]:
    """The first matrix with standardising inside: `W ((x - m) / s) + b = (W / s) x + (b - W m / s)`."""
    standard = model.standardised
    weight = model.inward.weight.detach() / standard.deviation
    return {
        "inward.weight": weight,
        "inward.bias": model.inward.bias.detach() - weight @ standard.mean,
    }


def _architecture(hub: Mapping[str, Any], folder: Path) -> str:
    named = hub.get("architectures") or []
    known = [name for name in named if name in HEADS]
    if not known:
        raise HubLayoutRefused(
            f"{folder} holds {', '.join(named) or 'no architecture'}; {' and '.join(HEADS)} can be read."
        )
    return str(known[0])


class _Shown(nn.Module):
    """The tensors of a model that a folder holds, and no others."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._tensors = dict(tensors)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        return self._tensors
