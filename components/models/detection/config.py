"""What a ViLD is made of: its settings, which its own file reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from components.config import Config, ConfigError

if TYPE_CHECKING:
    from components.data.text import Tokenizer
    from components.records import Row


@dataclass(frozen=True, kw_only=True)
class VildConfig(Config):
    """What a ViLD is made of; the defaults are the tiny preset."""

    learns: Literal["text", "image", "vild", "ensemble"] = "vild"
    """What the ablation compares: text loss alone, image loss alone, both on one branch, or on a branch each."""
    vision: Literal["conv", "resnet50", "lite0"] = "conv"
    """Backbone: a small ResNet, the paper's ResNet-50, or the frozen pretrained Lite0."""
    image_px: int = 64
    """Side of the square input image, in pixels."""
    vision_widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage of "conv", which are levels 2, 3, 4."""
    levels: tuple[int, ...] = (3,)
    """Levels of the pyramid that are used; level L has stride 2**L."""
    pyramid_width: int = 64
    """Channels of every level."""
    anchor_scales: tuple[float, ...] = (1.5, 2.25, 3.0)
    """Sides of the square anchors, in strides of their level."""
    anchor_ratios: tuple[float, ...] = (1.0,)
    """Heights over widths of anchors of one area."""
    finder_convs: int = 1
    """3x3 convolutions before the proposals are read off."""
    anchors_sampled: int = 64
    """Anchors an image that a step of the proposal network learns from."""
    candidates: int = 96
    """Best boxes that go into suppression."""
    proposals: int = 32
    """Boxes that come out of it at most."""
    regions: int = 32
    """Regions an image that a step of the head learns from, a quarter of them objects at most."""
    bins: int = 5
    """Side of a region's map."""
    samples: int = 1
    """Readings of the map along one side of a bin."""
    head_convs: int = 0
    head_layers: int = 2
    head_width: int = 128
    head_norm: bool = False
    """Batch norm in the head, as in the paper; a batch of few regions learns better without."""
    scale: float = 100.0
    """1 / temperature: what the text branch's cosines are multiplied by."""
    image_scale: float = 100.0
    """The same for the image branch, whose space is the teacher's as it is: the teacher's own, 100 for OpenAI's. A small
    CLIP's is 15 to 20; at 100 the branch is sure where the teacher doubts, and a mean with it costs base classes."""
    image_weight: float = 0.5
    """Weight of the image loss: 0.5 in the paper for R-50."""
    ensemble_weight: float = 2 / 3
    """How much the text branch counts for base classes, and the image branch for others, in [0, 1]."""
    distilled: int = 8
    """Proposals an image that the teacher embeds; 300 in the paper."""
    finder_steps: int = 60
    """After this many steps a copy of the proposal network becomes the fixed one whose proposals are distilled."""
    crop_scales: tuple[float, ...] = (1.0, 1.5)
    """How much wider than the box the teacher's crops are."""
    crop_fill: float = 1.0
    """Share of the teacher's image that a crop takes, in (0, 1]; the rest has the colour around the crop."""
    overlap: float = 0.5
    """Of two boxes of a class that overlap more, the worse is dropped."""
    detections: int = 100
    """Most boxes an image that are returned."""
    max_tokens: int = 24
    """Longest class name, with its `<bos>` and `<eos>`."""
    prompts: tuple[str, ...] = ("{}",)
    """Templates whose embeddings are averaged to one a class; `{}` is its name. The paper has 63."""
    classes: tuple[str, ...] = ()
    """Base classes: labels of the training boxes that are not novel. Training sets them."""

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config must equal itself after a checkpoint.
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if not 0 < self.crop_fill <= 1 or not 0 <= self.ensemble_weight <= 1:
            raise ConfigError(
                f"crop_fill={self.crop_fill} and ensemble_weight={self.ensemble_weight}: the first is in (0, 1], "
                "the second in [0, 1]; the paper has 1 and 2/3."
            )
        if not self.prompts or any("{}" not in prompt for prompt in self.prompts):
            raise ConfigError('Each of `prompts` holds "{}" where the class\'s name goes.')
        if self.proposals > self.candidates or self.distilled > self.proposals:
            raise ConfigError(
                f"candidates={self.candidates}, proposals={self.proposals}, distilled={self.distilled}: each is "
                "chosen from the one before and cannot be more."
            )

    def fitted(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """The base classes of these rows, sorted. Raises ConfigError where no box is of a base class."""
        labels = {box.label for row in rows for box in row.sample.boxes if not box.novel}
        if not labels:
            raise ConfigError(
                "These shards have no boxes of base classes; shapes_l1 and emoji_scenes have."
            )
        return replace(super().fitted(rows, tokenizer), classes=tuple(sorted(labels)))

    @classmethod
    def small(cls) -> Self:
        """ResNet-50 with a pyramid at 256 px, and a head of half the paper's width."""
        return replace(cls.paper(), image_px=256, head_width=512, head_convs=2, levels=(2, 3, 4, 5))

    @classmethod
    def paper(cls) -> Self:
        """ResNet-50 + FPN and the ensemble, as released for LVIS at 1024 px."""
        return cls(
            learns="ensemble", vision="resnet50", image_px=1024, levels=(2, 3, 4, 5, 6),
            pyramid_width=256, anchor_scales=(8.0,), anchor_ratios=(0.5, 1.0, 2.0), finder_convs=2,
            anchors_sampled=256, candidates=2000, proposals=1000, regions=512, bins=7, samples=2,
            head_convs=4, head_layers=2, head_width=1024, head_norm=True, distilled=300,
            finder_steps=18000, detections=300, max_tokens=77,
        )  # fmt: skip
