"""A version as a folder that MLflow can serve: its checkpoint, a copy of `components`, and `version_code.py`."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import components
from components import atomic
from components.abilities import Answers, Captions, Detects, Embeds, Matches
from components.catalog import FAMILIES
from components.records import Checkpoint

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

NEEDS = (
    "mlflow", "torch", "numpy", "scipy", "pandas", "pillow", "tokenizers", "safetensors", "transformers",
)  # fmt: skip
"""What a version imports. Said outright, because MLflow would find out by importing all of it again in a new process."""


MANNER = "labels.json"
"""How a version is asked where nobody says: its labels, prompts and decoding."""

_TYPES = {int: "long", float: "double", str: "string"}


def write_version(
    folder: Path,
    model: Model,
    checkpoint: Checkpoint,
    *,
    labels: Sequence[str],
    prompts: Sequence[str],
    decoding: Mapping[str, Any],
    example: bytes,
) -> None:
    """Fill `folder` with everything that loads without this checkout; `model` becomes its `MLmodel` file.

    labels, prompts: what an embedder chooses from when it is asked without labels, and the templates around them.
    decoding: how a captioner writes when it is not told otherwise, as `EvaluationPlan.decoding` names it.
    example: an encoded image, kept as input example.
    """
    from mlflow import pyfunc
    from pandas import DataFrame

    beside = folder.with_name(f"{folder.name}.parts")
    named = {
        "labels": list(labels),
        "prompts": list(prompts) or ["{}"],
        "decoding": dict(decoding),
    }
    atomic.write_json(beside / MANNER, named)
    copied = _copy_code(beside)
    pyfunc.save_model(
        folder,
        mlflow_model=model,
        python_model=str(Path(__file__).with_name("version_code.py")),
        artifacts={"checkpoint": str(checkpoint.path), "labels": str(beside / MANNER)},
        code_paths=[str(copied)],
        signature=_signature(checkpoint.family, decoding),
        input_example=DataFrame({"image": [base64.b64encode(example).decode()]}),
        pip_requirements=requirements(),
    )
    shutil.rmtree(beside)


def requirements() -> list[str]:
    """Exact pins of what a version imports; a local build such as `+cpu` exists on no index and is left out.

    Packages that carry a part's weights are not among them: their own requirements would bring code that nobody runs,
    and a version that misses one says how to install it alone.
    """
    return [f"{name}=={version(name).partition('+')[0]}" for name in NEEDS]


def _copy_code(beside: Path) -> Path:
    # Only sources: caches of a checkout are no part of a version.
    package = Path(components.__file__).parent
    for file in package.rglob("*.py"):
        place = beside / "components" / file.relative_to(package)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return beside / "components"


def _signature(family: str, decoding: Mapping[str, Any]) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    made: Any = FAMILIES[family]
    outputs: list[ColSpec | TensorSpec] = []
    params: list[ParamSpec] = []
    if issubclass(made, Captions):
        outputs += [ColSpec("string", "caption")]
        params += [
            ParamSpec(name, _TYPES[type(value)], value)
            for name, value in decoding.items()
            # MLflow knows no parameter without a default; another decoder would read other options.
            if value is not None and name != "decoder"
        ]
    if issubclass(made, Embeds) or (issubclass(made, Matches) and not issubclass(made, Captions)):
        outputs += [ColSpec("string", "label"), ColSpec("double", "score")]
    if issubclass(made, Answers):
        outputs += [ColSpec("string", "answer")]
        params += [ParamSpec("question", "string", "")]
    if issubclass(made, Detects):
        outputs += [ColSpec("string", "detections")]
    if {"label", "detections"} & {column.name for column in outputs}:
        params += [ParamSpec("labels", "string", [], shape=(-1,))]
    return ModelSignature(
        inputs=Schema([ColSpec("string", "image")]),
        outputs=Schema(outputs),
        params=ParamSchema(params),
    )
