"""What a person asks a detecting version: where the things they name are in their images, as numbers and drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components import atomic
from components.abilities import Detections, Detects
from components.config import ConfigError
from components.data.row_boxes import in_prompts
from components.data.transforms import read_picture
from components.evaluation.drawing import draw_detections
from flows.using.answering import answer_all, image_of
from flows.using.asking import read_labels
from flows.using.chosen_version import choose
from flows.using.image_files import Told, find_images, read_bytes
from flows.using.shown import Row
from infra.settings import Settings


def detect(
    settings: Settings,
    version: str,
    images: Sequence[str],
    labels: str | None,
    out: Path | None,
    *,
    at_least: float = 0.3,
    as_json: bool = False,
) -> int:
    """Find objects of the labels in each image, and draw them; 1 if an image could not be read, else 0.

    labels: the classes whose boxes the model was taught, if left out. out: a PNG for one image, a folder for several.
    """
    asked = None if labels is None else read_labels(labels)
    if not 0 <= at_least <= 1:
        raise ConfigError(f"--at-least {at_least} is no score; give 0 to 1.")
    chosen = choose(version, settings)
    chosen.require("find objects", Detects)
    names = asked or list(chosen.model.config.classes)
    drawn = _Drawn(out, images)
    known = set(chosen.model.config.classes)
    spec = chosen.model.batch_spec()
    tokens_CT, lengths_C = chosen.tokenizer.encode(in_prompts(names, spec.prompts), spec.max_tokens)
    base_C = torch.tensor([name in known for name in names])

    def answer(paths: Sequence[Path], pixels_BCHW: Tensor) -> list[dict[str, Any]]:
        found = chosen.model.detect(pixels_BCHW, tokens_CT, lengths_C, base_C)
        for path, each in zip(paths, found, strict=True):
            drawn.draw(path, each, names, spec.image_px, at_least)
        return [{"detections": _listed(each, names, spec.image_px, at_least)} for each in found]

    columns = {"image": image_of, "found": _found}
    return answer_all(chosen, images, answer, columns, as_json)


class _Drawn:
    """Where pictures with boxes go; refused before a model looks at anything if that cannot be."""

    def __init__(self, out: Path | None, images: Sequence[str]) -> None:
        self.out = out
        self.one = False
        if out is None:
            return
        paths = find_images(images, Told())
        self.one = len(paths) == 1 and not out.is_dir()
        if self.one and out.suffix.lower() != ".png":
            raise ConfigError(f"--out {out}: pictures are written as PNG; call it {out.stem}.png.")
        if not self.one and out.exists() and not out.is_dir():
            raise ConfigError(
                f"--out {out} is a file, and there are {len(paths)} images; give a folder."
            )
        twice = [place for place, times in Counter(map(self._place, paths)).items() if times > 1]
        if twice:
            raise ConfigError(
                f"Two images would be drawn to {twice[0]}; name one folder at a time."
            )
        if clash := {self._place(path).resolve() for path in paths} & {p.resolve() for p in paths}:
            raise ConfigError(
                f"--out would overwrite the image {min(clash)}; choose another place."
            )

    def draw(
        self, path: Path, found: Detections, names: Sequence[str], side_px: int, at_least: float
    ) -> None:
        """Write one picture; nothing without `--out`."""
        if self.out is None:
            return
        picture = read_picture(read_bytes(path))
        png = draw_detections(picture, found, names, image_px=side_px, at_least=at_least)
        atomic.write_bytes(self._place(path), png)

    def _place(self, path: Path) -> Path:
        assert self.out is not None
        return self.out if self.one else self.out / f"{path.stem}.png"


def _listed(
    found: Detections, names: Sequence[str], side_px: int, at_least: float
) -> list[dict[str, Any]]:
    """Best first; a box in shares of the image's middle square, which is what the model saw."""
    rows = zip(
        (found.boxes_N4 / side_px).tolist(),
        found.scores_N.tolist(),
        found.classes_N.tolist(),
        strict=True,
    )
    return [
        {"label": names[number], "score": score, "box": box}
        for box, score, number in rows
        if score >= at_least
    ]


def _found(row: Row) -> str:
    return (
        ", ".join(f"{each['label']} {each['score']:.2f}" for each in row["detections"]) or "nothing"
    )
