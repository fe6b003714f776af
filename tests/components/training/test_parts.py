"""Parts: what a slot is handed travels with a checkpoint, or is found again and held against its digest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import tokenizers
import torch
from huggingface_hub import constants
from tokenizers import decoders, models, pre_tokenizers, trainers

from components import atomic
from components.catalog import MODELS
from components.config import ConfigError
from components.models.causal_lm import CausalLm, CausalLmConfig
from components.models.parts import Origin, Part, handed
from components.table import UnknownName
from components.training import building
from components.training.checkpoints import checkpoint, marker
from components.training.checkpoints.checkpoint import CheckpointDamaged, load_model
from components.training.folder import JobChanged, pinned
from components.training.job import run_job
from components.training.loop import Interrupted
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob

PLAN = TrainingPlan(steps=2, batch_size=8, warmup_steps=0, checkpoint_every=1, vocab_size=400)


def job_for(family, shards, folder, parts=None, plan=PLAN) -> TrainingJob:
    config = MODELS[family].Config.tiny().to_dict()
    return TrainingJob(
        family=family,
        config=config,
        plan=plan,
        shards=shards.path,
        folder=folder,
        parts=parts or {},
    )


@pytest.fixture(scope="module")
def stage(tiny_shards, tmp_path_factory):
    """A language model, two steps old."""
    return run_job(job_for("lm", tiny_shards, tmp_path_factory.mktemp("lm")))


@pytest.fixture
def origin(stage):
    return Origin(kind="stage", name="lm_tiny", digest=stage.digest, path=str(stage.path))


@pytest.fixture
def parts(origin):
    return {
        "lm": origin,
        **{
            slot: Origin(kind="random", name="")
            for slot in building.slots(MODELS["flamingo"])
            if slot != "lm"
        },
    }


def test_a_model_outlives_the_stage_it_was_handed(parts, stage, tiny_shards, tmp_path):
    lent = tmp_path / "lent"
    shutil.copytree(stage.path, lent)
    parts["lm"] = replace(parts["lm"], path=str(lent))
    made = run_job(job_for("flamingo", tiny_shards, tmp_path / "run", parts))
    shutil.rmtree(lent)
    model, tokenizer, _ = load_model(made.path)
    theirs, their_tokenizer, _ = load_model(stage.path)
    kept = model.handed_parts["lm"].module.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in theirs.state_dict().items())
    assert tokenizer.digest == their_tokenizer.digest
    assert model.handed_parts["lm"].origin == replace(parts["lm"], path="")


def test_a_part_is_stored_once_and_not_among_the_models_own_weights(parts, tiny_shards, tmp_path):
    from safetensors.torch import load_file

    made = run_job(job_for("flamingo", tiny_shards, tmp_path, parts))
    model, _, _ = load_model(made.path)
    own = load_file(made.path / "weights.safetensors").values()
    parts = [load_file(file).values() for file in made.path.glob("parts/*/weights.safetensors")]
    foreign = {
        id(value)
        for part in model.handed_parts.values()
        for value in part.module.state_dict(keep_vars=True).values()
    }
    mine = {
        id(value): value
        for value in model.state_dict(keep_vars=True).values()
        if id(value) not in foreign
    }
    assert sorted(map(_size, own)) == sorted(map(_size, mine.values()))
    assert sum(map(_size, own)) < sum(_size(value) for part in parts for value in part)


def _size(tensor):
    return tensor.numel()


def test_a_changed_byte_in_a_part_is_refused_by_its_name(parts, tiny_shards, tmp_path):
    made = run_job(job_for("flamingo", tiny_shards, tmp_path, parts))
    file = made.path / "parts" / "lm" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointDamaged, match=r"weights\.safetensors is damaged"):
        load_model(made.path)


def test_going_on_with_another_stage_is_another_job(parts, tiny_shards, tmp_path):
    run_job(job_for("flamingo", tiny_shards, tmp_path, parts))
    parts["lm"] = replace(parts["lm"], digest="0" * 64)
    with pytest.raises(JobChanged, match=r"parts\.lm\.digest"):
        run_job(job_for("flamingo", tiny_shards, tmp_path, parts, replace(PLAN, steps=3)))


def test_a_stage_that_is_not_the_one_named_is_refused(parts, tiny_shards, tmp_path):
    parts["lm"] = replace(parts["lm"], digest="0" * 64)
    with pytest.raises(CheckpointDamaged, match="asked for is 000000000000"):
        run_job(job_for("flamingo", tiny_shards, tmp_path, parts))


def test_an_interrupted_training_with_parts_ends_as_an_undisturbed_one(
    parts, tiny_shards, tmp_path
):
    whole = run_job(job_for("flamingo", tiny_shards, tmp_path / "whole", parts))
    job = job_for("flamingo", tiny_shards, tmp_path / "halves", parts)
    with pytest.raises(Interrupted):
        run_job(job, stop=lambda step: step == 1)
    assert checkpoint.latest(job.checkpoints).step == 1
    assert run_job(job).digest == whole.digest


def test_a_part_that_cannot_do_what_the_slot_asks_is_refused(build_tiny, tiny_tokenizer):
    from components.abilities import LanguageModel

    part = Part(
        module=build_tiny("clip"),
        tokenizer=tiny_tokenizer,
        origin=Origin(kind="random", name="clip"),
    )
    with pytest.raises(ConfigError, match="is no LanguageModel"):
        handed({"lm": part}, "lm", LanguageModel, "Frozen")
    with pytest.raises(ConfigError, match='needs a part "lm"'):
        handed({}, "lm", LanguageModel, "Frozen")


def test_a_package_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="package"):
        building.find_part("lm", Origin(kind="package", name="smolm2"))


def test_a_part_from_outside_keeps_the_name_it_was_asked_by(
    monkeypatch, build_tiny, tiny_tokenizer
):
    asked = Origin(kind="hub", name="somebody/clip")
    here = Part(
        module=build_tiny("clip"),
        tokenizer=tiny_tokenizer,
        origin=Origin(kind="folder", name="/somewhere/in/a/cache", digest="d" * 64),
    )
    monkeypatch.setattr(building, "snapshot", lambda name, fetch: name)
    monkeypatch.setitem(building.FOLDERS._entries, "clip", lambda name: here)
    assert building.find_part("clip", asked).origin == replace(asked, digest="d" * 64)
    with pytest.raises(ConfigError, match="the model was made with eeeeeeeeeeee"):
        building.find_part("clip", replace(asked, digest="e" * 64))


@pytest.fixture
def lm_folder(tmp_path):
    """A language model as transformers writes one, with a byte-level BPE."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    bpe.train_from_iterator(["a red circle"] * 3, trainer)
    torch.manual_seed(0)
    config = CausalLmConfig(
        width=16, layers=1, heads=2, positions=64, vocab_size=280, bos_id=0, eos_id=0, pad_id=0
    )
    folder = tmp_path / "lm"
    CausalLm(config).model.save_pretrained(folder)
    bpe.save(str(folder / "tokenizer.json"))
    return folder


