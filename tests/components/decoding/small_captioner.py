"""A small VirTex, half trained on made captions, and its next word computed without a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from components.models.virtex import BOS_ID, VirTex, VirtexConfig
from components.records import Batch

VOCABULARY = 12
EOS = VOCABULARY - 1


def half_trained(vocabulary: int = VOCABULARY, max_tokens: int = 8, steps: int = 40) -> VirTex:
    """Half trained on made captions, so that texts differ by image and length and no choice is a sure one."""
    torch.manual_seed(3)
    model = VirTex(
        VirtexConfig(
            vision_widths=(8, 16), image_px=16, width=32, layers=2, vocab_size=vocabulary,
            max_tokens=max_tokens,
        )
    )  # fmt: skip
    batch = _batch(vocabulary, max_tokens)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        model.loss(batch).total.backward()
        optimiser.step()
    return model.eval()


def _batch(vocabulary: int, max_tokens: int) -> Batch:
    made = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, max_tokens + 1, (12,), generator=made)
    tokens = torch.randint(BOS_ID + 1, vocabulary - 1, (12, max_tokens), generator=made)
    tokens[:, 0] = BOS_ID
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[length - 1] = vocabulary - 1
        row[length:] = 0
    numbers = torch.arange(12)
    return Batch(
        pixels_BCHW=made_images(12),
        tokens_BT=tokens,
        lengths_B=lengths,
        groups_B=numbers,
        keys_B=numbers,
        prompts_B=torch.ones_like(numbers),
    )


def made_images(count: int) -> Tensor:
    """Blocks of random colours: noise of single pixels would look the same to any tower."""
    made = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (count, 3, 2, 2), generator=made, dtype=torch.uint8)
    return blocks.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def next_states(model: VirTex, image: Tensor, prefix: list[int]) -> Tensor:
    """(T, D) states of `<bos>` and a prefix, computed from scratch by the layers as training runs them: no cache."""
    x = model.embedding(torch.tensor([[BOS_ID, *prefix]]))
    memory = model._memory(image[None], None)
    for layer in model.forward_layers:
        x, _ = layer(x, layer.image.read(memory))
    return x[0]


def next_logits(model: VirTex, image: Tensor, prefix: list[int]) -> Tensor:
    """Logits after a prefix, from scratch."""
    return model.output(next_states(model, image, prefix)[-1])
