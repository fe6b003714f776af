"""The golden captions, tokenised as the reference did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.metrics.meteor.resources import Resources, from_parts

# Abbreviations that keep their dot before a capital, the last one before a number only.
METEOR_PREFIXES = ["Corp", "Dr", "J", "K", "Mr", "Mrs", "Ms", "Prof", "Sr", "St", "vs"]
METEOR_PREFIXES += ["No #NUMERIC_ONLY#"]
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


@pytest.fixture(scope="session")
def meteor_resources() -> Resources:
    """All of METEOR's data that the golden captions can touch."""
    saved = json.loads((GOLDEN / "meteor_resources_subset.json").read_text("utf-8"))
    return from_parts(
        saved["function_words"],
        METEOR_PREFIXES,
        saved["synsets"],
        [(phrase, other) for phrase, other in saved["paraphrases"]],
        "golden",
    )
