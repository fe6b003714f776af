"""A version as a folder that MLflow can serve: its checkpoint, a copy of `components`, and `version_code.py`."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import components
from components.abilities import Captions, Embeds
from components.catalog import FAMILIES
from components.data import atomic
from components.records import Checkpoint

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

NEEDS = ("mlflow", "torch", "numpy", "pandas", "pillow", "tokenizers", "safetensors")
"""What a version imports. Said outright, because MLflow would find out by importing all of it again in a new process."""


def write_version(
    folder: Path,
    model: Model,
    checkpoint: Checkpoint,
    *,
    labels: Sequence[str],
    prompts: Sequence[str],
    example: bytes,
) -> None:
    """Fill `folder` with everything that loads without this checkout; `model` becomes its `MLmodel` file.

    labels, prompts: what an embedder chooses from when it is asked without labels, and the templates around them.
    example: an encoded image, kept as input example.
    """
    from mlflow import pyfunc
    from pandas import DataFrame

    beside = folder.with_name(f"{folder.name}.parts")
    named = {"labels": list(labels), "prompts": list(prompts) or ["{}"]}
    atomic.write_json(beside / "labels.json", named)
    copied = _copy_code(beside)
    pyfunc.save_model(
        folder,
        mlflow_model=model,
        python_model=str(Path(__file__).with_name("version_code.py")),
        artifacts={"checkpoint": str(checkpoint.path), "labels": str(beside / "labels.json")},
        code_paths=[str(copied)],
        signature=_signature(checkpoint.family),
        input_example=DataFrame({"image": [base64.b64encode(example).decode()]}),
        pip_requirements=requirements(),
    )
    shutil.rmtree(beside)


def requirements() -> list[str]:
    """Exact pins of what a version imports; a local build such as `+cpu` exists on no index and is left out."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in NEEDS]


def _copy_code(beside: Path) -> Path:
    # Only sources: caches of a checkout are no part of a version.
    package = Path(components.__file__).parent
    for file in package.rglob("*.py"):
        place = beside / "components" / file.relative_to(package)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return beside / "components"


def _signature(family: str) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    made: Any = FAMILIES[family]
    outputs: list[ColSpec | TensorSpec] = []
    params: list[ParamSpec] = []
    if issubclass(made, Captions):
        outputs += [ColSpec("string", "caption")]
        params += [ParamSpec("beams", "long", 5), ParamSpec("max_tokens", "long", 20)]
    if issubclass(made, Embeds):
        outputs += [ColSpec("string", "label"), ColSpec("double", "score")]
        params += [ParamSpec("labels", "string", [], shape=(-1,))]
    return ModelSignature(
        inputs=Schema([ColSpec("string", "image")]),
        outputs=Schema(outputs),
        params=ParamSchema(params),
    )
