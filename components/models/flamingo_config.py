"""What a Flamingo is made of: its settings, which its own file reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from components.config import Config, ConfigError
from components.models.resampler import Activation


@dataclass(frozen=True, kw_only=True)
class FlamingoConfig(Config):
    """What joins the two frozen models; the defaults are the tiny preset."""

    image_px: int = 64
    """Side of the square input image, in pixels; what the tower was trained on."""
    max_tokens: int = 24
    """Longest caption, with `<bos>` and `<eos>`."""
    texts: str = "captions"
    """Which texts it learns from: a name in `components/data/texts.py`."""
    flip: bool = False
    """Train on mirrored images too, with left and right swapped in their captions."""
    images_per_document: int = 2
    """Rows of a batch that make one document; 1 trains on pairs alone."""
    ahead: float = 0.5
    """Share of documents of several images whose texts stand before their images and see the next one, in [0, 1]."""
    latents: int = 8
    """Vectors that the resampler makes of an image."""
    resampler_layers: int = 2
    frames: int = 1
    """Most frames of one image (a video); each has a time embedding."""
    places: bool = True
    """A learned vector for each position of the tower's map; the paper leaves places to the tower."""
    every: int = 1
    """A gated layer stands before each LM block whose number, from 1, is a multiple of this (the paper's m)."""
    heads: int = 4
    """Attention heads of the resampler."""
    gated_heads: int = 4
    """Attention heads of the gated layers."""
    head_width: int = 32
    """Width of one head, everywhere."""
    gate_lr_scale: float = 15.0
    """Learning rate of the gates over that of the rest. While they are shut nothing behind them learns; the paper has 1
    and half a million steps."""
    activation: Activation = "relu2"
    """Between the two layers of a block: the paper's squared ReLU, or open_flamingo's GELU."""

    def __post_init__(self) -> None:
        if not 0 <= self.ahead <= 1:
            raise ConfigError(f"ahead={self.ahead} is a share in [0, 1]; the paper has 0.5.")
        for name in ("images_per_document", "latents", "resampler_layers", "frames", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")

    @classmethod
    def small(cls) -> Self:
        """open_flamingo's sizes, for a CLIP ViT and an LM of some hundred million parameters; every fourth block."""
        return cls(
            image_px=224, max_tokens=64, latents=64, resampler_layers=6, every=4, heads=8,
            gated_heads=8, head_width=64, places=False, gate_lr_scale=1.0, activation="gelu",
            images_per_document=5,
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Flamingo-3B's: beside Chinchilla 1.4B (24 blocks, width 2048) and NFNet-F6 (map width 1536), every block."""
        return cls(
            image_px=320, max_tokens=64, latents=64, resampler_layers=6, frames=8, every=1,
            heads=16, gated_heads=16, head_width=128, places=False, gate_lr_scale=1.0, images_per_document=5,
        )  # fmt: skip
