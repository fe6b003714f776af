"""What only ViLD owes: its invariants, the parts of its paper's size that are known, and its offline stage."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from components.abilities import Detects
from components.config import ConfigError
from components.data.batches import Batches, SplitImages, load_split
from components.models.detection.config import VildConfig
from components.models.detection.finder import sample_regions
from components.models.detection.targets import BoxesMissing, boxes_of
from components.models.detection.teacher import crops, embed_regions, window
from components.models.parts import Part
from components.models.vild import Vild
from components.objectives.detection import ensemble
from components.records import Batch
from components.training.building import random_part
from components.training.checkpoints.tensors import read_weights, write
from components.training.steps.names import named


@pytest.fixture
def build(build_tiny):
    """`build(**settings)`: a small ViLD for the made drawings, which are of 32 px."""

    def make(**settings) -> Vild:
        small = {
            "image_px": 32, "vision_widths": (16, 32), "levels": (3,), "pyramid_width": 16,
            "head_width": 32, "finder_steps": 1, "distilled": 4, "candidates": 24, "proposals": 8,
        }  # fmt: skip
        return build_tiny("vild", **{**small, **settings})

    return make


@pytest.fixture
def batch(build, batch_for) -> Batch:
    return batch_for(build().batch_spec(), 6)


@pytest.fixture
def names(tiny_tokenizer):
    return lambda *labels: tiny_tokenizer.encode(labels, 16)


def step_once(model: Vild, batch: Batch) -> None:
    """One step, after which the proposal network is fixed and the image loss is on."""
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.loss(batch).total.backward()
    optimiser.step()
    model.zero_grad()
    model.after_step()


@pytest.mark.parametrize("learns", ["text", "image", "vild", "ensemble"])
def test_more_names_change_no_region_and_permuted_names_permute_the_scores(
    build, batch: Batch, names, learns: str
) -> None:
    model = build(learns=learns).eval()
    few, many = names("red circle", "blue cross"), names("red circle", "blue cross", "red ring")
    first = model.embed_regions(batch.pixels_BCHW)
    model.detect(batch.pixels_BCHW, *many, torch.tensor([True, True, False]))
    again = model.embed_regions(batch.pixels_BCHW)
    for name in ("boxes_BP4", "text_BPD", "image_BPD"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.equal(first.proposals.boxes_BP4, again.proposals.boxes_BP4)
    assert torch.equal(first.proposals.scores_BP, again.proposals.scores_BP)
    two, three = model.embed_names(*few), model.embed_names(*many)
    torch.testing.assert_close(two, three[:2])
    base, order = torch.tensor([True, False, True]), torch.tensor([2, 0, 1])
    here = model.scores(first, three, base)
    there = model.scores(first, three[order], base[order])
    torch.testing.assert_close(there, here[..., order], rtol=1e-5, atol=1e-7)


def test_only_the_background_and_the_detector_get_a_gradient_never_the_teacher(
    build, batch: Batch
) -> None:
    model = build(learns="ensemble")
    step_once(model, batch)
    before = [value.clone() for value in model.clip.state_dict().values()]
    model.loss(batch).total.backward()
    assert model.background.grad is not None and model.background.grad.any()
    assert all(param.grad is None for param in model.clip.parameters())
    assert all(param.grad is None for param in model.distilled.parameters())
    assert not model.embed_names(
        batch.boxes.class_tokens_CT, batch.boxes.class_lengths_C
    ).requires_grad
    assert not model.clip.training and not model.distilled.proposer.training
    for one, other in zip(before, model.clip.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_without_its_novel_boxes_the_data_gives_bitwise_the_same_batches(
    build, tiny_shards, tiny_tokenizer
) -> None:
    """Novel are the blue drawings here; one set of rows holds their boxes, the other never had them."""
    spec = build().batch_spec()
    images = load_split(tiny_shards, "train", spec.image_px)

    def marked(row, keep: bool):
        boxes = tuple(replace(box, novel=box.label.startswith("blue")) for box in row.sample.boxes)
        boxes = boxes if keep else tuple(box for box in boxes if not box.novel)
        return replace(row, sample=replace(row.sample, boxes=boxes))

    found = []
    for keep in (True, False):
        rows = [marked(row, keep) for row in images.rows]
        split = SplitImages(split="train", rows=rows, pixels_NCHW=images.pixels_NCHW)
        classes = VildConfig().fitted(rows, tiny_tokenizer).classes
        assert classes and not any(label.startswith("blue") for label in classes)
        found.append(
            [Batches(split, spec, tiny_tokenizer, 8, seed=0).batch(step) for step in range(5)]
        )
    shown = 0
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.pixels_BCHW, other.pixels_BCHW)
        for name, value in vars(one.boxes).items():
            assert torch.equal(value, getattr(other.boxes, name))
        shown += int((one.boxes.classes_BO < 0).all(dim=1).sum())
    assert shown > 3, "images of novel objects alone are among them"


@pytest.mark.parametrize(("learns", "reached"), [("vild", True), ("ensemble", False)])
def test_the_image_loss_reaches_no_box_head_and_in_the_ensemble_not_the_first_branch(
    build, batch: Batch, learns: str, reached: bool
) -> None:
    model = build(learns=learns)
    step_once(model, batch)
    found = model.finder(batch.pixels_BCHW, batch.keys_B)
    model._image_loss(found, batch).backward()
    assert model.refine.weight.grad is None
    assert model.background.grad is None
    assert (model.branch.projection.weight.grad is not None) == reached
    if not reached:
        assert model.image_branch.projection.weight.grad.any()


def test_the_image_loss_is_off_until_the_proposal_network_is_fixed(build, batch: Batch) -> None:
    model = build(finder_steps=2)
    model.train()
    assert model.loss(batch).parts["image"] == 0
    start = [value.clone() for value in model.distilled.proposer.state_dict().values()]
    step_once(model, batch)
    assert model.loss(batch).parts["image"] == 0
    step_once(model, batch)
    assert model.loss(batch).parts["image"] > 0
    fixed = model.distilled.proposer.state_dict()
    assert any(not torch.equal(*pair) for pair in zip(start, fixed.values(), strict=True))
    fixed = {name: value.clone() for name, value in fixed.items()}
    step_once(model, batch)
    assert all(
        torch.equal(value, fixed[name])
        for name, value in model.distilled.proposer.state_dict().items()
    )


def test_what_is_distilled_is_the_same_alone_remembered_and_in_any_company(
    build, batch: Batch
) -> None:
    model = build()
    step_once(model, batch)
    pixels, keys = batch.pixels_BCHW, batch.keys_B
    whole = model.distilled.of(model.clip, pixels, keys)
    again = model.distilled.of(model.clip, pixels.flip(0), keys.flip(0))
    other = build()
    other.load_state_dict(model.state_dict())
    alone = [other.distilled.of(other.clip, pixels[i : i + 1], keys[i : i + 1]) for i in range(6)]
    for part in range(3):
        assert torch.equal(whole[part], again[part].flip(0))
        assert torch.equal(whole[part], torch.cat([each[part] for each in alone]))
    torch.testing.assert_close(whole[2].norm(dim=-1), torch.ones(6, 4))


def test_a_checkpoint_between_steps_knows_the_fixed_proposals(build, batch: Batch) -> None:
    model = build()
    step_once(model, batch)
    other = build(seed=5)
    other.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    one = model.loss(batch)
    torch.manual_seed(0)
    assert torch.equal(one.total, other.train().loss(batch).total)
    assert one.parts["image"] > 0


def test_the_teacher_sees_both_crops_each_normalised_before_and_after(tiny_tokenizer) -> None:
    teacher = random_part("clip", tiny_tokenizer).module.eval()
    side = teacher.batch_spec().image_px
    pixels = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 12.0, 30.0, 22.0], [0.0, 0.0, 9.0, 20.0]])
    cut = {"scales": (1.0, 1.5), "side_px": side, "fill": 1.0}
    with torch.no_grad():
        found = embed_regions(teacher, pixels[None], boxes[None], **cut)[0]
        parts = [F.normalize(teacher.embed_images(shown)) for shown in crops(pixels, boxes, **cut)]
    torch.testing.assert_close(found, F.normalize(parts[0] + parts[1]))
    assert not torch.allclose(parts[0], parts[1], atol=1e-4)


def test_crops_are_square_windows_that_stretch_nothing_and_go_on_beyond_the_edge() -> None:
    assert window(torch.tensor([[10.0, 20.0, 30.0, 30.0]]), 1.5).tolist() == [[5, 10, 35, 40]]
    columns = torch.arange(40).float().expand(3, 40, 40) * 4
    shown = crops(
        columns.to(torch.uint8), torch.tensor([[10.0, 10.0, 20.0, 14.0], [36.0, 0.0, 40.0, 4.0]]),
        scales=(1.0, 4.0), side_px=20, fill=1.0,
    )  # fmt: skip
    # A ramp of 4 a pixel, 10 px in 20 steps; the second box is at the right edge, where the ramp goes on flat.
    assert (shown[0][0, 0, 5].diff() == 2).all()
    assert shown[1][1].max() == 39 * 4


def test_a_filled_crop_stands_in_the_colour_around_it() -> None:
    pixels = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    pixels[:, 12:20, 12:20] = 10
    (_, wide) = crops(
        pixels, torch.tensor([[12.0, 12.0, 20.0, 20.0]]), scales=(1.0, 2.0), side_px=32, fill=0.5
    )
    assert (wide[0, :, :8] == 200).all() and (wide[0, :, :, 24:] == 200).all()
    assert (wide[0, :, 14:18, 14:18] == 10).all()


def test_detections_are_boxes_within_the_image_best_first(build, batch: Batch, names) -> None:
    model = build(learns="ensemble", detections=5).eval()
    found = model.detect(batch.pixels_BCHW, *names("red circle", "a fox"), torch.ones(2).bool())
    assert isinstance(model, Detects)
    assert len(found) == 6
    for each in found:
        assert len(each.boxes_N4) == len(each.scores_N) == len(each.classes_N) <= 5
        assert (each.scores_N.diff() <= 0).all()
        assert each.scores_N.min() >= 0 and each.scores_N.max() <= 1
        assert each.boxes_N4.min() >= 0 and each.boxes_N4.max() <= 32
        assert set(each.classes_N.tolist()) <= {0, 1}


@pytest.mark.parametrize("learns", ["text", "image", "vild"])
def test_one_branch_has_no_second_judge(build, learns: str) -> None:
    assert build(learns=learns).detect_by_text is None


def test_the_text_judge_of_an_ensemble_is_its_first_branch_without_the_other(
    build, batch: Batch, names
) -> None:
    model = build(learns="ensemble").eval()
    asked = (batch.pixels_BCHW, *names("red circle", "a fox"), torch.tensor([True, False]))
    before = model.detect_by_text(*asked)
    both = model.detect(*asked)
    for param in model.image_branch.parameters():
        torch.nn.init.normal_(param)
    for one, other in zip(before, model.detect_by_text(*asked), strict=True):
        assert torch.equal(one.scores_N, other.scores_N)
    changed = zip(both, model.detect(*asked), strict=True)
    assert not all(torch.equal(one.scores_N, other.scores_N) for one, other in changed)


def test_each_branch_of_an_ensemble_has_its_own_temperature(build, batch: Batch, names) -> None:
    model = build(learns="ensemble", scale=50.0, image_scale=9.0, ensemble_weight=0.75).eval()
    regions = model.embed_regions(batch.pixels_BCHW)
    text_CD = model.embed_names(*names("red circle", "a fox"))
    base = torch.tensor([True, False])
    image = (9 * regions.image_BPD @ text_CD.T).softmax(-1)
    everything = torch.cat([F.normalize(model.background, dim=-1)[None], text_CD])
    text = (50 * regions.text_BPD @ everything.T).softmax(-1)[..., 1:]
    with torch.no_grad():
        torch.testing.assert_close(
            model.scores(regions, text_CD, base), ensemble(text, image, base, 0.75)
        )


def test_a_class_is_the_mean_of_its_prompts_and_other_prompts_are_other_classes(
    build, batch_for, names
) -> None:
    model = build(prompts=("{}", "a {}", "the {} here"))
    found = model.embed_names(
        *names("fox", "a fox", "the fox here", "ant", "a ant", "the ant here")
    )
    each = [
        F.normalize(model.clip.embed_texts(*names(text))[0], dim=-1)
        for text in ("fox", "a fox", "the fox here")
    ]
    with torch.no_grad():
        torch.testing.assert_close(found[0], F.normalize(sum(each), dim=-1))
    assert len(found) == 2
    assert not torch.allclose(found[0], build().embed_names(*names("fox"))[0], atol=1e-4)
    with pytest.raises(ValueError, match="3 prompts"):
        model.embed_names(*names("fox", "a fox"))


def test_a_batch_names_each_class_in_each_prompt(build, batch_for) -> None:
    prompts = ("{}", "there is a {}")
    plain, asked = (
        batch_for(build().batch_spec(), 6),
        batch_for(build(prompts=prompts).batch_spec(), 6),
    )
    assert len(asked.boxes.class_tokens_CT) == 2 * len(plain.boxes.class_tokens_CT)
    assert torch.equal(asked.boxes.classes_BO, plain.boxes.classes_BO)
    assert asked.boxes.class_lengths_C[1] > asked.boxes.class_lengths_C[0]
    assert torch.isfinite(build(prompts=prompts).train().loss(asked).total)


def rows_read(branch, inside: list[int]) -> None:
    """Put how many regions a branch's layers read at once into a list."""
    branch.layers.register_forward_pre_hook(lambda _, inputs: inside.append(len(inputs[0])))


