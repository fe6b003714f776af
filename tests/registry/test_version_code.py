"""A version answers with all that its family can, and its signature says so, over the catalog."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from pandas import DataFrame
from PIL import Image

from components.catalog import FAMILIES
from components.evaluation.plan import EvaluationPlan
from components.models.parts import Origin
from components.training.building import slots, starts
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from registry import version_code, version_files
from registry.version_code import Version

_ANSWERING = {"most_answers": 8}
"""Settings without which a family that answers has learnt no answers."""
LABELS = ["red circle", "blue square"]
DECODING = EvaluationPlan(beams=2, max_tokens=6).decoding()


@pytest.fixture
def make_version(tiny_shards, tmp_path):
    """`make_version("clip", **settings)`: a version of a model of one step, as MLflow loads it."""

    def make(family: str, **settings: object) -> Version:
        made = FAMILIES[family]
        config = {**made.Config.tiny().to_dict(), **settings}
        job = TrainingJob(
            family=family,
            config={name: _ANSWERING.get(name, value) for name, value in config.items()},
            plan=TrainingPlan(steps=1, batch_size=8, warmup_steps=0, vocab_size=400),
            shards=tiny_shards.path,
            folder=tmp_path,
            parts={slot: Origin(kind="random", name="") for slot in (*slots(made), *starts(made))},
        )
        checkpoint = run_job(job)
        kept = {"labels": LABELS, "prompts": ["{}"], "decoding": DECODING}
        (tmp_path / "labels.json").write_text(json.dumps(kept))
        files = {"checkpoint": str(checkpoint.path), "labels": str(tmp_path / "labels.json")}
        version = Version()
        version.load_context(SimpleNamespace(artifacts=files))
        return version

    return make


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_answers_in_the_columns_its_signature_names(family, make_version):
    frame = DataFrame({"image": [_image("red"), _image("blue")]})
    said = make_version(family).predict(None, frame, {"question": "what color is the circle ?"})
    signature = version_files._signature(family, DECODING)
    assert list(said.columns) == signature.outputs.input_names()
    assert len(said) == 2
    assert set(said.get("label", ["red circle"])) <= set(LABELS)


def test_a_detector_is_asked_for_each_label_in_each_of_its_own_prompts(make_version):
    version = make_version("vild", prompts=["{}", "there is a {}"])
    frame = DataFrame({"image": [_image("red")]})
    (said,) = version.predict(None, frame, {"labels": LABELS})["detections"]
    model, spec = version._model, version._model.batch_spec()
    named = ["red circle", "there is a red circle", "blue square", "there is a blue square"]
    tokens_CT, lengths_C = version._tokenizer.encode(named, spec.max_tokens)
    pixels_BCHW = version_code._pixels(frame["image"][0], 0, spec.image_px)[None]
    base_C = torch.tensor([label in model.config.classes for label in LABELS])
    with torch.inference_mode():
        (found,) = model.detect(pixels_BCHW, tokens_CT, lengths_C, base_C)
    told = json.loads(said)
    assert told
    assert [each["label"] for each in told] == [LABELS[index] for index in found.classes_N]
    assert [each["score"] for each in told] == found.scores_N.tolist()


def _image(colour: str) -> str:
    buffer = BytesIO()
    Image.new("RGB", (40, 40), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
