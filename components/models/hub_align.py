"""ALIGN in transformers' layout (AlignModel): which of its tensors and settings are which of ours."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from components.models import hub_layout
from components.models.align import Align, AlignConfig
from components.models.efficientnet import channels
from components.models.hub_layout import HubLayoutRefused, Names
from components.models.lite0 import STAGES

TEXT = {
    "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 512, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "layer_norm_eps": 1e-12, "type_vocab_size": 2,
}  # fmt: skip
VISION: dict[str, Any] = {
    "image_size": 600, "width_coefficient": 2.0, "depth_coefficient": 3.1, "depth_divisor": 8,
    "depthwise_padding": [], "hidden_act": "swish", "pooling_type": "mean", "batch_norm_eps": 1e-3,
    "squeeze_expansion_ratio": 0.25, "drop_connect_rate": 0.2, "num_channels": 3,
    "num_block_repeats": [repeats for repeats, *_ in STAGES],
    "kernel_sizes": [kernel for _, kernel, *_ in STAGES],
    "strides": [stride for _, _, stride, *_ in STAGES],
    "expand_ratios": [expand for *_, expand, _ in STAGES],
    "in_channels": [32, *(out for *_, out in STAGES[:-1])],
    "out_channels": [out for *_, out in STAGES],
}  # fmt: skip
"""transformers' defaults, which it does not write."""

FIXED_TEXT = ("hidden_act", "layer_norm_eps", "type_vocab_size")
FIXED_VISION = (
    "depth_divisor", "hidden_act", "pooling_type", "batch_norm_eps", "squeeze_expansion_ratio",
    "num_channels", "num_block_repeats", "kernel_sizes", "strides", "expand_ratios", "in_channels",
    "out_channels",
)  # fmt: skip

IGNORED = (
    "text_model.embeddings.position_ids",
    "text_model.pooler.dense.weight",
    "text_model.pooler.dense.bias",
)
"""A buffer of older versions, and the tanh pooler, which AlignModel holds and never asks."""
PREPROCESSOR = "preprocessor_config.json"


def from_pretrained(folder: Path) -> Align:
    """An ALIGN with the folder's weights, in eval mode. Raises HubLayoutRefused.

    Colours are normalised as the folder's preprocessor_config.json says; without one, by ImageNet's mean.
    """
    config = config_of(hub_layout.read_config(folder, "align"), pixels(folder))
    model = Align(config)
    hub_layout.load(model, folder, names(config), ignored=IGNORED)
    return model.eval()


def save_pretrained(model: Align, folder: Path) -> None:
    """Write an ALIGN with an EfficientNet so that transformers' AlignModel reads it. Raises HubLayoutRefused.

    transformers starts AlignModel's pooler anew, which nothing there reads either.
    """
    config = model.config
    if config.vision != "efficientnet":
        raise HubLayoutRefused(
            f'This ALIGN has vision="{config.vision}", and transformers\' AlignModel knows only an EfficientNet; '
            "train one with `vision: efficientnet`, or keep the checkpoint as it is."
        )
    hub_layout.write(model, folder, names(config), hub_config(config))


def config_of(hub: dict[str, Any], normalisation: dict[str, Any] | None = None) -> AlignConfig:
    """Our config for theirs. Raises HubLayoutRefused for a setting that our layers do not have."""
    text = hub_layout.settings(hub.get("text_config") or {}, TEXT)
    vision = hub_layout.settings(hub.get("vision_config") or {}, VISION)
    fixed_text = {name: TEXT[name] for name in FIXED_TEXT}
    fixed_text["intermediate_size"] = 4 * text["hidden_size"]
    hub_layout.require(text, fixed_text, "text_config")
    hub_layout.require(vision, {name: VISION[name] for name in FIXED_VISION}, "vision_config")
    embedding = channels(320, vision["width_coefficient"])
    hub_layout.require({"projection_dim": 640} | hub, {"projection_dim": embedding}, "config.json")
    return AlignConfig(
        image_px=vision["image_size"], width_factor=vision["width_coefficient"],
        depth_factor=vision["depth_coefficient"], drop=vision["drop_connect_rate"],
        square_padding=vision["depthwise_padding"], max_tokens=min(64, text["max_position_embeddings"]),
        positions=text["max_position_embeddings"], text_width=text["hidden_size"],
        text_layers=text["num_hidden_layers"], text_heads=text["num_attention_heads"],
        text_dropout=text["hidden_dropout_prob"], temperature=hub.get("temperature_init_value", 1.0),
        vocab_size=text["vocab_size"], **normalisation or {},
    )  # fmt: skip


