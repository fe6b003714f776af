"""What a person asks a version about images: to caption them, to name them, to answer. Plain functions, no flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.abilities import Answers, Captions, Embeds, Matches
from components.config import ConfigError
from components.evaluation.retrieval import class_embeddings
from components.evaluation.writing import write
from flows.using.answering import answer_all, image_of
from flows.using.chosen_version import Chosen, choose
from flows.using.shown import Row
from infra.settings import Settings

SHOWN = 4
"""Labels a table shows beside the best."""


def caption(
    settings: Settings,
    version: str,
    images: Sequence[str],
    *,
    decoder: str | None = None,
    max_tokens: int | None = None,
    as_json: bool = False,
) -> int:
    """Write a caption for each image; 1 if one could not be read, else 0."""
    chosen = choose(version, settings)
    chosen.require("write captions", Captions)
    decoding = chosen.plan(decoder, max_tokens).decoding()

    def answer(paths: Sequence[Path], pixels_BCHW: Tensor) -> list[dict[str, Any]]:
        written = write(chosen.model, chosen.tokenizer, pixels_BCHW, decoding)
        return [{"caption": text} for text in written]

    columns = {"image": image_of, "caption": lambda row: str(row["caption"])}
    return answer_all(chosen, images, answer, columns, as_json)


def classify(
    settings: Settings,
    version: str,
    images: Sequence[str],
    labels: str,
    *,
    as_json: bool = False,
) -> int:
    """Name each image by one of the labels; 1 if one could not be read, else 0."""
    names = read_labels(labels)
    chosen = choose(version, settings)
    chosen.require("tell how well a label fits", Embeds, Matches)
    score = _by_embedding if isinstance(chosen.model, Embeds) else _by_matching
    score_blocks = score(chosen, names)

    def answer(paths: Sequence[Path], pixels_BCHW: Tensor) -> list[dict[str, Any]]:
        return [_ranked(names, scores) for scores in score_blocks(pixels_BCHW).tolist()]

    columns = {
        "image": image_of,
        "label": lambda row: str(row["label"]),
        "score": lambda row: f"{row['score']:.3f}",
        "next": _runners_up,
    }
    return answer_all(chosen, images, answer, columns, as_json)


def ask(
    settings: Settings, version: str, images: Sequence[str], question: str, *, as_json: bool = False
) -> int:
    """Answer one question about each image; 1 if one could not be read, else 0."""
    if not question.strip():
        raise ConfigError('The question is empty; write one, as "what color is the star ?".')
    chosen = choose(version, settings)
    chosen.require("answer questions", Answers)

    def answer(paths: Sequence[Path], pixels_BCHW: Tensor) -> list[dict[str, Any]]:
        said = chosen.model.answer(pixels_BCHW, [question] * len(paths), chosen.tokenizer)
        return [{"question": question, "answer": text} for text in said]

    columns = {"image": image_of, "answer": lambda row: str(row["answer"])}
    return answer_all(chosen, images, answer, columns, as_json)


def read_labels(text: str) -> list[str]:
    """Names between commas, each once. Raises ConfigError if there is none."""
    labels = [" ".join(part.split()) for part in text.split(",")]
    if not any(labels):
        raise ConfigError(
            f"--labels {text!r} names nothing; write names between commas, as cat,dog."
        )
    return list(dict.fromkeys(filter(None, labels)))


def _by_embedding(chosen: Chosen, names: Sequence[str]) -> Callable[[Tensor], Tensor]:
    limit = chosen.model.batch_spec().max_tokens
    class_CD = class_embeddings(chosen.model, chosen.tokenizer, names, chosen.plan().prompts, limit)
    return lambda pixels_BCHW: chosen.model.embed_images(pixels_BCHW) @ class_CD.T


def _by_matching(chosen: Chosen, names: Sequence[str]) -> Callable[[Tensor], Tensor]:
    tokens_CT, lengths_C = chosen.tokenizer.encode(names, chosen.model.batch_spec().max_tokens)

    def score(pixels_BCHW: Tensor) -> Tensor:
        rows = [
            chosen.model.match(pixels_CHW.expand(len(names), -1, -1, -1), tokens_CT, lengths_C)
            for pixels_CHW in pixels_BCHW
        ]
        return torch.stack(rows)

    return score


def _ranked(names: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
    ranked = dict(sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1]))
    best = next(iter(ranked))
    return {"label": best, "score": ranked[best], "scores": ranked}


def _runners_up(row: Row) -> str:
    others = list(row["scores"].items())[1 : SHOWN + 1]
    return ", ".join(f"{name} {score:.3f}" for name, score in others)