def test_the_heads_batch_norm_never_sees_padding(build, batch: Batch) -> None:
    model = build(learns="ensemble", head_norm=True)
    step_once(model, batch)
    read: dict[str, list[int]] = {"text": [], "image": []}
    rows_read(model.branch, read["text"])
    rows_read(model.image_branch, read["image"])
    torch.manual_seed(3)
    found = model.finder(batch.pixels_BCHW, batch.keys_B)
    torch.manual_seed(3)
    model._region_losses(found, boxes_of(batch))
    torch.manual_seed(3)
    proposals = model.finder.propose(found, **model.proposing)
    boxes_BR4, _, real_BR = sample_regions(proposals, boxes_of(batch), model.config.regions)
    assert read["text"] == [int(real_BR.sum())]
    assert int(real_BR.sum()) < boxes_BR4.shape[0] * boxes_BR4.shape[1], "there is padding"
    model._image_loss(found, batch)
    real_BM = model.distilled.of(model.clip, batch.pixels_BCHW, batch.keys_B)[1]
    assert read["image"] == [int(real_BM.sum())]


def test_every_parameter_has_a_gradient_before_and_after_the_image_loss_is_on(
    build, batch: Batch
) -> None:
    """Several workers wait for each of them."""
    model = build(learns="ensemble", head_norm=True).train()
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        model.loss(batch).total.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        model.after_step()


