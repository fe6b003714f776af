"""The golden captions, tokenised as the reference did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """Candidates and references as tokens, beside the reference's own numbers."""

    def __init__(self, saved: dict[str, Any]) -> None:
        self.images = saved["images"]
        self.corpus = saved["corpus"]
        self.variants = saved["variants"]
        # The reference splits its own output at spaces only: a no-break space stays inside a token.
        self.candidates = [self._words(image["tok_cand"]) for image in self.images]
        self.references = [
            [self._words(text) for text in image["tok_refs"]] for image in self.images
        ]

    @staticmethod
    def _words(text: str) -> list[str]:
        return [word for word in text.split(" ") if word]

    def at(self, image_id: int) -> tuple[list[list[str]], list[list[list[str]]]]:
        place = [image["id"] for image in self.images].index(image_id)
        return [self.candidates[place]], [self.references[place]]


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(json.loads((GOLDEN / "captions.json").read_text("utf-8")))


@pytest.fixture(scope="session")
def golden_pairs() -> list[dict[str, str]]:
    return json.loads((GOLDEN / "tokenizer.json").read_text("utf-8"))
