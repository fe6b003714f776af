"""All that is chosen by name, on one screen: families, stages, packages, decoders, sources, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from components.data.sources import (
    emoji,
    emoji_scenes,
    openclipart,
    shapes,
    shapes_open,
    stamps,
)
from components.decoding.beam import beam
from components.decoding.contrastive import contrastive
from components.decoding.greedy import greedy
from components.decoding.magic import magic
from components.decoding.nucleus import nucleus
from components.metrics.metric import Metric
from components.models import minilm
from components.models.adapted_lm import AdaptedLm
from components.models.align import Align
from components.models.asif import Asif
from components.models.backbones import load_lite0
from components.models.causal_lm import CausalLm
from components.models.clip import Clip
from components.models.clip_folder import read_folder as read_clip_folder
from components.models.flamingo import Flamingo
from components.models.frozen import Frozen
from components.models.lm_folder import read_folder as read_lm_folder
from components.models.magic import Magic
from components.models.parts import Part
from components.models.simvlm import SimVLM
from components.models.smollm2 import load_smollm2
from components.models.text_bert import TextBert
from components.models.vild import Vild
from components.models.virtex import VirTex
from components.models.visualbert import VisualBert
from components.models.visualgpt import VisualGpt
from components.records import Sample
from components.table import Table

FAMILIES: Table[type[Any]] = Table(
    "model family",
    {
        "align": Align,
        "asif": Asif,
        "clip": Clip,
        "flamingo": Flamingo,
        "frozen": Frozen,
        "magic": Magic,
        "simvlm": SimVLM,
        "vild": Vild,
        "virtex": VirTex,
        "visualbert": VisualBert,
        "visualgpt": VisualGpt,
    },
)

STAGES: Table[type[Any]] = Table(
    "stage",
    {
        "adapted_lm": AdaptedLm,
        "lm": CausalLm,
        "mlm_text": TextBert,
    },
)
"""Trained like families, by the same job, for other families' slots; a family may be a stage too."""

MODELS: Table[type[Any]] = Table("model", {**FAMILIES, **STAGES})
"""All that a checkpoint can hold."""

PACKAGES: Table[Callable[[], Part]] = Table(
    "package",
    {
        "lite0": load_lite0,
        "minilm": minilm.load_minilm,
        "smollm2": load_smollm2,
    },
)
"""Pretrained parts that an installed package carries."""

FOLDERS: Table[Callable[[str], Part]] = Table(
    "slot that reads transformers' layout",
    {
        "clip": read_clip_folder,
        "lm": read_lm_folder,
        "text": minilm.read_folder,
        "vision": read_clip_folder,
    },
)
"""What reads a local folder, or a name on the Hub, for each slot."""

STAND_INS = {"clip": "clip", "vision": "clip", "lm": "lm", "text": "mlm_text"}
"""What a slot gets where its part is `random`: the tiny preset of this model."""

DECODERS: Table[Any] = Table(
    "decoder",
    {
        "beam": beam,
        "contrastive": contrastive,
        "greedy": greedy,
        "magic": magic,
        "nucleus": nucleus,
    },
)

SOURCES: Table[Callable[..., Iterator[Sample]]] = Table(
    "source",
    {
        "emoji8": emoji.emoji8,
        "emoji_mini": emoji.emoji_mini,
        "emoji_scenes": emoji_scenes.emoji_scenes,
        "openclipart": openclipart.openclipart,
        "shapes_l0": shapes.shapes_l0,
        "shapes_l1": shapes.shapes_l1,
        "shapes_open": shapes_open.shapes_open,
        "shapes_views": shapes_open.shapes_views,
        "stamps": stamps.stamps,
    },
)

