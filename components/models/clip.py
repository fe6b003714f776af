"""CLIP: two towers that meet in one space (Radford et al. 2021, arXiv:2103.00020).

Shapes and initialisation after the paper and its released inference code; training details in ClipConfig's presets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import Config, ConfigError
from components.models.backbones import VisionShape, VisionSlot, build_vision
from components.models.blocks import CrossAttention, PreNormBlock, initialise_block
from components.models.graphs import has_values
from components.models.groups import by_shape
from components.models.lengths import by_length
from components.models.lite0 import Lite0
from components.models.resnet import Residual
from components.models.truncation import cut_short
from components.objectives.contrastive import info_nce
from components.objectives.sigmoid import sigmoid_loss
from components.records import Batch, BatchSpec, Loss

MAX_LOG_SCALE = math.log(100)


class EosMissing(ValueError):
    """A text without its end: there is no place to read its feature from."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Config):
    """What a CLIP is made of; the defaults are the tiny preset."""

    vision: Literal["conv", "vit", "lite0"] = "conv"
    """Image tower: a small ResNet, the paper's Vision Transformer, or the frozen pretrained Lite0."""
    image_px: int = 64
    """Side of the square input image, in pixels."""
    vision_widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage of "conv"; the map's stride is 4 and doubles with every further stage."""
    patch_px: int = 16
    """Side of one patch of "vit", in pixels; divides `image_px`."""
    vision_width: int = 128
    """Width of "vit"."""
    vision_layers: int = 4
    """Blocks of "vit"."""
    vision_heads: int = 4
    """Attention heads of "vit", and of the pool over the map of the other towers."""
    max_tokens: int = 24
    """Longest text, with `<bos>` and `<eos>`."""
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    embed_width: int = 128
    """Width of the shared space."""
    flip: bool = False
    """Train on mirrored images too, with left and right swapped in their captions."""
    truncate: bool = False
    """Cut half of the training captions short at random, so that beginnings of captions can be scored (MAGIC)."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Which of a batch belongs to which (the paper's InfoNCE), or of each pair alone whether it belongs (SigLIP's)."""

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config must equal itself after a checkpoint.
        object.__setattr__(self, "vision_widths", tuple(self.vision_widths))
        if self.vision == "vit" and self.image_px % self.patch_px:
            raise ConfigError(
                f"image_px={self.image_px} is not a multiple of patch_px={self.patch_px}; "
                f"the nearest below is {self.image_px // self.patch_px * self.patch_px}."
            )
        widths = {
            "conv": self.vision_widths[-1],
            "vit": self.vision_width,
            "lite0": Lite0.map_width,
        }
        for name, width, heads in (
            ("text_heads", self.text_width, self.text_heads),
            ("vision_heads", widths[self.vision], self.vision_heads),
        ):
            if width % heads:
                raise ConfigError(
                    f"{name}={heads} does not divide the width {width} it works on; choose a number that does."
                )

    @classmethod
    def small(cls) -> Self:
        """ViT-B/32 of the paper: 151 M parameters."""
        return cls(
            vision="vit", image_px=224, patch_px=32, vision_width=768, vision_layers=12,
            vision_heads=12, max_tokens=77, text_width=512, text_layers=12, text_heads=8,
            embed_width=512, vocab_size=49408,
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """ViT-L/14@336, the paper's best: 428 M parameters."""
        return cls(
            vision="vit", image_px=336, patch_px=14, vision_width=1024, vision_layers=24,
            vision_heads=16, max_tokens=77, text_width=768, text_layers=12, text_heads=12,
            embed_width=768, vocab_size=49408,
        )  # fmt: skip


class AttentionPool(nn.Module):
    """One vector from a map: its mean asks, the mean and all positions answer (CLIP's ResNets)."""

    def __init__(self, tokens: int, width: int, heads: int, out_width: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(tokens + 1, width) * width**-0.5)
        self.attention = CrossAttention(width, heads, out_width=out_width)
        for linear in (self.attention.query, self.attention.memory, self.attention.outward):
            nn.init.normal_(linear.weight, std=width**-0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, map_BND: Tensor) -> Tensor:
        with_mean = torch.cat([map_BND.mean(dim=1, keepdim=True), map_BND], dim=1) + self.positions
        return self.attention(with_mean[:, :1], self.attention.read(with_mean))[:, 0]


class ImageTower(nn.Module):
    """The vision slot, and what takes its output into the shared space."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        shape = VisionShape(
            widths=config.vision_widths, patch_px=config.patch_px, width=config.vision_width,
            layers=config.vision_layers, heads=config.vision_heads,
        )  # fmt: skip
        self.slot: VisionSlot = build_vision(config.vision, config.image_px, shape)
        # A ViT ends in one vector; a map is read by CLIP's attention pool. The frozen Lite0 has both, and they add:
        # R@1 on new drawings 0.69 together, 0.65 with either alone (means of 2 to 7 runs of mixed settings, emoji_mini).
        self.pool: AttentionPool | None = None
        self.projection: nn.Linear | None = None
        if config.vision != "vit":
            self.pool = AttentionPool(
                self.slot.map_tokens, self.slot.map_width, config.vision_heads, config.embed_width
            )
        if config.vision != "conv":
            self.projection = nn.Linear(self.slot.pooled_width, config.embed_width, bias=False)
            nn.init.normal_(self.projection.weight, std=self.slot.pooled_width**-0.5)
        for block in self.slot.modules():
            if isinstance(block, Residual):
                nn.init.zeros_(block.last_norm.weight)

    def forward(self, pixels_BCHW: Tensor, keys_B: Tensor | None) -> Tensor:
        if self.pool is None:
            return self.projection(self.slot.pool(pixels_BCHW, keys_B))
        map_BND, pooled_BD = self.slot.encode(pixels_BCHW, keys_B)
        parts = [self.pool(map_BND)]
        parts += [self.projection(pooled_BD)] if self.projection else []
        return sum(parts[1:], start=parts[0])


class TextTower(nn.Module):
    """A causal Transformer, read where the text ends."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.text_width
        self.eos_id = config.vocab_size - 1
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.randn(config.max_tokens, width) * 0.01)
        self.blocks = nn.ModuleList(
            PreNormBlock(width, config.text_heads) for _ in range(config.text_layers)
        )
        self.norm_after = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.embed_width, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.projection.weight, std=width**-0.5)
        for block in self.blocks:
            initialise_block(block, width=width, layers=config.text_layers)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(tokens_BT) + self.positions[: tokens_BT.shape[1]]
        end_B = self._end(tokens_BT)
        *firsts, last = self.blocks
        for block in firsts:
            x_BTD = block(x_BTD, causal=True)
        return self.projection(self.norm_after(last(x_BTD, causal=True, at_B=end_B)))

    def _end(self, tokens_BT: Tensor) -> Tensor:
        # By equality, not arg-max: the place stays right whatever ids a tokenizer gives.
        is_end_BT = tokens_BT == self.eos_id
        if has_values() and not bool(is_end_BT.any(dim=1).all()):
            raise EosMissing(
                f"A text has no <eos> (id {self.eos_id}, the last of vocab_size). Encode it with the checkpoint's "
                "own tokenizer, which ends every text with it."
            )
        return is_end_BT.int().argmax(dim=1)


