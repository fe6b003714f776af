"""A smaller model starts from a larger one's weights by a rule that can be said: even distances, leading slices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from components.config import ConfigError
from components.training.teachers.inheritance import inherit

LARGE = {"image_px": 32, "vision_widths": [8, 16], "max_tokens": 16, "text_layers": 4}


def test_every_other_layer_is_taken_as_it_is(build_tiny: Callable[..., nn.Module]) -> None:
    teacher = build_tiny("clip", seed=1, **LARGE)
    student = build_tiny("clip", seed=2, **{**LARGE, "text_layers": 2})
    filled = inherit(student, teacher)
    assert set(filled) >= {name for name, _ in student.named_parameters()}
    for ours, theirs in ((0, 0), (1, 2)):
        mine, its = student.text.blocks[ours], teacher.text.blocks[theirs]
        assert all(
            torch.equal(one, other)
            for one, other in zip(mine.parameters(), its.parameters(), strict=True)
        )


def test_a_model_of_the_same_size_becomes_its_teacher(build_tiny: Callable[..., nn.Module]) -> None:
    teacher, student = (build_tiny("align", seed=seed) for seed in (1, 2))
    with torch.no_grad():  # statistics that batch norms counted are inherited too
        teacher.vision.tower.train()
        teacher.embed_images(torch.randint(0, 255, (8, 3, 64, 64), dtype=torch.uint8))
    inherit(student, teacher)
    pixels = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    teacher.eval(), student.eval()
    assert torch.equal(student.embed_images(pixels), teacher.embed_images(pixels))


def test_a_narrower_layer_takes_the_leading_slice_of_queries_keys_and_values_each(
    build_tiny: Callable[..., nn.Module],
) -> None:
    teacher = build_tiny("clip", seed=1, **LARGE, text_width=64, text_heads=4)
    student = build_tiny("clip", seed=2, **LARGE, text_width=32, text_heads=2)
    inherit(student, teacher)
    mine = student.text.blocks[1].attention.inward.weight.chunk(3)
    its = teacher.text.blocks[1].attention.inward.weight.chunk(3)
    assert all(torch.equal(one, other[:32, :32]) for one, other in zip(mine, its, strict=True))
    assert torch.equal(student.text.tokens.weight, teacher.text.tokens.weight[:, :32])


def test_gpt2s_fused_columns_are_sliced_each_for_itself(
    build_tiny: Callable[..., nn.Module],
) -> None:
    sizes = {"image_px": 32, "vision_widths": [8], "layers": 2}
    teacher = build_tiny("visualgpt", seed=1, **sizes, width=64, heads=4)
    student = build_tiny("visualgpt", seed=2, **sizes, width=32, heads=2)
    inherit(student, teacher)
    for name in ("weight", "bias"):
        mine = getattr(student.h[0].attn.c_attn, name).chunk(3, -1)
        its = getattr(teacher.h[0].attn.c_attn, name).chunk(3, -1)
        assert all(
            torch.equal(one, other[..., :32][: len(one)])
            for one, other in zip(mine, its, strict=True)
        )


def test_what_is_larger_than_the_teachers_stays(build_tiny: Callable[..., nn.Module]) -> None:
    teacher = build_tiny("clip", seed=1, **LARGE, text_width=32, text_heads=2)
    student = build_tiny("clip", seed=2, **LARGE, text_width=64, text_heads=4)
    before = student.text.tokens.weight.detach().clone()
    assert "text.tokens.weight" not in inherit(student, teacher)
    assert torch.equal(student.text.tokens.weight, before)


def test_another_family_has_nothing_to_inherit(build_tiny: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"A VirTex cannot inherit .* of a Clip"):
        inherit(build_tiny("virtex"), build_tiny("clip"))
