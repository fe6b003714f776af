"""The vision slot: pixels to a map of vectors and one pooled vector, by the name of a tower.

A slot owns its normalisation, so batches carry plain uint8 pixels. Frozen towers remember what they saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import ConfigError
from components.models.frozen_tower import FeatureCache
from components.models.graphs import has_values
from components.models.lite0 import SHA256 as LITE0_SHA256
from components.models.lite0 import Lite0
from components.models.parts import Origin, Part
from components.models.resnet import ResNet, resnet50
from components.models.vit import VisionTransformer

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


CHUNK = 16
"""Images a frozen tower reads at once; 16 was quickest on a CPU, and a chunk that is not full is filled."""


class VisionSlot(nn.Module):
    """A tower that learns, behind the normalisation it wants."""

    def __init__(
        self, tower: nn.Module, image_px: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.tower = tower
        self.map_width: int = tower.map_width
        self.pooled_width: int = tower.pooled_width
        self.map_tokens: int = tower.map_tokens(image_px)
        # Not persistent: they follow from the tower's name, and a checkpoint could only contradict it.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def initialise(self) -> None:
        """Nothing: what learns starts from random weights."""

    def encode(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 images -> (map_BND, pooled_BD). `keys_B` is for towers that remember; here it is not used."""
        map_BND, pooled_BD = self.tower(self._normalised(pixels_BCHW))
        return map_BND, pooled_BD

    def pool(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """The pooled vectors alone, which a ViT has for less than its map."""
        if not isinstance(self.tower, VisionTransformer):
            return self.encode(pixels_BCHW, keys_B)[1]
        return self.tower.pool(self._normalised(pixels_BCHW))

    def _normalised(self, pixels_BCHW: Tensor) -> Tensor:
        return (pixels_BCHW - self.mean) / self.std


class FrozenSlot(VisionSlot):
    """A pretrained tower that never changes: no gradients, always in eval mode, its output remembered by key."""

    def __init__(
        self, tower: nn.Module, image_px: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(tower, image_px, mean, std)
        self._cache = FeatureCache()
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenSlot:
        """Stays in eval mode: batch-norm statistics must not move, whatever the model around it does."""
        super().train(False)
        return self

    def initialise(self) -> None:
        """Load the pretrained weights. Raises PretrainedMissing."""
        self.tower.load_pretrained()

    def encode(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 images -> (map_BND, pooled_BD), computed once for each key and its pixels in this process."""
        if not has_values():
            return super().encode(pixels_BCHW)
        # Remembered tensors must serve training later, and inference tensors cannot; nor may it matter whether the
        # first to ask was a bf16 training or an fp32 evaluation.
        fp32 = torch.autocast(pixels_BCHW.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), fp32:
            if keys_B is None:
                return self._in_chunks(pixels_BCHW)
            self._cache.valid_for(self._weights())
            return self._cache.through(self._in_chunks, pixels_BCHW, keys_B)

    def pool(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """The pooled vectors; remembered ones cost nothing, and the map is remembered with them."""
        return self.encode(pixels_BCHW, keys_B)[1]

    def _weights(self) -> tuple[tuple[int, int], ...]:
        # Where each tensor lies and how often it was written to: whoever loads or moves weights changes one of them.
        return tuple((value.data_ptr(), value._version) for value in self.state_dict().values())

    def _in_chunks(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        # Always as many at once: kernels are chosen by batch size and round differently (3e-5 seen), so that what is
        # remembered would depend on who else was in the batch, and a resumed training would not repeat itself.
        parts = []
        for chunk in pixels_BCHW.split(CHUNK):
            full = F.pad(chunk, (0, 0, 0, 0, 0, 0, 0, CHUNK - len(chunk)))
            map_BND, pooled_BD = super().encode(full)
            parts.append((map_BND[: len(chunk)], pooled_BD[: len(chunk)]))
        maps, pooled = zip(*parts, strict=True)
        return torch.cat(maps), torch.cat(pooled)


def frozen_vision(module: nn.Module, image_px: int) -> FrozenSlot:
    """The image tower of a model (its `vision`) or of a slot, never to change again; its weights are shared.

    Raises ConfigError for a module that sees nothing.
    """
    slot = module if isinstance(module, VisionSlot) else getattr(module, "vision", None)
    if not isinstance(slot, VisionSlot):
        raise ConfigError(
            f"A {type(module).__name__} has no image tower; hand a CLIP, a VirTex or a pretrained tower."
        )
    made = FrozenSlot(slot.tower, image_px, (0.0,) * 3, (1.0,) * 3)
    made.mean, made.std = slot.mean, slot.std
    return made


def load_lite0() -> Part:
    """The ImageNet tower of the installed package, frozen. Raises PretrainedMissing."""
    slot = FrozenSlot(Lite0(), 224, LITE_MEAN, LITE_STD)
    slot.initialise()
    origin = Origin(kind="package", name="lite0", digest=LITE0_SHA256)
    return Part(module=slot, tokenizer=None, origin=origin)


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    """What can be chosen of a tower's shape; each tower reads its own part."""

    widths: Sequence[int] = (32, 64, 128)
    """"conv": channels of each stage, one basic block deep."""
    patch_px: int = 16
    """"vit": side of one patch, in pixels."""
    width: int = 128
    """"vit"."""
    layers: int = 4
    """"vit": blocks."""
    heads: int = 4
    """"vit": attention heads."""


def _conv(image_px: int, shape: VisionShape) -> VisionSlot:
    tower = ResNet(shape.widths, [1] * len(shape.widths), stem=shape.widths[0])
    return VisionSlot(tower, image_px, IMAGENET_MEAN, IMAGENET_STD)


def _lite0(image_px: int, shape: VisionShape) -> VisionSlot:
    return FrozenSlot(Lite0(), image_px, LITE_MEAN, LITE_STD)


def _resnet50(image_px: int, shape: VisionShape) -> VisionSlot:
    return VisionSlot(resnet50(), image_px, IMAGENET_MEAN, IMAGENET_STD)


def _vit(image_px: int, shape: VisionShape) -> VisionSlot:
    tower = VisionTransformer(
        image_px,
        patch_px=shape.patch_px,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
    )
    return VisionSlot(tower, image_px, CLIP_MEAN, CLIP_STD)


TOWERS = {"conv": _conv, "lite0": _lite0, "resnet50": _resnet50, "vit": _vit}


def build_vision(
    name: str,
    image_px: int,
    shape: VisionShape = VisionShape(),
) -> VisionSlot:
    """The slot called `name`, with random weights; `initialise()` of a frozen one ("lite0") reads the pretrained.

    Raises ConfigError for a name that is not in TOWERS.
    """
    if name not in TOWERS:
        raise ConfigError(f'No vision tower "{name}". Known: {", ".join(TOWERS)}.')
    return TOWERS[name](image_px, shape)