class Clip(nn.Module):
    """Learns by telling the true caption of an image from the others of its batch."""

    Config: ClassVar[type[ClipConfig]] = ClipConfig

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageTower(config)
        self.text = TextTower(config)
        scale = 10.0 if config.loss == "sigmoid" else 1 / 0.07
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        # The log odds of a pair at the start, which few are (arXiv:2303.15343); a softmax would not see it.
        self.bias = nn.Parameter(torch.tensor(-10.0)) if config.loss == "sigmoid" else None

    @property
    def vision(self) -> VisionSlot:
        """The image tower, for those who read its map."""
        return self.image.slot

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(image_px=config.image_px, max_tokens=config.max_tokens, flip=config.flip)

    def initialise(self) -> None:
        """Load the frozen tower's weights, if it has one. Raises PretrainedMissing."""
        self.image.slot.initialise()

    def embed_images(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """uint8 images -> (B, D), each row of length 1."""
        return F.normalize(self.image(pixels_BCHW, keys_B), dim=-1)

    def embed_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids -> (B, D), each row of length 1.

        Texts of like length are read together and their padding is cut: the tower is causal and read at `<eos>`, so this
        changes nothing.
        """
        features_BD = by_length(lambda tokens, _: self.text(tokens), tokens_BT, lengths_B)
        return F.normalize(features_BD, dim=-1)

    def cosine_scale(self) -> Tensor:
        """What cosines are multiplied by, at most 100."""
        return self.log_scale.exp()

    def loss(self, batch: Batch) -> Loss:
        """Over the global batch; its part `scale` is what cosines are multiplied by, `bias` what a sigmoid adds."""
        if self.training and self.config.truncate:
            tokens_BT, lengths_B, groups_B = cut_short(
                batch.tokens_BT, batch.lengths_B, batch.groups_B
            )
            batch = replace(batch, tokens_BT=tokens_BT, lengths_B=lengths_B, groups_B=groups_B)
        return self.feature_loss(*self._features(batch), batch)

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both embeddings. Raises ConfigError with `truncate`: what it cuts would not be known to `feature_loss`."""
        if self.training and self.config.truncate:
            raise ConfigError(
                "model.truncate cuts captions at random, and micro-batches would each cut theirs; "
                "training.accumulate=1 trains it, or truncate=false."
            )
        return self._features(batch)

    def feature_loss(self, image_BD: Tensor, text_BD: Tensor, batch: Batch) -> Loss:
        """The loss of embeddings that are at hand; of the batch its groups alone."""
        # No clamp here: it would stop the gradient at the bound. See after_step.
        scale = self.cosine_scale()
        parts = {"scale": scale.detach()}
        if self.bias is None:
            total = info_nce(image_BD, text_BD, scale, batch.groups_B)
        else:
            total = sigmoid_loss(image_BD, text_BD, scale, self.bias, batch.groups_B)
            parts["bias"] = self.bias.detach().clone()
        return Loss(total, {"contrastive": total.detach(), **parts})

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Two groups: matrices decay; gains, biases and the scale do not."""
        return by_shape(self)

    def after_step(self) -> None:
        """Keep the scale's parameter within [0, ln 100], as the paper does."""
        with torch.no_grad():
            self.log_scale.clamp_(0, MAX_LOG_SCALE)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image_BD = self.embed_images(batch.pixels_BCHW, batch.keys_B)
        return image_BD, self.embed_texts(batch.tokens_BT, batch.lengths_B)
