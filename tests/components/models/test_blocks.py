"""A block asked for one token of each row gives what the whole block has there, with its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.models.blocks import PreNormBlock, QuickGELU, initialise_block, pick


@pytest.mark.parametrize("causal", [False, True])
def test_one_token_of_a_block_is_the_whole_blocks_with_the_same_gradients(causal: bool) -> None:
    torch.manual_seed(0)
    block = PreNormBlock(24, 3)
    initialise_block(block, width=24, layers=2)
    nn.init.normal_(block.attention.inward.bias)
    at_B = torch.tensor([0, 4, 6, 2])
    found = []
    for one in (True, False):
        x_BTD = torch.randn(4, 7, 24, generator=torch.Generator().manual_seed(2)).requires_grad_()
        out_BD = (
            block(x_BTD, causal=causal, at_B=at_B)
            if one
            else pick(block(x_BTD, causal=causal), at_B)
        )
        block.zero_grad()
        out_BD.square().sum().backward()
        found.append([out_BD.detach(), x_BTD.grad, *(value.grad for value in block.parameters())])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


def test_quick_gelu_is_its_formula() -> None:
    x = torch.linspace(-9, 9, 101)
    torch.testing.assert_close(QuickGELU()(x), x * torch.sigmoid(1.702 * x))