_BLEU = "Papineni et al. 2002, as pycocoevalcap 1.2 computes it"
_CIDER = "Vedantam et al. 2015, arXiv:1411.5726, as pycocoevalcap 1.2 computes it"
_PLAIN_CIDER = "Vedantam et al. 2015, arXiv:1411.5726, without the clip and the length of CIDEr-D"
_METEOR = "Denkowski & Lavie 2014, as METEOR 1.5 for English computes it"
_CLIPSCORE = "Hessel et al. 2021, arXiv:2104.08718, by the scorer that the report names"
_DETECTION = "Lin et al. 2014, arXiv:1405.0312, as pycocotools 2.0.11 computes it"
_RECALL = "Karpathy & Fei-Fei 2015, arXiv:1412.2306; ties count against the model"


FEW_SHOTS = (0, 1, 2, 4, 8)
"""Numbers of demonstrations that can be measured."""

_MATCHED = "sentence-image matching of Li et al. 2019, arXiv:1908.03557, in lists of 32"
_VQA = "Antol et al. 2015, arXiv:1505.00468, after the official normalisation"


def _metric(
    name: str,
    ability: str,
    source: str,
    unit: str = "share",
    high: float = 1.0,
    *,
    better: bool = True,
) -> Metric:
    return Metric(
        name=name,
        ability=ability,
        unit=unit,
        low=0.0,
        high=high,
        higher_is_better=better,
        source=source,
    )


def _few_shot(name: str, source: str, unit: str = "share", high: float = 1.0) -> Iterator[Metric]:
    """The mean over trials and their standard deviation, for each number of shots."""
    for shots in FEW_SHOTS:
        whole = f"few_shot_{name}_k{shots}"
        yield _metric(whole, "in_context", source, unit, high)
        yield _metric(f"{whole}_std", "in_context", source, unit, high, better=False)


METRICS: Table[Metric] = Table(
    "metric",
    {
        metric.name: metric
        for metric in (
            _metric("exact_match", "captions", "equal to a reference after tokenising"),
            *(_metric(f"bleu_{order}", "captions", _BLEU) for order in (1, 2, 3, 4)),
            _metric("rouge_l", "captions", "Lin 2004, beta 1.2, as pycocoevalcap 1.2 computes it"),
            *(
                _metric(f"rouge_{n}", "captions", "Lin 2004, F1 as rouge-score computes it")
                for n in (1, 2)
            ),
            _metric("meteor", "captions", _METEOR),
            _metric("cider", "captions", _PLAIN_CIDER, unit="CIDEr points", high=10.0),
            _metric("cider_d", "captions", _CIDER, unit="CIDEr points", high=10.0),
            _metric("clip_score", "captions", _CLIPSCORE, unit="CLIPScore points", high=2.5),
            _metric("ref_clip_score", "captions", _CLIPSCORE, unit="CLIPScore points", high=10 / 7),
            *(
                _metric(f"{way}_r{k}", "embeds", _RECALL)
                for way in ("image_to_text", "text_to_image")
                for k in (1, 5, 10)
            ),
            *(
                _metric(f"match_{way}_r{k}", "matches", _MATCHED)
                for way in ("image_to_text", "text_to_image")
                for k in (1, 5)
            ),
            _metric("match_accuracy", "matches", f"{_MATCHED}, mean over right and wrong pairs"),
            _metric(
                "match_zero_shot_accuracy",
                "matches",
                "Wang et al. 2021, arXiv:2108.10904, by likelihood",
            ),
            _metric("vqa_accuracy", "answers", _VQA),
            _metric("zero_shot_accuracy", "embeds", "Radford et al. 2021, section 3.1"),
            _metric("zero_shot_mean_class_accuracy", "embeds", "the same, averaged over classes"),
            _metric(
                "linear_probe_accuracy", "probes", "Desai & Johnson 2021, section 4.1, on concepts"
            ),
            *(
                _metric(f"{name}_{group}", "detects", _DETECTION)
                for group in ("all", "base", "novel")
                for name in ("ap", "ap50")
            ),
            *_few_shot("exact_match", "equal to a reference after tokenising"),
            *_few_shot("cider_d", _CIDER, unit="CIDEr points", high=10.0),
            *_few_shot("vqa_accuracy", _VQA),
        )
    },
)
