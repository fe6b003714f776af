"""A detector cut into graphs finds what it finds whole."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from components.export.folder import export
from components.export.onnx_files import session
from components.models.detection.finder import Proposals, take
from components.models.detection.judging import Regions, detections
from components.models.detection.nms import suppress
from components.training.checkpoints.checkpoint import Origin, save

SMALL = {
    "learns": "ensemble", "image_px": 32, "vision_widths": (16, 32), "levels": (2, 3),
    "pyramid_width": 16, "head_width": 32, "distilled": 4, "candidates": 24, "proposals": 8,
}  # fmt: skip


@pytest.fixture
def exported(build_tiny, tiny_tokenizer, tmp_path):
    """A detector with the objectness that training would give it, and its files."""
    model = build_tiny("vild", **SMALL).eval()
    with torch.no_grad():
        model.finder.objectness.weight.mul_(100)
        model.finder.offsets.weight.mul_(20)
        model.background.normal_()
    origin = Origin(family="vild", config=model.config.to_dict(), seed=0, shards_digest="made")
    saved = save(tmp_path / "run", model, tokenizer=tiny_tokenizer, origin=origin, step=0)
    made = export(model, tiny_tokenizer, saved.path, tmp_path / "out", "onnx", "vild, step 0")
    return model, made.folder


def from_files(folder, pixels, tokens, lengths, base):
    """What `README.md` of the folder says: boxes chosen between `search` and `regions`, and again after `scores`."""
    search, regions, scores, text = (
        session(folder / f"{name}.onnx") for name in ("search", "regions", "scores", "text")
    )
    about = json.loads((folder / "export.json").read_text())["settings"]
    objectness, boxes, *maps = search((pixels,))
    found, best = objectness.topk(about["proposing"]["candidates"], dim=1)
    boxes = take(boxes, best)
    real = (boxes[..., 2:] - boxes[..., :2] >= 1).all(dim=-1)
    stays = suppress(boxes, found.masked_fill(~real, -torch.inf), about["proposing"]["threshold"])
    kept = stays.int().argsort(dim=1, descending=True, stable=True)
    kept = kept[:, : about["proposing"]["proposals"]]
    real = stays.gather(1, kept)
    proposed, found = take(boxes, kept) * real[..., None], found.gather(1, kept) * real
    refined, by_text, by_image = regions((*maps, proposed))
    names = F.normalize(text((tokens, lengths))[0], dim=-1)
    (judged,) = scores((by_text, by_image, found, names, base))
    seen = Regions(
        boxes_BP4=refined, text_BPD=by_text, image_BPD=by_image,
        proposals=Proposals(boxes_BP4=proposed, scores_BP=found, real_BP=real),
    )  # fmt: skip
    return detections(seen, judged, overlap=about["overlap"], most=about["detections"])


@pytest.mark.slow
def test_boxes_found_by_the_files_are_those_the_model_finds(exported, tiny_tokenizer):
    model, folder = exported
    draw = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), generator=draw, dtype=torch.uint8)
    tokens, lengths = tiny_tokenizer.encode(["red circle", "a fox", "green cross"], 16)
    tokens = torch.as_tensor(tokens)[:, : int(max(lengths))]
    asked = (pixels, tokens, torch.as_tensor(lengths), torch.tensor([True, False, True]))
    with torch.no_grad():
        wanted, found = model.detect(*asked), from_files(folder, *asked)
    assert min(len(each.scores_N) for each in wanted) > 3
    for ours, theirs in zip(wanted, found, strict=True):
        torch.testing.assert_close(theirs.boxes_N4, ours.boxes_N4, rtol=0, atol=1e-3)
        torch.testing.assert_close(theirs.scores_N, ours.scores_N, rtol=0, atol=1e-4)
        assert torch.equal(theirs.classes_N, ours.classes_N)
