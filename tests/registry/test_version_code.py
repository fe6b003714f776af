"""A version answers with all that its family can, and its signature says so, over the catalog."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from types import SimpleNamespace

import pytest
from pandas import DataFrame
from PIL import Image

from components.catalog import FAMILIES
from components.evaluation.plan import EvaluationPlan
from components.models.parts import Origin
from components.training.building import slots, starts
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from registry import version_files
from registry.version_code import Version

_ANSWERING = {"most_answers": 8}
"""Settings without which a family that answers has learnt no answers."""


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_answers_in_the_columns_its_signature_names(family, tiny_shards, tmp_path):
    made = FAMILIES[family]
    job = TrainingJob(
        family=family,
        config={
            name: _ANSWERING.get(name, value)
            for name, value in made.Config.tiny().to_dict().items()
        },
        plan=TrainingPlan(steps=1, batch_size=8, warmup_steps=0, vocab_size=400),
        shards=tiny_shards.path,
        folder=tmp_path,
        parts={slot: Origin(kind="random", name="") for slot in (*slots(made), *starts(made))},
    )
    checkpoint = run_job(job)
    decoding = EvaluationPlan(beams=2, max_tokens=6).decoding()
    kept = {"labels": ["red circle", "blue square"], "prompts": ["{}"], "decoding": decoding}
    (tmp_path / "labels.json").write_text(json.dumps(kept))
    version = Version()
    version.load_context(
        SimpleNamespace(
            artifacts={"checkpoint": str(checkpoint.path), "labels": str(tmp_path / "labels.json")}
        )
    )
    frame = DataFrame({"image": [_image("red"), _image("blue")]})
    said = version.predict(None, frame, {"question": "what color is the circle ?"})
    signature = version_files._signature(family, decoding)
    assert list(said.columns) == signature.outputs.input_names()
    assert len(said) == 2
    assert set(said.get("label", ["red circle"])) <= {"red circle", "blue square"}


def _image(colour: str) -> str:
    buffer = BytesIO()
    Image.new("RGB", (40, 40), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
