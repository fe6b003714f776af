"""What a person asks of a version and prepared data: the images that fit a text best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.abilities import Embeds, Matches
from components.catalog import SOURCES
from components.config import ConfigError
from components.data.shards import open_shards, read_images, read_manifest
from components.data.transforms import decode
from components.records import SPLITS, Shards
from components.records import Row as Line
from components.table import nearest
from flows.using.chosen_version import Chosen, choose
from flows.using.image_files import IMAGES_AT_ONCE
from flows.using.shown import Row, progress, show
from infra.settings import Settings


def search(
    settings: Settings,
    version: str,
    text: str,
    place: str,
    *,
    top: int = 10,
    as_json: bool = False,
) -> None:
    """Show the `top` images of prepared data that fit the text best.

    place: SOURCE, or SOURCE/SPLIT for one split of it. Raises UnknownName, ShardsMissing and ConfigError.
    """
    if not text.strip():
        raise ConfigError('The text is empty; write what to look for, as "a red fox".')
    shards, lines = find_lines(settings.repo, place)
    chosen = choose(version, settings)
    chosen.require("tell how well a text fits", Embeds, Matches)
    scores = _score(chosen, text, shards, lines, as_json)
    best = sorted(zip(scores, lines, strict=True), key=lambda pair: -pair[0])[:top]
    rows = (_row(rank, score, line) for rank, (score, line) in enumerate(best, start=1))
    columns: dict[str, Callable[[Row], str]] = {
        "": lambda row: str(row["rank"]),
        "score": lambda row: f"{row['score']:.3f}",
        "image": lambda row: str(row["id"]),
        "split": lambda row: str(row["split"]),
        "captions": lambda row: " · ".join(row["captions"][:2]),
    }
    show(rows, columns, as_json)


def find_lines(repo: Path, place: str) -> tuple[Shards, list[Line]]:
    """Prepared shards and the lines of their manifest that are meant, less those whose image cannot be decoded."""
    source, slash, split = place.partition("/")
    SOURCES[source]
    if slash and split not in SPLITS:
        raise ConfigError(
            f'No split "{split[:60]}".{nearest(split, SPLITS)} The splits are {", ".join(SPLITS)}.'
        )
    shards = open_shards(repo / "data" / "shards" / source)
    wanted = (split,) if split else SPLITS
    lines = [
        line for line in read_manifest(shards) if line.sample.split in wanted and line.pixels_sha256
    ]
    if not lines:
        raise ConfigError(
            f"{place} holds no image; {source} has {', '.join(map(str, shards.counts)) or 'none'}."
        )
    return shards, lines


@torch.inference_mode()
def _score(
    chosen: Chosen, text: str, shards: Shards, lines: Sequence[Line], as_json: bool
) -> list[float]:
    spec = chosen.model.batch_spec()
    tokens_BT, lengths_B = chosen.tokenizer.encode([text], spec.max_tokens)
    if isinstance(chosen.model, Embeds):
        text_D = chosen.model.embed_texts(tokens_BT, lengths_B)[0]
    found: list[float] = []
    with progress(chosen.title, len(lines), as_json) as advance:
        for pixels_BCHW in _blocks(shards, lines, spec.image_px):
            if isinstance(chosen.model, Embeds):
                scores_B = chosen.model.embed_images(pixels_BCHW) @ text_D
            else:
                many = len(pixels_BCHW)
                scores_B = chosen.model.match(
                    pixels_BCHW, tokens_BT.expand(many, -1), lengths_B.expand(many)
                )
            found += scores_B.tolist()
            advance(len(pixels_BCHW))
    return found


def _blocks(shards: Shards, lines: Sequence[Line], side_px: int) -> Iterator[Tensor]:
    for start in range(0, len(lines), IMAGES_AT_ONCE):
        block = lines[start : start + IMAGES_AT_ONCE]
        yield torch.stack(
            [torch.from_numpy(decode(image, side_px)) for image in read_images(shards, block)]
        )


def _row(rank: int, score: float, line: Line) -> dict[str, Any]:
    sample = line.sample
    return {
        "rank": rank,
        "score": score,
        "id": sample.id,
        "split": sample.split,
        "label": sample.label,
        "captions": list(sample.captions),
    }