def test_a_batch_without_a_single_box_is_learnt_from_as_background(build, batch: Batch) -> None:
    model = build()
    none = replace(
        batch.boxes,
        corners_BO4=batch.boxes.corners_BO4[:, :0], classes_BO=batch.boxes.classes_BO[:, :0],
    )  # fmt: skip
    parts = model.loss(replace(batch, boxes=none)).parts
    assert parts["proposals"] == 0 and parts["boxes"] == 0
    assert torch.isfinite(parts["text"]) and torch.isfinite(parts["objectness"])


def test_a_batch_that_brings_no_boxes_is_refused(build, batch: Batch) -> None:
    with pytest.raises(BoxesMissing, match="shapes_l1"):
        build().loss(replace(batch, boxes=None))


def test_settings_that_cannot_work_are_refused(tiny_rows, tiny_tokenizer) -> None:
    with pytest.raises(ConfigError, match="crop_fill"):
        VildConfig(crop_fill=0.0)
    with pytest.raises(ConfigError, match="prompts"):
        VildConfig(prompts=("a thing",))
    with pytest.raises(ConfigError, match="distilled"):
        VildConfig(distilled=200)
    bare = [replace(row, sample=replace(row.sample, boxes=())) for row in tiny_rows]
    with pytest.raises(ConfigError, match="emoji_scenes"):
        VildConfig().fitted(bare, tiny_tokenizer)


