"""Registered versions, against a real store: once by key, whole or not visible, and at home in a foreign process."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model
from pandas import DataFrame
from PIL import Image

from components.data.transforms import decode
from components.decoding.greedy import greedy
from components.evaluation.plan import EvaluationPlan
from components.export import onnx_files
from components.export.folder import export
from components.training.checkpoints.checkpoint import CheckpointDamaged, load_model
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob
from registry.version_files import requirements
from registry.versions import VersionMissing, Versions

REPO = Path(__file__).parents[2]


def drawing(colour: str = "red", kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (40, 40), colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def versions(tracking) -> Versions:
    return Versions(tracking.uri)


@pytest.fixture
def registered(tracking, versions, make_checkpoint):
    """A CLIP and a VirTex as version 1 of two models, named so that no other test knows them."""

    def register(family: str, key: str = "k1", seed: int = 0):
        checkpoint = make_checkpoint(family, seed)
        run_id = tracking.open_run(key, "night")
        model = f"{family}-{tracking.experiment_id}"
        number = versions.register(
            run_id,
            model,
            checkpoint,
            key=key,
            example=drawing(),
            labels=["red circle", "blue square"],
            prompts=["{}", "a drawing of a {}"],
        )
        return model, number, checkpoint

    return register


def test_one_key_is_one_version_and_another_key_another(versions, registered):
    model, first, _ = registered("clip")
    assert registered("clip") == (model, first, registered("clip")[2])
    assert registered("clip", key="k2", seed=1)[1] == first + 1
    assert versions.find(model, "k1") == first
    assert versions.find(model, "k3") is None


def test_the_checkpoint_comes_back_verified_and_is_not_fetched_twice(
    versions, registered, tmp_path
):
    model, number, checkpoint = registered("virtex")
    fetched = versions.checkpoint(model, number, tmp_path / "cache")
    assert load_model(fetched)[2].digest == checkpoint.digest
    at = fetched.stat().st_ino
    assert versions.checkpoint(model, number, tmp_path / "cache").stat().st_ino == at
    (fetched / "config.json").write_text("{}")
    mended = versions.checkpoint(model, number, tmp_path / "cache")
    assert load_model(mended)[2].digest == checkpoint.digest
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{model}-{number}"]


def artifacts_of(versions: Versions, model: str, number: int) -> Path:
    version = MlflowClient(versions.uri, registry_uri=versions.uri).get_model_version(
        model, str(number)
    )
    return Path(version.source.removeprefix("file://"))


def test_a_stored_checkpoint_that_was_altered_is_refused(versions, registered, tmp_path):
    """Drill 26: artifact bytes changed after logging; consumers refuse."""
    model, number, _ = registered("clip")
    weights = next(artifacts_of(versions, model, number).rglob("weights.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointDamaged, match=r"weights\.safetensors"):
        versions.checkpoint(model, number, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_models_checkpoint_in_its_place_is_refused(versions, registered, tmp_path):
    model, number, _ = registered("clip")
    _, second, _ = registered("clip", key="k2", seed=1)
    mine = next(artifacts_of(versions, model, number).rglob("weights.safetensors")).parent
    theirs = next(artifacts_of(versions, model, second).rglob("weights.safetensors")).parent
    for file in theirs.iterdir():
        (mine / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        CheckpointDamaged, match=f"{model} version {number} .* not the checkpoint of"
    ):
        versions.checkpoint(model, number, tmp_path / "cache")


def test_how_a_version_is_asked_comes_back_and_is_refused_where_it_is_damaged(versions, registered):
    model, number, _ = registered("clip")
    manner = versions.manner(model, number)
    assert manner["labels"] == ["red circle", "blue square"]
    assert manner["prompts"] == ["{}", "a drawing of a {}"]
    assert manner["decoding"] == EvaluationPlan().decoding()
    with pytest.raises(VersionMissing):
        versions.manner(model, number + 7)
    next(artifacts_of(versions, model, number).rglob("labels.json")).write_text('{"labels": [')
    with pytest.raises(CheckpointDamaged, match=r"labels\.json"):
        versions.manner(model, number)


def test_an_alias_points_where_it_was_pointed_and_nowhere_before(versions, registered):
    model, number, _ = registered("clip")
    assert versions.alias(model) is None
    assert versions.alias("no-such-model") is None
    versions.point(model, "champion", number)
    versions.point(model, "champion", number)
    assert versions.alias(model) == number
    with pytest.raises(VersionMissing, match=f"no version {number + 7} of {model}"):
        versions.point(model, "champion", number + 7)
    assert versions.alias(model) == number


def test_a_model_name_that_could_change_the_search_is_refused(versions):
    with pytest.raises(ValueError, match="cannot be a key"):
        versions.find("a' OR name != '", "k")


def test_a_version_holds_no_pickle_and_says_outright_what_it_needs(versions, registered):
    model, number, _ = registered("clip")
    files = [path for path in artifacts_of(versions, model, number).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".py", ".json", ".safetensors", ".yaml", ".txt", ""}
    needs = next(path for path in files if path.name == "requirements.txt").read_text().splitlines()
    assert needs == requirements()
    assert not any("+" in need for need in needs)


def test_a_version_answers_its_own_example_in_the_columns_it_says(versions, registered, tmp_path):
    model, number, _ = registered("virtex")
    copy = versions.fetch(model, number, tmp_path / "copy")
    about = Model.load(str(copy))
    example = about.load_input_example(str(copy))
    assert list(example.columns) == about.signature.inputs.input_names() == ["image"]
    said = versions.load(model, number, tmp_path / "here").predict(example)
    assert list(said.columns) == about.signature.outputs.input_names()
    assert isinstance(said["caption"][0], str)


ELSEWHERE = """
import json, sys
repo, folder, images, params = sys.argv[1:]
unpickled = []
sys.addaudithook(lambda event, given: event == "pickle.find_class" and unpickled.append(given[1:]))
# The checkout stays out of reach, however it was installed; its virtual environment does not.
sys.path = [path for path in sys.path if path != repo and path]
from mlflow import pyfunc
import pandas
model = pyfunc.load_model(folder)
import components
answer = model.predict(pandas.DataFrame({"image": json.loads(images)}), params=json.loads(params))
said = {"code": components.__file__, "answer": answer.to_dict("records"), "unpickled": unpickled}
print(json.dumps(said))
"""


def answer_elsewhere(folder: Path, cwd: Path, images: list[bytes], params: dict) -> dict:
    encoded = json.dumps([base64.b64encode(image).decode() for image in images])
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(REPO), str(folder), encoded, json.dumps(params)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", ["clip", "virtex"])
def test_a_version_answers_in_a_clean_process_that_has_no_checkout(
    versions, registered, tmp_path, family
):
    model, number, _ = registered(family)
    copy = versions.fetch(model, number, tmp_path / "copy")
    here = versions.load(model, number, tmp_path / "here")
    images = [drawing("red"), drawing("blue", "JPEG")]
    params = {"beams": 2, "max_tokens": 5} if family == "virtex" else {}
    said = answer_elsewhere(copy, tmp_path, images, params)
    assert said["code"].startswith(str(copy))
    assert said["unpickled"] == []
    frame = DataFrame({"image": [base64.b64encode(image).decode() for image in images]})
    expected = here.predict(frame, params=params).to_dict("records")
    assert said["answer"] == expected
    assert len(expected) == 2
    assert set(expected[0]) == ({"caption"} if family == "virtex" else {"label", "score"})


@pytest.fixture
def trained(tiny_shards, tmp_path):
    """The checkpoint of a captioner that has learnt to tell drawings apart."""
    plan = TrainingPlan(steps=100, batch_size=32, lr=4e-3, warmup_steps=5, vocab_size=400)
    config = {"image_px": 32, "vision_widths": [16, 32], "width": 64, "heads": 2, "dropout": 0.0}
    job = TrainingJob(
        family="virtex", config=config, plan=plan, shards=tiny_shards.path, folder=tmp_path / "run"
    )
    return run_job(job)


def test_a_trained_captioner_says_the_same_live_as_a_version_elsewhere_and_by_its_onnx_files(
    tracking, versions, trained, tiny_samples, tmp_path
):
    images = [sample.image for sample in tiny_samples if sample.split == "test"]
    model, tokenizer, _ = load_model(trained.path)
    side_px = model.batch_spec().image_px
    pixels = torch.stack([torch.from_numpy(decode(image, side_px)) for image in images])
    asked = {"eos_id": tokenizer.eos_id, "max_tokens": 12}
    ids = greedy(model, pixels, **asked)
    live = [tokenizer.decode(row) for row in ids]
    assert all(live)
    assert len(set(live)) >= 4, live

    name = f"trained-{tracking.experiment_id}"
    decoding = EvaluationPlan(decoder="greedy", max_tokens=12).decoding()
    number = versions.register(
        tracking.open_run("k1", "night"),
        name,
        trained,
        key="k1",
        example=images[0],
        decoding=decoding,
    )
    said = answer_elsewhere(versions.fetch(name, number, tmp_path / "copy"), tmp_path, images, {})
    assert said["unpickled"] == []
    assert [row["caption"] for row in said["answer"]] == live

    made = export(model, tokenizer, trained.path, tmp_path / "onnx", "onnx", name)
    assert onnx_files.same_captions(model, made.folder, pixels, **asked) == ids


def test_an_embedder_answers_among_the_labels_it_is_given(versions, registered, tmp_path):
    model, number, _ = registered("clip")
    served = versions.load(model, number, tmp_path / "copy")
    frame = DataFrame({"image": [base64.b64encode(drawing()).decode()]})
    assert served.predict(frame)["label"][0] in ("red circle", "blue square")
    assert served.predict(frame, params={"labels": ["cat"]})["label"][0] == "cat"
    bad = DataFrame({"image": ["no image"]})
    with pytest.raises(Exception, match="Row 0 of column image is no base64 image"):
        served.predict(bad)


REGISTER = """
import sys
from pathlib import Path
from components.training.checkpoints.checkpoint import verify
from registry.versions import Versions
uri, run_id, model, checkpoint, example = sys.argv[1:]
number = Versions(uri).register(run_id, model, verify(Path(checkpoint)), key="k1", example=Path(example).read_bytes())
print(number)
"""


@pytest.mark.faults
@pytest.mark.parametrize("place", ["version.uploaded", "version.logged", "version.created"])
def test_a_registration_killed_at_any_step_is_finished_as_one_version(
    tracking, versions, make_checkpoint, tmp_path, place
):
    checkpoint, run_id = make_checkpoint("virtex"), tracking.open_run("k1", "night")
    model = f"killed-{tracking.experiment_id}"
    (tmp_path / "example.png").write_bytes(drawing())
    command = [sys.executable, "-c", REGISTER, tracking.uri, run_id, model, str(checkpoint.path)]
    command += [str(tmp_path / "example.png")]
    killed = subprocess.run(
        command,
        cwd=REPO,
        env={**os.environ, "DIPTYCH_FAIL": place},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = versions.find(model, "k1")
    assert (before is not None) == (place == "version.created")
    number = versions.register(run_id, model, checkpoint, key="k1", example=drawing())
    client = MlflowClient(tracking.uri, registry_uri=tracking.uri)
    assert number == 1
    assert len(client.search_model_versions(f"name = '{model}'")) == 1
    fetched = versions.checkpoint(model, 1, tmp_path / "cache")
    assert load_model(fetched)[2].digest == checkpoint.digest
    logged = client.search_logged_models([tracking.experiment_id])
    assert [str(each.status) for each in logged] == ["READY"]
