"""ALIGN: two towers trained on noisy alt-texts (Jia et al. 2021, arXiv:2102.05918).

An EfficientNet whose pooled output is the embedding itself, and a BERT read at its first token. Cosines are divided by a
temperature, which is learnt as it is and not as a logarithm. The noise filter is `components/data/alt_text_filter.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import Config, ConfigError
from components.models.backbones import IMAGENET_MEAN, IMAGENET_STD, VisionSlot, build_vision
from components.models.efficientnet import EfficientNet
from components.models.graphs import to_longest
from components.models.groups import by_shape
from components.models.text_bert import BertConfig, BertEncoder, initialise_like_bert, real
from components.objectives.contrastive import info_nce
from components.records import Batch, BatchSpec, Loss

LEAST_TEMPERATURE = 0.01
"""Below it a step could make it negative, which turns every order round; neither the paper nor transformers guards."""


@dataclass(frozen=True, kw_only=True)
class AlignConfig(Config):
    """What an ALIGN is made of; the defaults are the tiny preset."""

    vision: Literal["efficientnet", "lite0"] = "efficientnet"
    """Image tower: an EfficientNet that learns, or the frozen pretrained Lite0."""
    image_px: int = 64
    """Side of the square input image, in pixels."""
    width_factor: float = 0.25
    """"efficientnet": channels over those of B0; the embedding is 320 times this wide."""
    depth_factor: float = 0.34
    """"efficientnet": blocks over those of B0."""
    drop: float = 0.0
    """"efficientnet": chance that an image passes the last block by, in [0, 1); earlier blocks less."""
    square_padding: tuple[int, ...] = ()
    """"efficientnet": strided blocks that pad on all sides (transformers' depthwise_padding)."""
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN
    """"efficientnet": taken from each colour, which is in [0, 1]."""
    pixel_std: tuple[float, ...] = IMAGENET_STD
    """"efficientnet": what the colour is divided by then."""
    max_tokens: int = 24
    """Longest text, with `<bos>` and `<eos>`."""
    positions: int = 64
    """Tokens the text tower could read."""
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    text_dropout: float = 0.0
    """Share of the text tower's activations dropped, in [0, 1)."""
    temperature: float = 0.07
    """What cosines are divided by at the start; the paper's 1.0 converges slowly in small batches."""
    smoothing: float = 0.1
    """Label smoothing of the training loss, in [0, 1)."""
    flip: bool = False
    """Train on mirrored images too, with left and right swapped in their captions."""

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config must equal itself after a checkpoint.
        for name in ("square_padding", "pixel_mean", "pixel_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("drop", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} is not in [0, 1).")
        if not self.temperature >= LEAST_TEMPERATURE:
            raise ConfigError(
                f"temperature={self.temperature} is below {LEAST_TEMPERATURE}, the least it may become; "
                "the paper starts at 1, a short training at 0.07."
            )
        self.text_config()

    def text_config(self) -> BertConfig:
        """The text tower's settings. Raises ConfigError for those that cannot work."""
        return BertConfig(
            vocab_size=self.vocab_size, max_tokens=self.max_tokens, positions=self.positions,
            width=self.text_width, layers=self.text_layers, heads=self.text_heads,
            dropout=self.text_dropout,
        )  # fmt: skip

    @classmethod
    def small(cls) -> Self:
        """EfficientNet-B7 and BERT-Base, 640 wide: the open variant (kakaobrain/align-base), 172 M parameters."""
        return cls(
            image_px=289, width_factor=2.0, depth_factor=3.1, drop=0.2, max_tokens=64,
            positions=512, text_width=768, text_layers=12, text_heads=12, text_dropout=0.1,
            temperature=1.0, vocab_size=30522,
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """EfficientNet-L2 and BERT-Large, 1376 wide."""
        return cls(
            image_px=289, width_factor=4.3, depth_factor=5.3, drop=0.2, max_tokens=64,
            positions=64, text_width=1024, text_layers=24, text_heads=16, text_dropout=0.1,
            temperature=1.0, vocab_size=100_000,
        )  # fmt: skip


class Align(nn.Module):
    """Learns by telling the true text of an image from the others of its batch."""

    Config: ClassVar[type[AlignConfig]] = AlignConfig

    def __init__(self, config: AlignConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = _vision(config)
        self.text = BertEncoder(config.text_config())
        # The text alone is projected: what the image tower pools is its embedding.
        self.projection = nn.Linear(config.text_width, self.vision.pooled_width)
        initialise_like_bert(self.projection)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(image_px=config.image_px, max_tokens=config.max_tokens, flip=config.flip)

    def initialise(self) -> None:
        """Load the frozen tower's weights, if it has one. Raises PretrainedMissing."""
        self.vision.initialise()

    def embed_images(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """uint8 images -> (B, D), each row of length 1."""
        _, pooled_BD = self.vision.encode(pixels_BCHW, keys_B)
        return F.normalize(pooled_BD, dim=-1)

    def embed_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids -> (B, D), each row of length 1."""
        return F.normalize(self.encode_texts(tokens_BT, lengths_B), dim=-1)

    def encode_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids -> (B, D): the first token's state as BERT leaves it (no tanh pooler), projected."""
        tokens_BT = to_longest(tokens_BT, lengths_B)
        states_BTD = self.text.run(self.text.embed(tokens_BT), real(tokens_BT, lengths_B))
        return self.projection(states_BTD[:, 0])

    def cosine_scale(self) -> Tensor:
        """What cosines are multiplied by, at most 100."""
        return 1 / self.temperature

    def loss(self, batch: Batch) -> Loss:
        """Smoothed InfoNCE over the global batch; `contrastive` is the same without smoothing, as CLIP's is."""
        return self.feature_loss(*self.features(batch), batch)

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both embeddings."""
        image_BD = self.embed_images(batch.pixels_BCHW, batch.keys_B)
        return image_BD, self.embed_texts(batch.tokens_BT, batch.lengths_B)

    def feature_loss(self, image_BD: Tensor, text_BD: Tensor, batch: Batch) -> Loss:
        """The loss of embeddings that are at hand; of the batch its groups alone."""
        scale = self.cosine_scale()
        total = info_nce(image_BD, text_BD, scale, batch.groups_B, smoothing=self.config.smoothing)
        with torch.no_grad():
            plain = info_nce(image_BD, text_BD, scale, batch.groups_B)
        return Loss(total, {"contrastive": plain, "temperature": self.temperature.detach().clone()})

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Two groups: matrices decay; gains, biases and the temperature do not."""
        return by_shape(self)

    def after_step(self) -> None:
        """Keep the temperature above zero."""
        with torch.no_grad():
            self.temperature.clamp_(min=LEAST_TEMPERATURE)


def _vision(config: AlignConfig) -> VisionSlot:
    if config.vision == "lite0":
        return build_vision("lite0", config.image_px)
    tower = EfficientNet(
        width=config.width_factor, depth=config.depth_factor, drop=config.drop,
        square=config.square_padding,
    )  # fmt: skip
    return VisionSlot(tower, config.image_px, config.pixel_mean, config.pixel_std)