def test_the_paper_preset_has_resnet_50_and_a_pyramid_of_the_known_sizes(tiny_tokenizer) -> None:
    """The paper gives no count; ResNet-50's is 23.508 M without its classifier, the pyramid's 3.344 M."""
    clip = random_part("clip", tiny_tokenizer)
    with torch.device("meta"):
        part = Part(
            module=type(clip.module)(clip.module.config), tokenizer=None, origin=clip.origin
        )
        model = Vild(VildConfig.paper(), {"clip": part})

    def size(module) -> int:
        return sum(param.numel() for param in module.parameters())

    assert size(model.finder.backbone) == pytest.approx(23.508e6, rel=0.001)
    assert size(model.finder.pyramid) == 3_344_384
    # The first full layer of each branch reads 7 x 7 x 256 and dominates.
    assert size(model.branch) == size(model.image_branch)
    assert size(model.branch.layers) > 256 * 49 * 1024
    assert len(model.finder._grids) == 5


def test_a_frozen_backbone_is_shared_with_the_fixed_copy_and_saved_once(
    build, batch: Batch, tmp_path
) -> None:
    model = build(vision="lite0")
    assert model.distilled.proposer.backbone is model.finder.backbone
    model.distilled.fix(model.finder)
    write(tmp_path / "weights.safetensors", named(model))
    towers = sum(value.nbytes for value in model.finder.backbone.state_dict().values())
    assert towers < (tmp_path / "weights.safetensors").stat().st_size < 1.9 * towers
    other = build(seed=3, vision="lite0")
    read_weights(tmp_path / "weights.safetensors", other)
    assert other.distilled.proposer.backbone is other.finder.backbone
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
