"""What MLflow runs when a registered version is loaded: images in, captions, labels, answers or boxes out.

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

from components.abilities import Answers, Captions, Detections, Detects, Embeds, Matches
from components.data.row_boxes import in_prompts
from components.data.transforms import UnreadableImage, decode
from components.evaluation.retrieval import class_embeddings
from components.evaluation.writing import write
from components.training.checkpoints.checkpoint import load_model

IMAGES_AT_ONCE = 64


class Version(PythonModel):  # type: ignore[misc, unused-ignore]
    """A checkpoint that answers for images with all it can: writes, names the best label, answers, finds objects."""

    def load_context(self, context: Any) -> None:
        """Rebuild the model; every file is checked against the checkpoint's marker first."""
        self._model: Any
        self._model, self._tokenizer, _ = load_model(Path(context.artifacts["checkpoint"]))
        self._spec = self._model.batch_spec()
        self._naming = json.loads(Path(context.artifacts["labels"]).read_text(encoding="utf-8"))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row an image: `caption`; `label` and its `score`; `answer`; `detections` as JSON.

        A label's score is a cosine, or for a family that matches, how well it fits. Detections are
        `[{"label", "score", "box": [left, top, right, bottom]}]`, the box in shares of the image's middle square.
        model_input: column `image`, each a base64 PNG, JPEG or WebP.
        params: `max_tokens` and the options of its decoder for what writes; `labels` for what names and finds, the
            version's own if left out; `question` for what answers, and no answer without one.
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
        elif isinstance(self._model, Matches) and not isinstance(self._model, Captions):
            columns["label"], columns["score"] = self._match(self._model, pixels_BCHW, params)
        if isinstance(self._model, Answers):
            columns["answer"] = self._reply(self._model, pixels_BCHW, params)
        if isinstance(self._model, Detects):
            columns["detections"] = self._find(self._model, pixels_BCHW, params)
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
        labels = self._labels(params)
        class_CD = class_embeddings(
            model, self._tokenizer, labels, self._naming["prompts"], self._spec.max_tokens
        )
        score_B, best_B = (model.embed_images(pixels_BCHW) @ class_CD.T).max(dim=1)
        return [labels[index] for index in best_B.tolist()], score_B.tolist()

    def _match(
        self, model: Matches, pixels_BCHW: torch.Tensor, params: dict[str, Any]
    ) -> tuple[list[str], list[float]]:
        labels = self._labels(params)
        prompts = [self._naming["prompts"][0].replace("{}", label) for label in labels]
        tokens_CT, lengths_C = self._tokenizer.encode(prompts, self._spec.max_tokens)
        scores = [
            model.match(pixels_CHW.expand(len(labels), -1, -1, -1), tokens_CT, lengths_C)
            for pixels_CHW in pixels_BCHW
        ]
        score_B, best_B = torch.stack(scores).max(dim=1)
        return [labels[index] for index in best_B.tolist()], score_B.tolist()

    def _reply(
        self, model: Answers, pixels_BCHW: torch.Tensor, params: dict[str, Any]
    ) -> list[str]:
        question = str(params.get("question") or "")
        if not question:
            return [""] * len(pixels_BCHW)
        return model.answer(pixels_BCHW, [question] * len(pixels_BCHW), self._tokenizer)

    def _find(self, model: Detects, pixels_BCHW: torch.Tensor, params: dict[str, Any]) -> list[str]:
        known = self._model.config.classes
        labels = self._labels(params, list(known))
        named = in_prompts(labels, self._spec.prompts)
        tokens_CT, lengths_C = self._tokenizer.encode(named, self._spec.max_tokens)
        base_C = torch.tensor([label in known for label in labels])
        found = model.detect(pixels_BCHW, tokens_CT, lengths_C, base_C)
        return [_told(each, labels, self._spec.image_px) for each in found]

    def _labels(self, params: dict[str, Any], own: Sequence[str] = ()) -> list[str]:
        given = params.get("labels")
        kept = own or self._naming["labels"]
        labels = list(kept if given is None or not len(given) else given)
        if not labels:
            raise ValueError('This version keeps no labels; give some: params={"labels": ["cat"]}.')
        return labels


def _told(found: Detections, labels: Sequence[str], side_px: int) -> str:
    rows = zip(
        (found.boxes_N4 / side_px).tolist(),
        found.scores_N.tolist(),
        found.classes_N.tolist(),
        strict=True,
    )
    return json.dumps(
        [{"label": labels[index], "score": score, "box": box} for box, score, index in rows]
    )


def _pixels(text: str, row: int, side_px: int) -> torch.Tensor:
    try:
        image = base64.b64decode(text, validate=True)
        return torch.from_numpy(decode(image, side_px))
    except (binascii.Error, ValueError, TypeError) as error:
        raise UnreadableImage(f"Row {row} of column image is no base64 image: {error}") from error


set_model(Version())
