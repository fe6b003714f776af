"""CLIP in transformers' layout (CLIPModel): which of its tensors and settings are which of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.models import hub_layout
from components.models.clip import Clip, ClipConfig
from components.models.hub_layout import HubLayoutRefused, Names

TEXT = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5, "eos_token_id": 49407,
}  # fmt: skip
VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "num_channels": 3,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
"""transformers' defaults, which it does not write."""

IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Buffers that older versions stored: 0, 1, 2, ..."""

LEGACY_EOS = 2
"""What openai's configs say instead of 49,407. transformers then pools a text at its largest id, which is the same
place only while `<eos>` is the largest id of the vocabulary."""


def from_pretrained(folder: Path) -> Clip:
    """A CLIP with the folder's weights, in eval mode. Raises HubLayoutRefused."""
    config = config_of(hub_layout.read_config(folder, "clip"))
    model = Clip(config)
    hub_layout.load(model, folder, names(config), ignored=IGNORED)
    return model.eval()


def save_pretrained(model: Clip, folder: Path) -> None:
    """Write a CLIP whose image tower is a ViT so that transformers' CLIPModel reads it. Raises HubLayoutRefused."""
    if model.config.vision != "vit":
        raise HubLayoutRefused(
            f'This CLIP has vision="{model.config.vision}", and transformers\' CLIPModel knows only a ViT; '
            "train one with `vision: vit`, or keep the checkpoint as it is."
        )
    if model.config.loss != "softmax":
        raise HubLayoutRefused(
            f'This CLIP has loss="{model.config.loss}", and transformers\' CLIPModel has no place for its bias; '
            "train one with `loss: softmax`, or keep the checkpoint as it is."
        )
    hub_layout.write(model, folder, names(model.config), hub_config(model.config))


def config_of(hub: dict[str, Any]) -> ClipConfig:
    """Our config for theirs. Raises HubLayoutRefused for a setting that our layers do not have."""
    text = hub_layout.settings(hub.get("text_config") or {}, TEXT)
    vision = hub_layout.settings(hub.get("vision_config") or {}, VISION)
    for section, found in (("text_config", text), ("vision_config", vision)):
        fixed = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
        hub_layout.require(found, fixed | {"intermediate_size": 4 * found["hidden_size"]}, section)
    hub_layout.require(vision, {"num_channels": 3}, "vision_config")
    if text["eos_token_id"] not in (LEGACY_EOS, text["vocab_size"] - 1):
        raise HubLayoutRefused(
            f"text_config has eos_token_id={text['eos_token_id']}; our text tower reads a text at the last id of "
            f"the vocabulary, {text['vocab_size'] - 1}. A checkpoint trained with another end cannot be read."
        )
    return ClipConfig(
        vision="vit", image_px=vision["image_size"], patch_px=vision["patch_size"],
        vision_width=vision["hidden_size"], vision_layers=vision["num_hidden_layers"],
        vision_heads=vision["num_attention_heads"], max_tokens=text["max_position_embeddings"],
        text_width=text["hidden_size"], text_layers=text["num_hidden_layers"],
        text_heads=text["num_attention_heads"], embed_width=hub.get("projection_dim", 512),
        vocab_size=text["vocab_size"],
    )  # fmt: skip


def hub_config(config: ClipConfig) -> dict[str, Any]:
    """Their config for ours; `<eos>` by its own id, never the legacy 2 that means "the largest"."""
    text = {
        "model_type": "clip_text_model", "vocab_size": config.vocab_size,
        "hidden_size": config.text_width, "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_layers, "num_attention_heads": config.text_heads,
        "max_position_embeddings": config.max_tokens, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "projection_dim": config.embed_width, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": config.vocab_size - 1,
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width, "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads, "image_size": config.image_px,
        "patch_size": config.patch_px, "num_channels": 3, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "projection_dim": config.embed_width,
    }  # fmt: skip
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": "float32",
        "projection_dim": config.embed_width,
        "text_config": text,
        "vision_config": vision,
    }


def names(config: ClipConfig) -> Names:
    """Our tensors -> theirs; queries, keys and values are one matrix here."""
    tower, embeddings = "image.slot.tower", "vision_model.embeddings"
    found: dict[str, str | tuple[str, ...]] = {
        "log_scale": "logit_scale",
        "image.projection.weight": "visual_projection.weight",
        f"{tower}.class_token": f"{embeddings}.class_embedding",
        f"{tower}.patches.weight": f"{embeddings}.patch_embedding.weight",
        f"{tower}.positions": f"{embeddings}.position_embedding.weight",
        "text.projection.weight": "text_projection.weight",
        "text.tokens.weight": "text_model.embeddings.token_embedding.weight",
        "text.positions": "text_model.embeddings.position_embedding.weight",
    }
    for kind in ("weight", "bias"):
        found[f"{tower}.norm_before.{kind}"] = f"vision_model.pre_layrnorm.{kind}"
        found[f"{tower}.norm_after.{kind}"] = f"vision_model.post_layernorm.{kind}"
        found[f"text.norm_after.{kind}"] = f"text_model.final_layer_norm.{kind}"
    for number in range(config.vision_layers):
        found |= _block(f"{tower}.blocks.{number}", f"vision_model.encoder.layers.{number}")
    for number in range(config.text_layers):
        found |= _block(f"text.blocks.{number}", f"text_model.encoder.layers.{number}")
    return found


def _block(ours: str, theirs: str) -> dict[str, str | tuple[str, ...]]:
    found: dict[str, str | tuple[str, ...]] = {}
    for kind in ("weight", "bias"):
        attention = f"{theirs}.self_attn"
        found[f"{ours}.attention.inward.{kind}"] = tuple(
            f"{attention}.{part}_proj.{kind}" for part in "qkv"
        )
        found[f"{ours}.attention.outward.{kind}"] = f"{attention}.out_proj.{kind}"
        found[f"{ours}.norm_attention.{kind}"] = f"{theirs}.layer_norm1.{kind}"
        found[f"{ours}.norm_layers.{kind}"] = f"{theirs}.layer_norm2.{kind}"
        found[f"{ours}.layers.0.{kind}"] = f"{theirs}.mlp.fc1.{kind}"
        found[f"{ours}.layers.2.{kind}"] = f"{theirs}.mlp.fc2.{kind}"
    return found
