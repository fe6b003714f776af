"""VisualBERT in the Hub's layout: a folder with `config.json` and `model.safetensors`, in transformers' names.

Read and written from local folders alone; nothing is fetched and no code of a folder is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from components.config import ConfigError
from components.data import atomic
from components.models.parts import Part
from components.models.visualbert import VisualBert, VisualBertConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "visual_bert"
PRETRAINING, ANSWERING = "VisualBertForPreTraining", "VisualBertForQuestionAnswering"

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "max_position_embeddings": "positions",
    "hidden_dropout_prob": "dropout",
}
"""Their name of a setting -> ours."""
_FIXED = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "bypass_transformer": False,
    "tie_word_embeddings": True,
}
"""What ours cannot be built otherwise, with transformers' defaults."""

_TRUNK = {
    "embeddings.word_embeddings.weight": "bert.words.weight",
    "embeddings.position_embeddings.weight": "bert.places.weight",
    "embeddings.token_type_embeddings.weight": "bert.segments.weight",
    "embeddings.LayerNorm.weight": "bert.norm.weight",
    "embeddings.LayerNorm.bias": "bert.norm.bias",
    "embeddings.visual_token_type_embeddings.weight": "visual_segments.weight",
    "embeddings.visual_position_embeddings.weight": "visual_places.weight",
    "embeddings.visual_projection.weight": "inward.weight",
    "embeddings.visual_projection.bias": "inward.bias",
    "pooler.dense.weight": "pooler.weight",
    "pooler.dense.bias": "pooler.bias",
}
_LAYER = {
    "attention.output.dense": "attention.outward",
    "attention.output.LayerNorm": "norm_attention",
    "intermediate.dense": "layers.0",
    "output.dense": "layers.2",
    "output.LayerNorm": "norm_layers",
}
_HEADS = {
    PRETRAINING: {
        "cls.predictions.transform.dense.weight": "bert.head.0.weight",
        "cls.predictions.transform.dense.bias": "bert.head.0.bias",
        "cls.predictions.transform.LayerNorm.weight": "bert.head.2.weight",
        "cls.predictions.transform.LayerNorm.bias": "bert.head.2.bias",
        "cls.predictions.bias": "bert.head_bias",
        "cls.seq_relationship.weight": "matching.weight",
        "cls.seq_relationship.bias": "matching.bias",
    },
    ANSWERING: {"cls.weight": "answering.weight", "cls.bias": "answering.bias"},
}
_TIED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
"""What older folders hold twice: the words' vectors, and the head's bias."""
_DERIVED = {"visual_bert.embeddings.position_ids"}
"""Tensors of older folders that are no weights."""


class FolderRefused(ValueError):
    """A folder that holds no VisualBERT this code can build; the message says what is wrong with it."""


def from_pretrained(
    folder: Path, parts: Mapping[str, Part] | None = None, **settings: Any
) -> VisualBert:
    """The VisualBERT in a folder, in eval mode.

    settings: the rest of our config, which theirs does not hold: `vision` and what belongs to it, `max_tokens`, special
    ids, and `visual_segment`, which must be what the checkpoint was made with and by default is transformers' 1. Heads
    that the folder's architecture lacks stay random. Raises FolderRefused naming the folder, and ConfigError where our
    vision's map is not as wide as its regions.
    """
    about = _read_config(folder)
    architecture = _architecture(folder, about)
    config = VisualBertConfig(**_our_config(folder, about, architecture, settings))
    model = VisualBert(config, parts or {})
    wanted = about.get("visual_embedding_dim", 512)
    if model.vision.map_width != wanted:
        raise ConfigError(
            f"{folder} reads regions {wanted} wide, and the map of vision={config.vision!r} is "
            f"{model.vision.map_width} wide; choose a vision as wide as its regions."
        )
    _fill(folder, model, architecture)
    return model.eval()


def save_pretrained(model: VisualBert, folder: Path, architecture: str = PRETRAINING) -> None:
    """Write a model for transformers, each file whole or not at all; the tower and the special ids are not in it.

    Regions are standardised inside the first matrix: transformers gets them as the tower gives them.
    architecture: `VisualBertForPreTraining` (words and matching) or `VisualBertForQuestionAnswering` (answers).
    Raises FolderRefused for a head the model lacks.
    """
    if architecture not in _HEADS or (architecture == ANSWERING and model.answering is None):
        known = [PRETRAINING, *([ANSWERING] if model.answering is not None else [])]
        raise FolderRefused(
            f"This model has no {architecture}; it can be saved as {', '.join(known)}."
        )
    ours = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    ours |= _folded(model)
    weights = {their: ours[our] for their, our in _names(model, architecture).items()}
    weights |= _split_attention(model, ours)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: value.contiguous().clone() for name, value in weights.items()}
    atomic.write_bytes(folder / WEIGHTS, save(whole, metadata={"format": "pt"}))
    atomic.write_json(folder / CONFIG, _their_config(model, architecture))


