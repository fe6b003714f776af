"""An exported model computes what the model does, or is not there: read back by the programs it is for."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import onnxruntime
import pytest
import torch
from transformers import CLIPModel

from components.config import ConfigError
from components.decoding.greedy import greedy
from components.export import onnx_files, programs
from components.export.folder import export
from components.export.graph import NotExportable
from components.export.graphs import graphs_of
from components.export.parity import NotAlike
from components.export.states import leaves, with_leaves
from components.training.checkpoints import marker
from components.training.checkpoints.checkpoint import load_model
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob

VIT = {
    "vision": "vit", "image_px": 32, "patch_px": 16, "vision_width": 32, "vision_layers": 1,
    "vision_heads": 2, "text_width": 32, "text_layers": 1, "embed_width": 16,
}  # fmt: skip
CONV = {"image_px": 32, "vision_widths": [8, 16], "width": 32, "heads": 2, "dropout": 0.0}

CARD = "clip_x version 1"
MACHINE = (str(Path(__file__).parents[3]), str(Path(torch.__file__).parent))
"""Where this checkout and torch lie."""


@pytest.fixture(scope="module")
def trained(tiny_shards, tmp_path_factory):
    """`trained("clip")`: a model of a few steps, its tokenizer and its checkpoint's folder."""
    made = {}

    def make(family: str, **config):
        if family not in made:
            plan = TrainingPlan(steps=2, batch_size=8, warmup_steps=0, vocab_size=300)
            job = TrainingJob(
                family=family, config={"clip": VIT, "virtex": CONV}[family], plan=plan,
                shards=tiny_shards.path, folder=tmp_path_factory.mktemp(family),
            )  # fmt: skip
            checkpoint = run_job(job)
            model, tokenizer, _ = load_model(checkpoint.path)
            made[family] = model, tokenizer, checkpoint.path
        return made[family]

    return make


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """`exported("onnx")`: the CLIP in a format, made once; read only."""
    folder = tmp_path_factory.mktemp("exported")
    return cache(lambda format: export(*trained("clip"), folder / format, format, CARD))


def test_a_state_is_the_same_after_it_was_taken_apart(trained):
    model, _, _ = trained("virtex")
    state, *_ = model.prefill(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    again = with_leaves(state, [tensor + 0 for tensor in leaves(state)])
    assert type(again) is type(state)
    assert all(map(torch.equal, leaves(again), leaves(state)))


def test_an_embedders_onnx_files_embed_as_it_does(trained, exported):
    (model, tokenizer, path), made = trained("clip"), exported("onnx")
    assert set(made.differences) == {"image", "text"}
    tokens_BT, lengths_B = tokenizer.encode(["a red circle", "x", "a blue one", "y y y y", "z"], 16)
    tokens_BT = torch.as_tensor(tokens_BT)[:, : int(lengths_B.max())]
    session = onnxruntime.InferenceSession(str(made.folder / "text.onnx"))
    (found,) = session.run(None, {"tokens": tokens_BT.numpy(), "lengths": lengths_B.numpy()})
    with torch.no_grad():
        wanted = model.embed_texts(tokens_BT, lengths_B)
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=1e-5)
    content, _ = marker.read(made.folder)
    marker.check_files(made.folder, content)
    assert set(content["files"]) == {
        "README.md", "export.json", "image.onnx", "text.onnx", "tokenizer.json",
    }  # fmt: skip
    assert json.loads((made.folder / "export.json").read_text())["differences"] == made.differences
    with pytest.raises(ConfigError, match="is there already"):
        export(model, tokenizer, path, made.folder, "onnx", CARD)


def test_a_captioners_onnx_files_write_what_it_writes(trained, tmp_path):
    model, tokenizer, path = trained("virtex")
    made = export(model, tokenizer, path, tmp_path / "virtex", "onnx", "virtex_x version 1")
    assert made.captions_alike == 4
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    asked = {"eos_id": tokenizer.eos_id, "max_tokens": 9}
    written = onnx_files.same_captions(model, made.folder, pixels, **asked)
    assert written == greedy(model, pixels, **asked)
    # Another model than the files came from is found out.
    with torch.no_grad():
        model.output.bias.add_(torch.linspace(-9, 9, len(model.output.bias)))
    with pytest.raises(NotExportable, match="where the model writes"):
        onnx_files.same_captions(model, made.folder, pixels, **asked)


def test_a_program_is_read_without_our_code_and_holds_no_pickle(trained, exported, tmp_path):
    (model, _, _), made = trained("clip"), exported("torch")
    assert set(made.differences) == {"image", "text"}
    program = made.folder / "image.pt2"
    programs.refuse_pickle(program)
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    (found,) = torch.export.load(program).module()(pixels)
    torch.testing.assert_close(found, model.embed_images(pixels), rtol=0, atol=1e-5)
    pickled = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(pickled, tmp_path / "with_examples.pt2")
    with pytest.raises(NotExportable, match="sample_inputs"):
        programs.refuse_pickle(tmp_path / "with_examples.pt2")


def test_a_graph_of_other_numbers_is_refused(trained, tmp_path):
    model, tokenizer, _ = trained("clip")
    image, _ = graphs_of(model, tokenizer)
    program = programs.write(image, tmp_path)
    weight = model.image.projection.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(torch.linspace(-1, 1, weight.numel()).view_as(weight))
    try:
        with pytest.raises(NotAlike, match="differs from the model's by"):
            programs.check(image, program)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_a_clip_with_a_vit_is_written_as_transformers_reads_it(trained, exported):
    (model, _, _), made = trained("clip"), exported("hub")
    assert made.layout == "transformers CLIPModel"
    theirs = CLIPModel.from_pretrained(made.folder).eval()
    assert theirs.logit_scale.item() == model.log_scale.item()


def test_a_family_transformers_has_not_keeps_our_layout(trained, tmp_path):
    model, tokenizer, path = trained("virtex")
    made = export(model, tokenizer, path, tmp_path / "virtex", "hub", "virtex_x version 1")
    assert made.layout.startswith("ours")
    about = json.loads((made.folder / "config.json").read_text())
    assert about["family"] == "virtex"
    assert (made.folder / "model.safetensors").stat().st_size > 0
    assert not list(made.folder.glob("state*"))


def test_no_path_of_the_machine_is_in_what_is_written(exported):
    """torch notes the lines of code that each node came from, with their files."""
    for format in ("onnx", "torch", "hub"):
        for file in exported(format).folder.iterdir():
            told = file.read_bytes()
            assert not [place for place in MACHINE if place.encode() in told], file.name


def test_what_cannot_be_exported_leaves_nothing(trained, build_tiny, tmp_path):
    _, tokenizer, path = trained("clip")
    for format in ("onnx", "torch"):
        with pytest.raises(NotExportable, match="neither embeds, nor writes"):
            export(build_tiny("lm"), tokenizer, path, tmp_path / "out", format, "lm, step 3")
    with pytest.raises(ConfigError, match="hub, onnx, torch"):
        export(build_tiny("magic"), tokenizer, path, tmp_path / "out", "tflite", "x")
    assert list(Path(tmp_path).iterdir()) == []
