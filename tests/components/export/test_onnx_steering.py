"""MAGIC over its files writes what it writes over its models, and a file of another model is found out."""

from __future__ import annotations

import json

import pytest
import torch

from components.data.text import Tokenizer
from components.decoding.magic import magic
from components.export import onnx_files, onnx_steering
from components.export.folder import TEXT_TOKENIZER, export
from components.export.graph import NotExportable
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.clip import Clip, ClipConfig
from components.models.magic import MagicConfig
from components.models.parts import Origin as PartOrigin
from components.models.parts import Part
from components.training.building import build
from components.training.checkpoints.checkpoint import Origin, save


@pytest.fixture(scope="module")
def exported(tiny_tokenizer, tmp_path_factory):
    """A MAGIC whose words, states and cosines differ, with a tokenizer for each part, and its files."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("magic")
    words = Tokenizer.train(["a red circle", "the green square", "blue"], 280)
    lm = CausalLmConfig(
        width=32,
        layers=2,
        heads=2,
        positions=40,
        max_tokens=20,
        settings={"initializer_range": 0.2},
    )
    clip = ClipConfig(
        vision_widths=(8, 16), image_px=16, text_width=32, text_layers=1, text_heads=2,
        embed_width=16, max_tokens=30, vocab_size=words.vocab_size,
    )  # fmt: skip
    made = (("lm", CausalLm(lm.fitted((), tiny_tokenizer)), tiny_tokenizer, "causal_lm"),
            ("clip", Clip(clip), words, "clip"))  # fmt: skip
    parts = {
        slot: Part(module=module, tokenizer=each, origin=PartOrigin(kind="random", name=name))
        for slot, module, each, name in made
    }
    config = MagicConfig(image_px=16, max_tokens=20)
    model = build("magic", config, parts).eval()
    origin = Origin(family="magic", config=config.to_dict(), seed=0, shards_digest="made")
    saved = save(place / "run", model, tokenizer=tiny_tokenizer, origin=origin, step=0)
    made = export(model, tiny_tokenizer, saved.path, place / "out", "onnx", "magic, step 0")
    return model, made, words


def test_what_magic_writes_over_files_is_what_it_writes_over_models(exported, tiny_tokenizer):
    model, made, tokenizer = exported
    assert list(made.differences) == ["image", "text", "prefill", "step", "logits"]
    assert made.captions_alike == 4
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    again = onnx_steering.from_files(model, made.folder)
    for options in ({}, {"beta": 8.0, "top_k": 12}):
        asked = {"eos_id": tiny_tokenizer.eos_id, "max_tokens": 7, **options}
        wanted = magic(model, pixels, **asked)
        assert magic(again, pixels, **asked) == wanted
        assert all(wanted)
    about = json.loads((made.folder / "export.json").read_text())["settings"]
    assert about["cosine_scale"] == float(model.clip.cosine_scale())
    assert Tokenizer.load(made.folder / TEXT_TOKENIZER).digest == tokenizer.digest
    words = model.lm.model.get_output_embeddings().weight
    words.data.mul_(-1)
    try:
        with pytest.raises(NotExportable, match="where the model writes"):
            onnx_steering.same_captions(model, tiny_tokenizer, made.folder, pixels, max_tokens=7)
    finally:
        words.data.mul_(-1)


def test_a_prompt_of_one_token_and_of_many_are_read_by_one_file(exported):
    model, made, _ = exported
    prefill = onnx_files.session(made.folder / "prefill.onnx")
    for tokens in (torch.tensor([[1]]), torch.tensor([[1, 7, 9, 4, 8]] * 3)):
        with torch.no_grad():
            wanted = model.lm.run(model.lm.embed(tokens))[0]
        torch.testing.assert_close(prefill((tokens,))[0], wanted, rtol=0, atol=1e-4)
