"""ViLD: a detector whose regions live in CLIP's space, so any class can be named (Gu et al. 2021, arXiv:2104.13921).

Two stages by hand: a network that proposes boxes, taught on base classes alone, and a head that embeds regions. Text
embeddings of base classes are its classifier (ViLD-text); teacher embeddings of proposals its second aim (ViLD-image).
The classes to look for are an argument of `detect`. Letters: R regions · P proposals · O objects · M distilled proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from components.abilities import Detections, Embeds, Views
from components.models.detection.config import VildConfig
from components.models.detection.distilled import Distilled
from components.models.detection.finder import Finder, Found
from components.models.detection.judging import Regions, detections
from components.models.detection.names import ClassNames
from components.models.detection.pyramid import Maps, build_backbone
from components.models.detection.regions import RegionBranch
from components.models.detection.roi_align import roi_align_pyramid
from components.models.detection.targets import BOX_CODEC, boxes_of, targets
from components.models.detection.teacher import embed_width
from components.models.groups import by_shape
from components.models.parts import NO_PARTS, Part, handed
from components.objectives import detection
from components.objectives.boxes import clip, decode
from components.records import Batch, BatchSpec, Boxes, Loss

if TYPE_CHECKING:
    pass


_PART = "loss/"
"""How parts of the loss are called among views."""


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
        self.proposing: dict[str, Any] = {
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
            self.finder, count=config.distilled, proposing=self.proposing, crop_px=crop_px,
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
        return self.view_loss(self.views(batch), batch)

    def views(
        self, batch: Batch, wanted: Collection[str] = (), like: Views | None = None
    ) -> dict[str, Tensor]:
        """Scores of the names in each region, `logits`; where the regions are; and every part of the loss, as `loss/<part>`.

        A teacher names the student's regions, and nothing else is asked of it.
        """
        found, config = self.finder(batch.pixels_BCHW, batch.keys_B), self.config
        boxes = boxes_of(batch)
        if like is not None:
            boxes_BR4 = like["regions"] * config.image_px
            return {"logits": self._name(found, boxes_BR4, like["real"], boxes)[0]}
        parts = self.finder.losses(found, boxes, config.anchors_sampled)
        seen, learnt = self._region_losses(found, boxes)
        parts |= learnt
        if config.learns == "image":
            parts.pop("text")
        if config.learns != "text":
            parts["image"] = self._image_loss(found, batch)
        return seen | {f"{_PART}{name}": part for name, part in parts.items()}

    def view_loss(self, views: Views, batch: Batch) -> Loss:
        """As `loss`."""
        named = {name: part for name, part in views.items() if name.startswith(_PART)}
        parts = {name.removeprefix(_PART): part for name, part in named.items()}
        # Zero times what is not learnt now: several workers wait for a gradient of every parameter. The backbone always
        # learns, and is read nowhere but in its own forward: there alone it is whole where each worker holds a slice.
        backbone = set(self.finder.backbone.parameters())
        learnt = [
            param for param in self.parameters() if param.requires_grad and param not in backbone
        ]
        silent = 0.0 * torch.stack([param.sum() for param in learnt]).sum()
        weights = {"image": self.config.image_weight}
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
        return by_shape(self)

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
        return self._best(regions, self._by_text(regions.text_BPD, text_CD))

    @torch.no_grad()
    def embed_regions(self, pixels_BCHW: Tensor) -> Regions:
        """Proposals of each image, refined, with their embeddings; no class is needed."""
        found = self.finder(pixels_BCHW)
        proposals = self.finder.propose(found, **self.proposing)
        boxes_BP4, text_BPD, image_BPD = self.embed_boxes(found.maps, proposals.boxes_BP4)
        return Regions(
            boxes_BP4=boxes_BP4, text_BPD=text_BPD, image_BPD=image_BPD, proposals=proposals
        )

    def embed_boxes(self, maps: Maps, boxes_BP4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes in pixels, refined, and what each branch embeds of them: boxes_BP4, text_BPD, image_BPD."""
        flat, shape = self._read(maps, boxes_BP4).flatten(0, 1), boxes_BP4.shape[:2]
        hidden = self.branch.hidden(flat)
        text_BPD = self.branch.embed(hidden).unflatten(0, shape)
        image_BPD = self.image_branch(flat).unflatten(0, shape) if self.image_branch else text_BPD
        offsets_BP4 = self.refine(hidden).unflatten(0, shape)
        refined_BP4 = clip(decode(offsets_BP4, boxes_BP4, BOX_CODEC), self.config.image_px)
        return refined_BP4, text_BPD, image_BPD

    def embed_names(self, class_tokens_CT: Tensor, class_lengths_C: Tensor) -> Tensor:
        """The classifier, (C, D): the teacher's embeddings of the classes in their prompts, frozen and remembered."""
        return self._names.embed(class_tokens_CT, class_lengths_C)

    def scores(self, regions: Regions, text_CD: Tensor, base_C: Tensor) -> Tensor:
        """(B, P, C) in [0, 1]: probability of each class, the background counted and then left out."""
        objectness_BP = regions.proposals.scores_BP
        return self.judge(regions.text_BPD, regions.image_BPD, objectness_BP, text_CD, base_C)

    def judge(
        self,
        text_BPD: Tensor,
        image_BPD: Tensor,
        objectness_BP: Tensor,
        text_CD: Tensor,
        base_C: Tensor,
    ) -> Tensor:
        """As `scores`, of what was embedded and how likely each box holds an object, in [0, 1]."""
        learns = self.config.learns
        if learns in ("text", "vild"):
            return self._by_text(text_BPD, text_CD)
        image_BPC = (self.config.image_scale * image_BPD @ text_CD.T).softmax(dim=-1)
        if learns == "image":
            # This branch knows no background; whether there is an object at all is the proposal network's to say.
            return (image_BPC * objectness_BP.unsqueeze(-1)).sqrt()
        by_text_BPC = self._by_text(text_BPD, text_CD)
        return detection.ensemble(by_text_BPC, image_BPC, base_C, self.config.ensemble_weight)

    def _by_text(self, text_BPD: Tensor, text_CD: Tensor) -> Tensor:
        logits = detection.text_logits(text_BPD, text_CD, self.background, self.config.scale)
        return logits.softmax(dim=-1)[..., 1:]

    def _region_losses(
        self, found: Found, boxes: Boxes
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What is seen in the sampled regions, and the losses of their boxes and names."""
        proposals = self.finder.propose(found, **self.proposing)
        at = targets(proposals, boxes, self.config.regions)
        logits_NC, hidden_ND = self._name(found, at.boxes_BR4, at.real_BR, boxes)
        shown = {
            "logits": logits_NC,
            "regions": at.boxes_BR4 / self.config.image_px,
            "real": at.real_BR,
        }
        is_object_N, count = at.classes_N >= 0, at.real_BR.sum()
        away = detection.offset_loss(
            self.refine(hidden_ND), at.offsets_N4, is_object_N, count, beta=1.0
        )
        return shown, {"boxes": away, "text": detection.text_loss(logits_NC, at.classes_N)}

    def _name(
        self, found: Found, boxes_BR4: Tensor, real_BR: Tensor, boxes: Boxes
    ) -> tuple[Tensor, Tensor]:
        """Scores of background and base classes for each real region, (N, 1 + C), and what the box head reads."""
        # Padding is left out before the head, whose batch norm would count it.
        hidden_ND = self.branch.hidden(self._read(found.maps, boxes_BR4)[real_BR])
        # All names base: no other is in the batch, so none has to be masked.
        text_CD = self.embed_names(boxes.class_tokens_CT, boxes.class_lengths_C)
        region_ND = self.branch.embed(hidden_ND)
        return detection.text_logits(
            region_ND, text_CD, self.background, self.config.scale
        ), hidden_ND

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
        region_ND = (self.image_branch or self.branch)(self._read(found.maps, boxes_BM4)[real_BM])
        return detection.image_loss(region_ND, teacher_BMD[real_BM], real_BM[real_BM])

    def _best(self, regions: Regions, scores_BPC: Tensor) -> list[Detections]:
        config = self.config
        return detections(regions, scores_BPC, overlap=config.overlap, most=config.detections)

    def _read(self, maps: Maps, boxes_BR4: Tensor) -> Tensor:
        config = self.config
        return roi_align_pyramid(maps, boxes_BR4, bins=config.bins, samples=config.samples)

    def _branch(self, embed: int) -> RegionBranch:
        config = self.config
        return RegionBranch(
            config.pyramid_width, bins=config.bins, convs=config.head_convs,
            layers=config.head_layers, width=config.head_width, norm=config.head_norm, embed=embed,
        )  # fmt: skip
