"""What is not computed again, or at all: frozen features, logits of padding, zeros of ASIF, sorted rows, decoded images.

    python tests/benchmarks/not_computed.py [--rounds 3]

Each peer is the plain procedure, written here, and its result is checked first. Prints for each the CPU ms of either side,
ours over the plain one with the lowest and highest of the rounds, and the aim.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from clip_peers import CONFIG, batch_of, uncut
from PIL import Image
from prefix_writer import GPT2
from torch import Tensor
from torch.nn import functional as F
from turns import Sides, compare, memory, settle

from components.data.batches import mirror
from components.data.transforms import decode
from components.metrics.retrieval import recall
from components.models.backbones import frozen_vision
from components.models.causal_lm import CausalLm
from components.models.clip import Clip
from components.models.relative import Relative


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    settle()
    for one in (frozen_features, caption_loss, sparse_products, recalls, classifier, images):
        torch.manual_seed(0)
        one(given.rounds)


def frozen_features(rounds: int) -> None:
    """A step of a CLIP whose image tower is frozen: features by key, or the tower asked again."""
    model, batch = Clip(CONFIG), batch_of(64, CONFIG)
    model.image.slot = frozen_vision(model, CONFIG.image_px)

    def step(remember: bool) -> float:
        total = model.loss(batch if remember else replace(batch, keys_B=None)).total
        model.zero_grad()
        total.backward()
        return total.item()

    assert abs(step(True) - step(False)) < 1e-5
    sides: Sides = {"tower asked again": lambda: step(False), "remembered": lambda: step(True)}
    compare("frozen image tower (ViT, 6 x 384, 224 px), B=64, a training step", sides, rounds, 2.5)


def caption_loss(rounds: int) -> None:
    """The head of a language model: logits of every place, or of those that are learnt."""
    lm = CausalLm(replace(GPT2, positions=64, max_tokens=40, random_offsets=False)).train()
    batch = batch_of(32, replace(CONFIG, max_tokens=40, vocab_size=50257))
    batch.lengths_B[0] = 34  # one long caption, as a larger batch has
    tokens = batch.tokens_BT[:, : int(batch.lengths_B.max())]
    place_T = torch.arange(1, tokens.shape[1])
    labels = tokens[:, 1:].masked_fill(place_T >= batch.lengths_B[:, None], -100)
    hidden = lm.run(lm.embed(tokens[:, :-1]))[0].detach()
    learnt = labels >= 0

    def backward(loss_of: Callable[[Tensor], Tensor]) -> float:
        states = hidden.clone().requires_grad_()
        loss = loss_of(states)
        loss.backward()
        return loss.item()

    def everywhere() -> float:
        return backward(
            lambda states: F.cross_entropy(lm.logits(states).flatten(0, 1), labels.flatten())
        )

    def where_learnt() -> float:
        return backward(lambda states: F.cross_entropy(lm.logits(states[learnt]), labels[learnt]))

    assert abs(everywhere() - where_learnt()) < 1e-4
    share = learnt.float().mean().item()
    sides: Sides = {"all logits, ignore_index": everywhere, "where learnt": where_learnt}
    compare(f"caption loss, V=50257, {share:.0%} of the places learnt", sides, rounds, 1.8)


def sparse_products(rounds: int) -> None:
    """ASIF's second half: 250 x 250 descriptions of 800 out of 100,000 anchors."""
    index = torch.stack([torch.randperm(100_000)[:800].sort().values for _ in range(500)])
    values = F.normalize(torch.rand(500, 800), dim=1)
    images, texts = (
        Relative(values[part], index[part], 100_000) for part in (slice(250), slice(250, None))
    )
    torch.testing.assert_close(
        images.products(texts), images.dense() @ texts.dense().T, atol=1e-6, rtol=1e-4
    )
    sides: Sides = {
        "unfolded": lambda: images.dense() @ texts.dense().T,
        "sparse": lambda: images.products(texts),
    }
    compare("ASIF scores, 250 x 250, k=800 of 100,000 anchors", sides, rounds, 10)


def recalls(rounds: int) -> None:
    """Recall at 1, 5 and 10 both ways of 2,500 images and 12,500 texts: rows sorted, or rivals counted."""
    image, text = (
        F.normalize(torch.randn(2500, 512), dim=1),
        F.normalize(torch.randn(12_500, 512), dim=1),
    )
    pairs = torch.stack([torch.arange(12_500) // 5, torch.arange(12_500)], dim=1)

    def sorted_rows() -> dict[str, float]:
        scores = image @ text.T
        found = {}
        own = pairs[:, 0]
        ranks = {
            "image_to_text": (
                scores.argsort(dim=1, descending=True) // 5 == torch.arange(2500)[:, None]
            )
            .int()
            .argmax(dim=1),
            "text_to_image": (scores.T.argsort(dim=1, descending=True) == own[:, None])
            .int()
            .argmax(dim=1),
        }
        for way, rank in ranks.items():
            found |= {f"{way}_r{k}": (rank < k).double().mean().item() for k in (1, 5, 10)}
        return found

    theirs, ours = sorted_rows(), recall(image, text, pairs)
    assert all(abs(theirs[name] - ours[name]) < 2e-3 for name in ours), (theirs, ours)
    sides: Sides = {"rows sorted": sorted_rows, "counted": lambda: recall(image, text, pairs)}
    compare("R@1/5/10, 2,500 x 12,500, D=512", sides, min(rounds, 2), 7)
    memory("memory", sides)


def classifier(rounds: int) -> None:
    """A zero-shot classifier's prompts: 8 classes in 80 templates through the text tower, as padded or as long as they are."""
    model = Clip(CONFIG).eval()
    batch = batch_of(640, CONFIG)
    full = uncut(batch)

    def embed(which) -> Tensor:
        with torch.no_grad():
            return model.embed_texts(which.tokens_BT, which.lengths_B)

    torch.testing.assert_close(embed(batch), embed(full), atol=1e-5, rtol=1e-4)
    sides: Sides = {
        "whole context": lambda: embed(full),
        "as long as they are": lambda: embed(batch),
    }
    compare("classifier of 640 prompts, 15 tokens on average of 77", sides, rounds, 4)


def images(rounds: int) -> None:
    """64 pictures of 500 x 375 to a batch at 224: decoded each time, or decoded once and kept as bytes."""
    random = np.random.default_rng(0)
    files, kept = [], np.empty((64, 3, 224, 224), np.uint8)
    for row in range(64):
        small = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        out = io.BytesIO()
        small.resize((500, 375), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        files.append(out.getvalue())
        kept[row] = decode(files[row], 224)
    order, turned = random.permutation(64), random.random(64) < 0.5

    def batch(pixels: np.ndarray) -> Tensor:
        pixels[turned] = mirror(pixels[turned])
        return torch.from_numpy(pixels)

    def decoded() -> Tensor:
        return batch(np.stack([decode(files[row], 224) for row in order]))

    assert torch.equal(decoded(), batch(kept[order]))
    sides: Sides = {"Pillow": decoded, "kept": lambda: batch(kept[order])}
    compare("64 JPEG pictures of 500 x 375 to 224, mirrored half of the time", sides, rounds, 10)


if __name__ == "__main__":
    main()
