"""What MLflow runs when a registered version is loaded: images in, captions or labels out.

Kept with every version, beside a copy of `components` and a checkpoint in safetensors, so that a version loads in a
process that never saw this checkout. MLflow runs this file by its path, and nothing in it is a pickle.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from components.abilities import Captions, Embeds
from components.data.transforms import UnreadableImage, decode
from components.evaluation.retrieval import class_embeddings
from components.evaluation.writing import write
from components.training.checkpoint import load_model

IMAGES_AT_ONCE = 64


class Version(PythonModel):  # type: ignore[misc, unused-ignore]
    """A checkpoint that answers for images: a captioner writes, an embedder names the best of the labels."""

    def load_context(self, context: Any) -> None:
        """Rebuild the model; every file is checked against the checkpoint's marker first."""
        self._model: Any
        self._model, self._tokenizer, _ = load_model(Path(context.artifacts["checkpoint"]))
        self._spec = self._model.batch_spec()
        self._naming = json.loads(Path(context.artifacts["labels"]).read_text(encoding="utf-8"))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row an image: `caption`, or `label` and its cosine `score`.

        model_input: column `image`, each a base64 PNG, JPEG or WebP.
        params: `max_tokens` and the options of its decoder for a captioner; `labels` for an embedder; the version's
            own if left out.
        Raises UnreadableImage naming the row.
        """
        images = list(model_input["image"])
        blocks = [
            self._answer(images[at : at + IMAGES_AT_ONCE], at, params or {})
            for at in range(0, len(images), IMAGES_AT_ONCE)
        ]
        return pd.concat(blocks, ignore_index=True) if blocks else pd.DataFrame()

    @torch.inference_mode()
    def _answer(self, images: Sequence[str], first: int, params: dict[str, Any]) -> pd.DataFrame:
        pixels = [
            _pixels(text, first + row, self._spec.image_px) for row, text in enumerate(images)
        ]
        pixels_BCHW = torch.stack(pixels)
        columns: dict[str, Any] = {}
        if isinstance(self._model, Captions):
            columns["caption"] = self._write(self._model, pixels_BCHW, params)
        if isinstance(self._model, Embeds):
            columns["label"], columns["score"] = self._name(self._model, pixels_BCHW, params)
        return pd.DataFrame(columns)

    def _write(
        self, model: Captions, pixels_BCHW: torch.Tensor, params: dict[str, Any]
    ) -> list[str]:
        own = self._naming["decoding"]
        chosen = {name: params[name] for name in own if params.get(name) is not None}
        return write(model, self._tokenizer, pixels_BCHW, {**own, **chosen})

    def _name(
        self, model: Embeds, pixels_BCHW: torch.Tensor, params: dict[str, Any]
    ) -> tuple[list[str], list[float]]:
        given = params.get("labels")
        labels = self._naming["labels"] if given is None or not len(given) else list(given)
        if not labels:
            raise ValueError('This version keeps no labels; give some: params={"labels": ["cat"]}.')
        class_CD = class_embeddings(
            model, self._tokenizer, labels, self._naming["prompts"], self._spec.max_tokens
        )
        score_B, best_B = (model.embed_images(pixels_BCHW) @ class_CD.T).max(dim=1)
        return [labels[index] for index in best_B.tolist()], score_B.tolist()


def _pixels(text: str, row: int, side_px: int) -> torch.Tensor:
    try:
        image = base64.b64decode(text, validate=True)
        return torch.from_numpy(decode(image, side_px))
    except (binascii.Error, ValueError, TypeError) as error:
        raise UnreadableImage(f"Row {row} of column image is no base64 image: {error}") from error


set_model(Version())
