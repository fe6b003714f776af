"""The vision slot: shapes, normalisation, and a frozen tower that is bitwise what it was and asked only once."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.config import ConfigError
from components.models import lite0
from components.models.backbones import FrozenSlot, build_vision
from components.models.frozen_tower import FeatureCache, fingerprint
from components.models.lite0 import SamePad
from components.models.packaged import PretrainedMissing

pretrained = pytest.mark.skipif(
    importlib.util.find_spec(lite0.PACKAGE) is None, reason='needs the extra "pretrained"'
)


def _images(count: int, side: int = 32, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=made, dtype=torch.uint8)


@pytest.fixture
def frozen() -> FrozenSlot:
    torch.manual_seed(0)
    slot = build_vision("lite0", 32)
    assert isinstance(slot, FrozenSlot)
    for norm in slot.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            # Untrained statistics let a deep network fade to zero, where every image looks the same.
            norm.weight.data.fill_(2.0)
            norm.running_var.fill_(0.5)
    return slot


@pytest.mark.parametrize(
    ("name", "image_px", "tokens", "map_width", "pooled_width"),
    [
        ("conv", 64, 16, 128, 128),
        ("vit", 64, 16, 128, 128),
        ("lite0", 96, 9, 320, 1280),
        ("resnet50", 64, 4, 2048, 2048),
    ],
)
def test_a_slot_gives_what_it_says(name, image_px, tokens, map_width, pooled_width) -> None:
    slot = build_vision(name, image_px).eval()
    map_BND, pooled_BD = slot.encode(_images(2, image_px))
    assert map_BND.shape == (2, tokens, map_width)
    assert pooled_BD.shape == (2, pooled_width)
    assert (slot.map_tokens, slot.map_width, slot.pooled_width) == (tokens, map_width, pooled_width)
    assert not any("mean" in key or "std" in key for key in slot.state_dict() if "tower" not in key)


def test_an_unknown_tower_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Known: conv, lite0, resnet50, vit"):
        build_vision("resnet", 64)


def test_lite0_normalises_as_its_weights_were_trained() -> None:
    slot, seen = build_vision("lite0", 32), []
    slot.tower.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    slot.encode(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    torch.testing.assert_close(seen[0][0], torch.full((3, 32, 32), (255 - 127) / 128))


def test_same_padding_puts_the_odd_pixel_right_and_below() -> None:
    one = torch.ones(1, 1, 4, 4)
    assert SamePad(3, 2)(one)[0, 0].tolist()[0] == [1, 1, 1, 1, 0]
    assert SamePad(3, 2)(one)[0, 0].tolist()[4] == [0, 0, 0, 0, 0]
    assert SamePad(3, 1)(one).shape == (1, 1, 6, 6)
    assert SamePad(5, 2)(torch.ones(1, 1, 5, 5)).shape == (1, 1, 9, 9)


def test_a_frozen_tower_is_bitwise_the_same_after_training_around_it(frozen: FrozenSlot) -> None:
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    model = torch.nn.ModuleDict({"vision": frozen, "head": torch.nn.Linear(1280, 4)})
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        model["head"](frozen.encode(_images(6))[1]).square().sum().backward()
        optimiser.step()
    assert model["head"].training
    assert not any(module.training for module in frozen.modules())
    assert not any(param.requires_grad for param in frozen.parameters())
    for name, value in frozen.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_image_is_computed_once_for_each_key(frozen: FrozenSlot) -> None:
    asked: list[int] = []
    frozen.tower.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    images, keys = _images(5), torch.tensor([8, 2, 4, 6, 3])
    first = frozen.encode(images, keys)
    again = frozen.encode(images[[3, 0, 0]], keys[[3, 0, 0]])
    assert len(asked) == 1
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one[[3, 0, 0]], other)
    frozen.encode(images, None)
    assert len(asked) == 2


def test_what_is_remembered_does_not_depend_on_the_rest_of_the_batch(frozen: FrozenSlot) -> None:
    images, keys = _images(20), torch.arange(20)
    map_BND, pooled_BD = frozen.encode(images, keys)
    for row in (0, 7, 19):
        map_1ND, pooled_1D = frozen.encode(images[row : row + 1])
        assert torch.equal(map_1ND[0], map_BND[row])
        assert torch.equal(pooled_1D[0], pooled_BD[row])


def test_a_key_that_means_another_image_is_not_believed(frozen: FrozenSlot) -> None:
    key = torch.tensor([7])
    first, other = _images(1), _images(1, seed=1)
    remembered = frozen.encode(first, key)[1]
    found = frozen.encode(other, key)[1]
    assert torch.equal(found, frozen.encode(other)[1])
    assert not torch.equal(found, remembered)


def test_new_weights_make_the_memory_worthless(frozen: FrozenSlot) -> None:
    images, keys = _images(3), torch.arange(3)
    before = frozen.encode(images, keys)[1]
    with torch.no_grad():
        frozen.tower.head[1].weight.mul_(0.5)
    after = frozen.encode(images, keys)[1]
    assert not torch.allclose(before, after)
    assert torch.equal(after, frozen.encode(images)[1])


def test_the_memory_is_in_no_checkpoint(frozen: FrozenSlot) -> None:
    names = list(frozen.state_dict())
    frozen.encode(_images(3), torch.arange(3))
    assert list(frozen.state_dict()) == names


def test_what_was_remembered_while_writing_can_be_trained_on(frozen: FrozenSlot) -> None:
    images, keys, head = _images(2), torch.arange(2), torch.nn.Linear(1280, 1)
    with torch.inference_mode():
        frozen.encode(images, keys)
    head(frozen.encode(images, keys)[1]).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_bf16_around_it_changes_nothing_of_what_is_remembered(frozen: FrozenSlot) -> None:
    images, keys = _images(2), torch.arange(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = frozen.encode(images, keys)[1]
    assert found.dtype == torch.float32
    assert torch.equal(found, frozen.encode(images)[1])


def test_a_full_memory_still_gives_every_feature() -> None:
    cache, asked = FeatureCache(limit_bytes=8 * 4), []

    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(pixels))
        means = pixels.float().mean(dim=(1, 2, 3))
        return means[:, None], means[:, None]

    images, keys = _images(6), torch.arange(6)
    wanted = images.float().mean(dim=(1, 2, 3))
    for _ in range(2):
        assert torch.equal(cache.through(encode, images, keys)[0][:, 0], wanted)
        assert len(cache) == 4
    assert asked == [6, 2]


def test_fingerprints_tell_images_and_orders_apart() -> None:
    images = _images(64, side=9)
    swapped = images.clone()
    swapped[:, :, [0, 1]] = swapped[:, :, [1, 0]]
    one_bit = images.clone()
    one_bit[:, 0, 0, 0] ^= 1
    found = torch.cat([fingerprint(part) for part in (images, swapped, one_bit, images.flip(-1))])
    assert len(found.unique()) == 4 * 64
    assert torch.equal(fingerprint(images[5:6]), fingerprint(images)[5:6])


def test_a_missing_package_is_told_with_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package_is_installed")
    with pytest.raises(PretrainedMissing, match=r"diptych\[pretrained\].*vision: conv"):
        build_vision("lite0", 96).initialise()


def test_weights_with_another_checksum_are_not_opened_and_their_package_is_not_run(
    tmp_path, monkeypatch
) -> None:
    file = tmp_path / "made_lite0_package" / lite0.WEIGHTS
    file.parent.mkdir(parents=True)
    (tmp_path / "made_lite0_package" / "__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lite0, "PACKAGE", "made_lite0_package")
    with pytest.raises(PretrainedMissing, match=r"is not there.*diptych\[pretrained\]"):
        lite0.read_weights()
    file.write_bytes(b"\x80\x02not a model")
    with pytest.raises(PretrainedMissing, match="has sha256"):
        lite0.read_weights()


@pretrained
def test_pretrained_weights_are_all_used_in_their_places_but_for_the_classifier() -> None:
    slot = build_vision("lite0", 96)
    slot.initialise()
    theirs = list(lite0.read_weights().items())
    ours = list(slot.tower.state_dict().items())
    assert [name.rpartition(".")[2] for name, _ in ours] == [
        name.rpartition(".")[2] for name, _ in theirs[: len(ours)]
    ]
    assert [name for name, _ in theirs[len(ours) :]] == ["_fc.weight", "_fc.bias"]
    assert sum(value.numel() for _, value in theirs) == 4_694_073


@pretrained
def test_a_checkpoint_holds_the_tower_and_needs_no_package(tmp_path, monkeypatch) -> None:
    slot = build_vision("lite0", 32)
    slot.initialise()
    save_file(slot.state_dict(), tmp_path / "slot.safetensors")
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package_is_installed")
    other = build_vision("lite0", 32)
    other.load_state_dict(load_file(tmp_path / "slot.safetensors"))
    images = _images(2)
    assert torch.equal(other.encode(images)[1], slot.encode(images)[1])


@pytest.mark.parametrize("name", ["conv", "vit"])
def test_the_pooled_vector_alone_is_the_one_beside_the_map(name: str) -> None:
    torch.manual_seed(0)
    slot, images = build_vision(name, 32).eval(), _images(3)
    torch.testing.assert_close(slot.pool(images), slot.encode(images)[1], atol=1e-5, rtol=1e-5)


def test_a_frozen_tower_is_not_asked_again_for_a_pooled_vector(frozen: FrozenSlot) -> None:
    asked: list[int] = []
    frozen.tower.register_forward_hook(lambda *_: asked.append(1))
    images, keys = _images(3), torch.arange(3)
    wanted = frozen.encode(images, keys)[1]
    assert torch.equal(frozen.pool(images, keys), wanted)
    assert asked == [1]