def _their_config(model: VisualBert, architecture: str) -> dict[str, Any]:
    config = model.config
    about = {their: getattr(config, our) for their, our in _SIZES.items()}
    labels = {str(number): answer for number, answer in enumerate(config.answers)}
    return {
        **about,
        **_FIXED,
        "architectures": [architecture],
        "model_type": MODEL_TYPE,
        "attention_probs_dropout_prob": config.dropout,
        "intermediate_size": 4 * config.width,
        "visual_embedding_dim": model.vision.map_width,
        "pad_token_id": 0,
        **({"id2label": labels} if architecture == ANSWERING else {}),
    }


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderRefused(f"{folder}: {CONFIG} cannot be read ({error}).") from error
    kind = about.get("model_type") if isinstance(about, dict) else None
    if kind != MODEL_TYPE:
        raise FolderRefused(f'{folder} holds a model of type "{kind}", not "{MODEL_TYPE}".')
    for name, value in _FIXED.items():
        if about.get(name, value) != value:
            raise FolderRefused(
                f"{folder}: {name} is {about[name]!r}; only {value!r} is built here."
            )
    if about.get("intermediate_size", 3072) != 4 * about.get("hidden_size", 768):
        raise FolderRefused(f"{folder}: intermediate_size is not four times hidden_size.")
    return about


def _architecture(folder: Path, about: Mapping[str, Any]) -> str:
    named = about.get("architectures") or []
    known = [name for name in named if name in _HEADS]
    if not known:
        raise FolderRefused(
            f"{folder} holds {named or 'no architecture'}; known are {', '.join(_HEADS)}."
        )
    return known[0]


def _our_config(
    folder: Path, about: Mapping[str, Any], architecture: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    defaults = {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "max_position_embeddings": 512, "hidden_dropout_prob": 0.1,
    }  # fmt: skip
    ours = {our: about.get(their, defaults[their]) for their, our in _SIZES.items()}
    ours |= {"visual_segment": 1, "standardise_batches": 0}
    if architecture == ANSWERING:
        labels = about.get("id2label", {})
        ours["answers"] = tuple(labels[number] for number in sorted(labels, key=int))
        ours["most_answers"] = len(labels)
    twice = sorted(settings.keys() & set(_SIZES.values()))
    if twice:
        raise ConfigError(f"{folder} says itself what {', '.join(twice)} are; leave them out.")
    return {**ours, **settings}


def _fill(folder: Path, model: VisualBert, architecture: str) -> None:
    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise FolderRefused(f"{folder}: {WEIGHTS} cannot be read ({error}).") from error
    names, ours = _names(model, architecture), model.state_dict()
    attention = _attention_names(model)
    wanted = {*names, *attention}
    strange = sorted(found.keys() - wanted - _TIED - _DERIVED)
    missing = sorted(wanted - found.keys())
    if strange or missing:
        raise FolderRefused(
            f"{folder}: tensors missing: {missing[:3] or 'none'}, unexpected: {strange[:3] or 'none'}."
        )
    taken = {our: found[their] for their, our in names.items()}
    for our, theirs in _grouped(attention).items():
        taken[our] = torch.cat([found[name] for name in theirs])
    for name, value in taken.items():
        if value.shape != ours[name].shape:
            wrong = f"{tuple(value.shape)}, its config says {tuple(ours[name].shape)}"
            raise FolderRefused(f"{folder}: what becomes {name} is {wrong}.")
    with torch.no_grad():
        for name, value in taken.items():
            ours[name].copy_(value)


def _names(model: VisualBert, architecture: str) -> dict[str, str]:
    """Their name -> ours, of tensors that are the same in both."""
    names = {f"visual_bert.{their}": our for their, our in _TRUNK.items()}
    for number in range(model.config.layers):
        for their, our in _LAYER.items():
            for kind in ("weight", "bias"):
                layer = f"visual_bert.encoder.layer.{number}.{their}.{kind}"
                names[layer] = f"bert.blocks.{number}.{our}.{kind}"
    return names | _HEADS[architecture]


def _attention_names(model: VisualBert) -> dict[str, str]:
    """Their queries, keys and values, three tensors -> ours, one: in this order."""
    return {
        f"visual_bert.encoder.layer.{number}.attention.self.{part}.{kind}": (
            f"bert.blocks.{number}.attention.inward.{kind}"
        )
        for number in range(model.config.layers)
        for kind in ("weight", "bias")
        for part in ("query", "key", "value")
    }


def _grouped(names: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for their, our in names.items():
        grouped.setdefault(our, []).append(their)
    return grouped


def _split_attention(model: VisualBert, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        their: part
        for our, theirs in _grouped(_attention_names(model)).items()
        for their, part in zip(theirs, ours[our].chunk(3), strict=True)
    }


def _folded(model: VisualBert) -> dict[str, Tensor]:
    """The first matrix with standardising inside: `W ((x - m) / s) + b = (W / s) x + (b - W m / s)`."""
    standard = model.standardised
    weight = model.inward.weight.detach() / standard.deviation
    bias = model.inward.bias.detach() - weight @ standard.mean
    return {"inward.weight": weight.cpu(), "inward.bias": bias.cpu()}