def hub_config(config: AlignConfig) -> dict[str, Any]:
    """Their config for ours."""
    embedding = channels(320, config.width_factor)
    text = TEXT | {
        "model_type": "align_text_model", "vocab_size": config.vocab_size,
        "hidden_size": config.text_width, "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_layers, "num_attention_heads": config.text_heads,
        "max_position_embeddings": config.positions, "hidden_dropout_prob": config.text_dropout,
        "attention_probs_dropout_prob": config.text_dropout, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": config.vocab_size - 1,
    }  # fmt: skip
    vision = VISION | {
        "model_type": "align_vision_model", "image_size": config.image_px,
        "width_coefficient": config.width_factor, "depth_coefficient": config.depth_factor,
        "depthwise_padding": list(config.square_padding), "drop_connect_rate": config.drop,
        "hidden_dim": embedding,
    }  # fmt: skip
    return {
        "architectures": ["AlignModel"],
        "model_type": "align",
        "dtype": "float32",
        "projection_dim": embedding,
        "temperature_init_value": config.temperature,
        "text_config": text,
        "vision_config": vision,
    }


def pixels(folder: Path) -> dict[str, Any]:
    """`pixel_mean` and `pixel_std` for colours in [0, 1], as transformers' image processor of the folder makes them."""
    file = folder / PREPROCESSOR
    if not file.exists():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    factor, offset = (
        255 * found.get("rescale_factor", 1 / 255),
        float(found.get("rescale_offset", False)),
    )
    plain = not found.get("do_normalize", True)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (found["image_mean"], found["image_std"])
    return {
        "pixel_mean": tuple((offset + each) / factor for each in mean),
        "pixel_std": tuple(each / factor for each in std),
    }


def names(config: AlignConfig) -> Names:
    """Our tensors -> theirs; queries, keys and values are one matrix here."""
    found: dict[str, str | tuple[str, ...]] = {"temperature": "temperature"}
    embeddings = "text_model.embeddings"
    for ours, theirs in (("words", "word"), ("places", "position"), ("segments", "token_type")):
        found[f"text.{ours}.weight"] = f"{embeddings}.{theirs}_embeddings.weight"
    for kind in ("weight", "bias"):
        found[f"projection.{kind}"] = f"text_projection.{kind}"
        found[f"text.norm.{kind}"] = f"{embeddings}.LayerNorm.{kind}"
    for number in range(config.text_layers):
        found |= _layer(f"text.blocks.{number}", f"text_model.encoder.layer.{number}")
    return found | _tower(config)


def _layer(ours: str, theirs: str) -> dict[str, str | tuple[str, ...]]:
    found: dict[str, str | tuple[str, ...]] = {}
    for kind in ("weight", "bias"):
        attention = f"{theirs}.attention"
        found[f"{ours}.attention.inward.{kind}"] = tuple(
            f"{attention}.self.{part}.{kind}" for part in ("query", "key", "value")
        )
        found[f"{ours}.attention.outward.{kind}"] = f"{attention}.output.dense.{kind}"
        found[f"{ours}.norm_attention.{kind}"] = f"{attention}.output.LayerNorm.{kind}"
        found[f"{ours}.layers.0.{kind}"] = f"{theirs}.intermediate.dense.{kind}"
        found[f"{ours}.layers.2.{kind}"] = f"{theirs}.output.dense.{kind}"
        found[f"{ours}.norm_layers.{kind}"] = f"{theirs}.output.LayerNorm.{kind}"
    return found


def _tower(config: AlignConfig) -> dict[str, str]:
    tower, theirs = "vision.tower", "vision_model.embeddings"
    found = _conv_norm(f"{tower}.stem", f"{theirs}.convolution", f"{theirs}.batchnorm")
    expands = [
        expand
        for repeats, _, _, expand, _ in STAGES
        for _ in range(math.ceil(config.depth_factor * repeats))
    ]
    for number, expand in enumerate(expands):
        ours, block = f"{tower}.blocks.{number}", f"vision_model.encoder.blocks.{number}"
        for mine, conv, norm in (
            ("expand", "expansion.expand_conv", "expansion.expand_bn"),
            ("depthwise", "depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
            ("narrow", "projection.project_conv", "projection.project_bn"),
        ):
            if mine != "expand" or expand > 1:
                found |= _conv_norm(f"{ours}.{mine}", f"{block}.{conv}", f"{block}.{norm}")
        for part in ("reduce", "expand"):
            for kind in ("weight", "bias"):
                found[f"{ours}.squeeze.{part}.{kind}"] = f"{block}.squeeze_excite.{part}.{kind}"
    return found


def _conv_norm(ours: str, conv: str, norm: str) -> dict[str, str]:
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{ours}.0.weight": f"{conv}.weight"} | {
        f"{ours}.1.{kind}": f"{norm}.{kind}" for kind in kinds
    }
