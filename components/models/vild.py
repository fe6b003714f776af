"""ViLD: a detector whose regions live in CLIP's space, so any class can be named (Gu et al. 2021, arXiv:2104.13921).

Two stages by hand: a network that proposes boxes, taught on base classes alone, and a head that embeds regions. Text
embeddings of base classes are its classifier (ViLD-text); teacher embeddings of proposals its second aim (ViLD-image).
The classes to look for are an argument of `detect`. Letters: R regions · P proposals · O objects · M distilled proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from components.abilities import Detections, Embeds
from components.config import Config, ConfigError
from components.models.detection.distilled import Distilled
from components.models.detection.finder import Finder, Found
from components.models.detection.judging import Regions, detections
from components.models.detection.names import ClassNames
from components.models.detection.pyramid import build_backbone
from components.models.detection.regions import RegionBranch
from components.models.detection.roi_align import roi_align_pyramid
from components.models.detection.targets import BOX_CODEC, boxes_of, targets
from components.models.detection.teacher import embed_width
from components.models.parts import NO_PARTS, Part, handed
from components.objectives import detection
from components.objectives.boxes import clip, decode
from components.records import Batch, BatchSpec, Boxes, Loss

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


class Vild(nn.Module):
    """Learns to find base classes, to name their regions by text, and to embed any region as CLIP would."""

    Config: ClassVar[type[VildConfig]] = VildConfig
    PARTS: ClassVar[Mapping[str, type]] = {"clip": Embeds}
    TOKENIZER: ClassVar[str | None] = "clip"

    def __init__(self, config: VildConfig, parts: Mapping[str, Part] = NO_PARTS) -> None:
        super().__init__()
        self.config = config
        self.clip = handed(parts, "clip", Embeds, "ViLD")
        crop_px: int = self.clip.batch_spec().image_px
        embed = embed_width(self.clip, crop_px)
        self._proposing = {
            "candidates": config.candidates, "proposals": config.proposals, "threshold": 0.7,
        }  # fmt: skip
        self.finder = Finder(
            build_backbone(config.vision, config.image_px, config.vision_widths),
            image_px=config.image_px, levels=config.levels, width=config.pyramid_width,
            convs=config.finder_convs, scales=config.anchor_scales, ratios=config.anchor_ratios,
        )  # fmt: skip
        self.branch = self._branch(embed)
        self.image_branch = self._branch(embed) if config.learns == "ensemble" else None
        self.refine = nn.Linear(config.head_width, 4)
        nn.init.normal_(self.refine.weight, std=0.001)
        nn.init.zeros_(self.refine.bias)
        self.background = nn.Parameter(torch.randn(embed) * 0.01)
        self.distilled = Distilled(
            self.finder, count=config.distilled, proposing=self._proposing, crop_px=crop_px,
            scales=config.crop_scales, fill=config.crop_fill,
        )  # fmt: skip
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._names = ClassNames(self.clip, len(config.prompts))

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(
            image_px=config.image_px, max_tokens=config.max_tokens, boxes=True, prompts=config.prompts
        )  # fmt: skip

    def initialise(self, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Load the frozen backbone's weights, if it is one. Raises PretrainedMissing."""
        self.finder.backbone.initialise()

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in eval mode, as the fixed proposal network does."""
        super().train(mode)
        self.clip.eval()
        return self

    def loss(self, batch: Batch) -> Loss:
        """Proposals, boxes, and what `learns` names of text and image; parts are each alone, unweighted.

        Raises BoxesMissing for a batch without boxes. Micro-batches are weighed by images, also in means over boxes.
        """
        boxes = boxes_of(batch)
        found = self.finder(batch.pixels_BCHW, batch.keys_B)
        config = self.config
        parts = self.finder.losses(found, boxes, config.anchors_sampled)
        parts |= self._region_losses(found, boxes)
        # Zero times what is not learnt now: several workers wait for a gradient of every parameter.
        learnt = [param for param in self.parameters() if param.requires_grad]
        silent = 0.0 * torch.stack([param.sum() for param in learnt]).sum()
        if config.learns == "image":
            parts.pop("text")
        if config.learns != "text":
            parts["image"] = self._image_loss(found, batch)
        weights = {"image": config.image_weight}
        total = sum((weights.get(name, 1.0) * part for name, part in parts.items()), start=silent)
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def after_step(self) -> None:
        """Count, and when the proposal network has learnt enough fix a copy of it for distillation."""
        self.steps += 1
        if int(self.steps) == self.config.finder_steps:
            self.distilled.fix(self.finder)

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Two groups: matrices decay; gains, biases and the background do not."""
        trainable = [param for param in self.parameters() if param.requires_grad]
        groups = (
            ("matrices", [param for param in trainable if param.ndim >= 2], True),
            ("rest", [param for param in trainable if param.ndim < 2], False),
        )
        return [
            {"name": name, "params": params, "lr_scale": 1.0, "weight_decay": decay}
            for name, params, decay in groups
        ]

    def detect(
        self,
        pixels_BCHW: Tensor,
        class_tokens_CT: Tensor,
        class_lengths_C: Tensor,
        base_C: Tensor,
    ) -> list[Detections]:
        """The best boxes of each image among the classes named, in the way the model was taught."""
        regions = self.embed_regions(pixels_BCHW)
        text_CD = self.embed_names(class_tokens_CT, class_lengths_C)
        return self._best(regions, self.scores(regions, text_CD, base_C))

    @property
    def detect_by_text(self) -> Callable[..., list[Detections]] | None:
        """`detect` by the text classifier alone, which a second judge is measured against; None where there is none."""
        return self._detect_by_text if self.image_branch else None

    def _detect_by_text(
        self,
        pixels_BCHW: Tensor,
        class_tokens_CT: Tensor,
        class_lengths_C: Tensor,
        base_C: Tensor,
    ) -> list[Detections]:
        regions = self.embed_regions(pixels_BCHW)
        text_CD = self.embed_names(class_tokens_CT, class_lengths_C)
        return self._best(regions, self._by_text(regions, text_CD))

    @torch.no_grad()
    def embed_regions(self, pixels_BCHW: Tensor) -> Regions:
        """Proposals of each image, refined, with their embeddings; no class is needed."""
        config = self.config
        found = self.finder(pixels_BCHW)
        proposals = self.finder.propose(found, **self._proposing)
        flat = self._read(found, proposals.boxes_BP4).flatten(0, 1)
        shape = proposals.boxes_BP4.shape[:2]
        hidden = self.branch.hidden(flat)
        text_BPD = self.branch.embed(hidden).unflatten(0, shape)
        image_BPD = self.image_branch(flat).unflatten(0, shape) if self.image_branch else text_BPD
        offsets_BP4 = self.refine(hidden).unflatten(0, shape)
        boxes_BP4 = clip(decode(offsets_BP4, proposals.boxes_BP4, BOX_CODEC), config.image_px)
        return Regions(
            boxes_BP4=boxes_BP4, text_BPD=text_BPD, image_BPD=image_BPD, proposals=proposals
        )

    def embed_names(self, class_tokens_CT: Tensor, class_lengths_C: Tensor) -> Tensor:
        """The classifier, (C, D): the teacher's embeddings of the classes in their prompts, frozen and remembered."""
        return self._names.embed(class_tokens_CT, class_lengths_C)

    def scores(self, regions: Regions, text_CD: Tensor, base_C: Tensor) -> Tensor:
        """(B, P, C) in [0, 1]: probability of each class, the background counted and then left out."""
        learns = self.config.learns
        if learns in ("text", "vild"):
            return self._by_text(regions, text_CD)
        image_BPC = (self.config.image_scale * regions.image_BPD @ text_CD.T).softmax(dim=-1)
        if learns == "image":
            # This branch knows no background; whether there is an object at all is the proposal network's to say.
            return (image_BPC * regions.proposals.scores_BP.unsqueeze(-1)).sqrt()
        text_BPC = self._by_text(regions, text_CD)
        return detection.ensemble(text_BPC, image_BPC, base_C, self.config.ensemble_weight)

    def _by_text(self, regions: Regions, text_CD: Tensor) -> Tensor:
        logits = detection.text_logits(
            regions.text_BPD, text_CD, self.background, self.config.scale
        )
        return logits.softmax(dim=-1)[..., 1:]

    def _region_losses(self, found: Found, boxes: Boxes) -> dict[str, Tensor]:
        proposals = self.finder.propose(found, **self._proposing)
        wanted = targets(proposals, boxes, self.config.regions)
        # Padding is left out before the head, whose batch norm would count it.
        hidden_ND = self.branch.hidden(self._read(found, wanted.boxes_BR4)[wanted.real_BR])
        # All names base: no other is in the batch, so none has to be masked.
        text_CD = self.embed_names(boxes.class_tokens_CT, boxes.class_lengths_C)
        logits_NC = detection.text_logits(
            self.branch.embed(hidden_ND), text_CD, self.background, self.config.scale
        )
        is_object_N, count = wanted.classes_N >= 0, wanted.real_BR.sum()
        return {
            "boxes": detection.offset_loss(
                self.refine(hidden_ND), wanted.offsets_N4, is_object_N, count, beta=1.0
            ),
            "text": detection.text_loss(logits_NC, wanted.classes_N),
        }

    def _image_loss(self, found: Found, batch: Batch) -> Tensor:
        nothing = found.logits_BN.new_zeros(())
        if int(self.steps) < self.config.finder_steps:
            return nothing
        boxes_BM4, real_BM, teacher_BMD = self.distilled.of(
            self.clip, batch.pixels_BCHW, batch.keys_B
        )
        # As above; and a batch norm knows no deviation of one row.
        if int(real_BM.sum()) < 2:
            return nothing
        region_ND = (self.image_branch or self.branch)(self._read(found, boxes_BM4)[real_BM])
        return detection.image_loss(region_ND, teacher_BMD[real_BM], real_BM[real_BM])

    def _best(self, regions: Regions, scores_BPC: Tensor) -> list[Detections]:
        config = self.config
        return detections(regions, scores_BPC, overlap=config.overlap, most=config.detections)

    def _read(self, found: Found, boxes_BR4: Tensor) -> Tensor:
        config = self.config
        return roi_align_pyramid(found.maps, boxes_BR4, bins=config.bins, samples=config.samples)

    def _branch(self, embed: int) -> RegionBranch:
        config = self.config
        return RegionBranch(
            config.pyramid_width, bins=config.bins, convs=config.head_convs,
            layers=config.head_layers, width=config.head_width, norm=config.head_norm, embed=embed,
        )  # fmt: skip