def test_a_folder_is_pinned_when_training_begins_and_not_only_by_its_first_checkpoint(
    lm_folder, tiny_shards, tmp_path
):
    parts = {"lm": Origin(kind="folder", name=str(lm_folder))}
    job = job_for("frozen", tiny_shards, tmp_path / "run", parts, replace(PLAN, checkpoint_every=2))

    def stop(step, values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(replace(job, plan=replace(job.plan, report_every=1)), on_step=stop)
    assert checkpoint.latest(job.checkpoints) is None

    file = lm_folder / "model.safetensors"
    before = file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(ConfigError, match="the model was made with"):
        run_job(job)
    file.write_bytes(before)
    made = run_job(job)
    assert made.step == 2
    assert checkpoint.pinned(made.path) == pinned(job.folder, parts)
    # Another folder in its place is another matter: nothing was begun with it.
    assert pinned(job.folder, {"lm": Origin(kind="folder", name="/elsewhere")}) == {}


def test_a_hub_name_with_its_commit_and_digest_stands_in_the_checkpoint(
    lm_folder, tiny_shards, tmp_path, monkeypatch
):
    name = f"made/lm@{'a' * 40}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    shutil.copytree(lm_folder, tmp_path / "cache/models--made--lm/snapshots" / ("a" * 40))
    parts = {"lm": Origin(kind="hub", name=name)}
    made = run_job(job_for("frozen", tiny_shards, tmp_path / "run", parts))
    kept = json.loads((made.path / "config.json").read_text())["parts"]["lm"]
    assert (kept["kind"], kept["name"]) == ("hub", name)
    assert kept["digest"] == atomic.sha256_file(lm_folder / "model.safetensors")
    assert load_model(made.path)[0].handed_parts["lm"].origin.name == name


def test_a_checkpoint_with_a_slot_its_family_has_not_is_refused_before_any_path_is_made(
    parts, tiny_shards, tmp_path
):
    made = run_job(job_for("flamingo", tiny_shards, tmp_path, parts))
    file = made.path / "config.json"
    about = json.loads(file.read_text())
    about["parts"]["../../x"] = about["parts"].pop("lm")
    file.write_text(json.dumps(about))
    content, _ = marker.read(made.path)
    held = {key: value for key, value in content.items() if key != "files"}
    marker.write(made.path, held, list(content["files"]))
    with pytest.raises(CheckpointDamaged, match=r"flamingo has no slot \.\./\.\./x"):
        load_model(made.path)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "auto_map"])
def test_a_setting_that_would_choose_code_is_refused(key, build_tiny):
    with pytest.raises(ConfigError, match="choose code"):
        build_tiny("lm", settings={key: "somebody/kernel"})
