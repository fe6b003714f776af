"""Captions from one GPT-2 beside transformers.generate and the published searches.

    python tests/benchmarks/captioning.py [--rounds 3]

Identical captions are checked first. Prints for greedy, beam, contrastive search and MAGIC the captions per CPU second of
either side, ours over the peer with the lowest and highest of the rounds, and the aim.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import published_searches
import torch
from clip_peers import CONFIG
from prefix_writer import GPT2, PrefixWriter, prefixes
from torch import Tensor
from turns import compare, settle

from components.decoding.beam import beam
from components.decoding.contrastive import contrastive
from components.decoding.greedy import greedy
from components.decoding.magic import magic
from components.models.clip import Clip

WORDS = 20
Texts = list[list[int]]


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    settle()
    print("GPT-2 6 x 512, 45 M parameters, prefix of 10, 20 new tokens, fp32; captions/s")
    writer = PrefixWriter()
    for rows in (1, 16):
        sides = {
            "transformers.generate": lambda rows=rows: generate(writer, rows, num_beams=1),
            "ours": lambda rows=rows: greedy(
                writer, prefixes(rows, GPT2.width), eos_id=-1, max_tokens=WORDS
            ),
        }
        checked(f"greedy, {rows} at once", sides, rows, given.rounds, 0.95)
    for rows in (1, 4):
        sides = {
            "transformers.generate": lambda rows=rows: generate(
                writer, rows, num_beams=5, length_penalty=1.0
            ),
            "ours": lambda rows=rows: beam(
                writer, prefixes(rows, GPT2.width), eos_id=-1, max_tokens=WORDS
            ),
        }
        checked(f"beam 5, {rows} at once", sides, rows, given.rounds, 1.1)
    searches(writer, given.rounds)


def searches(writer: PrefixWriter, rounds: int) -> None:
    """Contrastive search, and MAGIC with a CLIP text tower that reads the same ids."""
    inputs, model = prefixes(8, GPT2.width), writer.lm.model
    sides = {
        "published": lambda: published_searches.contrastive(
            model, inputs, k=5, alpha=0.6, steps=WORDS
        ),
        "ours": lambda: contrastive(writer, inputs, eos_id=-1, max_tokens=WORDS, alpha=0.6),
    }
    checked("contrastive k=5, 8 at once", sides, 8, rounds, 1.5)
    clip = _Judge()
    few = inputs[:2]

    def published() -> Texts:
        return [
            published_searches.contrastive(
                model, few[row : row + 1], k=45, alpha=0.1, steps=10, beta=2.0,
                score=lambda _, texts, row=row: clip.score(row, texts, full=True),
            )[0]
            for row in range(len(few))
        ]  # fmt: skip

    def ours() -> Texts:
        clip.begin(len(few))
        return magic(writer, few, eos_id=-1, max_tokens=10, scorer=clip.steer, watch=clip.follow)

    checked("MAGIC k=45, 10 tokens, 2 images", {"published": published, "ours": ours}, 2, 1, 2.5)


def checked(
    what: str, sides: dict[str, Callable[[], Texts]], rows: int, rounds: int, wanted: float
) -> None:
    """One search: equal captions, then turn about."""
    theirs, ours = (run() for run in sides.values())
    assert theirs == ours, (what, theirs, ours)
    compare(
        f"{what}: {rows} identical captions", sides, rounds, wanted, unit="captions/s", per_s=rows
    )


def generate(writer: PrefixWriter, rows: int, **how: float) -> Texts:
    """transformers' own loop over the same weights."""
    inputs = prefixes(rows, GPT2.width)
    written: Tensor = writer.lm.model.generate(
        inputs_embeds=inputs, attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long),
        max_new_tokens=WORDS, min_new_tokens=WORDS, do_sample=False, eos_token_id=None,
        pad_token_id=0, **how,
    )  # fmt: skip
    return written.tolist()


class _Judge:
    """A CLIP's text tower and two images' embeddings; ids are taken modulo its vocabulary by both sides."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._clip = Clip(CONFIG).eval()
        self._images = torch.nn.functional.normalize(torch.randn(2, CONFIG.embed_width), dim=-1)

    def begin(self, rows: int) -> None:
        self._texts: Texts = [[] for _ in range(rows)]

    def follow(self, step) -> None:
        for row, word in zip(step.images_B.tolist(), step.words_B.tolist(), strict=True):
            self._texts[row].append(word)

    def steer(self, state: object, candidates_BK: Tensor) -> Tensor:
        rows = [
            [*text, word]
            for text, words in zip(self._texts, candidates_BK.tolist(), strict=True)
            for word in words
        ]
        embedded = self._embed(rows, full=False).view(*candidates_BK.shape, -1)
        return self._clip.cosine_scale() * (embedded @ self._images[:, :, None])[..., 0]

    def score(self, row: int, texts: Texts, *, full: bool) -> Tensor:
        return self._clip.cosine_scale() * self._embed(texts, full=full) @ self._images[row]

    @torch.no_grad()
    def _embed(self, texts: Texts, *, full: bool) -> Tensor:
        tokens_BT = torch.zeros(len(texts), CONFIG.max_tokens, dtype=torch.long)
        last = CONFIG.vocab_size - 1
        for row, text in zip(tokens_BT, texts, strict=True):
            row[: len(text) + 2] = torch.tensor([1, *(word % last for word in text), last])
        length = CONFIG.max_tokens if full else len(texts[0]) + 2
        return self._clip.embed_texts(tokens_BT, torch.full((len(texts),), length))


if __name__ == "__main__":
    main()
