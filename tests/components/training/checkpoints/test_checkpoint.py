"""A checkpoint is whole or not there, is what was saved or is refused, and the last good one is found."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.catalog import FAMILIES
from components.data.text import Tokenizer
from components.training.checkpoints import checkpoint, marker
from components.training.checkpoints.checkpoint import (
    CONFIG,
    STATE,
    STEP,
    TOKENIZER,
    WEIGHTS,
    CheckpointDamaged,
    CheckpointMissing,
    Origin,
    latest,
    load_model,
    place,
    restore,
    save,
    sweep,
    verify,
)
from components.training.checkpoints.marker import MARKER
from components.training.loop import fit
from components.training.plan import TrainingPlan
from components.training.steps.state import begin

FILES = (WEIGHTS, CONFIG, TOKENIZER, STATE, STEP)
PLAN = TrainingPlan(steps=2, batch_size=8, warmup_steps=0)
TINY = {"image_px": 32, "vision_widths": (8, 16), "width": 32, "heads": 2}


class Repeated:
    """One batch at every step."""

    def __init__(self, batch):
        self.batch = lambda step: batch


@pytest.fixture
def trained(tiny_batch, tiny_tokenizer):
    """A VirTex after two steps, what its training goes on from, and what `save` needs besides."""
    torch.manual_seed(0)
    family = FAMILIES["virtex"]
    config = family.Config(vocab_size=tiny_tokenizer.vocab_size, **TINY)
    model = family(config)
    state = begin(model, PLAN)
    fit(state, Repeated(tiny_batch), PLAN)
    origin = Origin(family="virtex", config=config.to_dict(), seed=5, shards_digest="abc")
    return model, state.kept(), {"tokenizer": tiny_tokenizer, "origin": origin}


def reseal(path: Path) -> None:
    """Make the marker agree with altered files, as a bug would and bad luck could not."""
    content, _ = marker.read(path)
    files = content.pop("files")
    marker.write(path, content, list(files))


def test_a_model_rebuilt_from_its_checkpoint_alone_is_the_same(trained, tmp_path, tiny_batch):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=2, **rest)
    rebuilt, tokenizer, read = load_model(made.path)
    assert read == made
    assert (read.family, read.step, read.seed, read.shards_digest) == ("virtex", 2, 5, "abc")
    assert tokenizer.digest == rest["tokenizer"].digest
    assert rebuilt.config == model.config
    assert not rebuilt.training
    assert rebuilt.output.weight is rebuilt.embedding.words.weight, "tied weights stay one"
    model.eval()
    assert torch.equal(rebuilt.loss(tiny_batch).total, model.loss(tiny_batch).total)


def test_loading_costs_the_caller_no_random_draw(trained, tmp_path):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=2, **rest)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_model(made.path)
    assert torch.equal(torch.rand(3), expected)


def test_equal_trainings_make_equal_digests_at_different_times(trained, tmp_path):
    model, state, rest = trained
    one = save(tmp_path / "one", model, state, step=2, **rest)
    other = save(tmp_path / "other", model, state, step=2, **rest)
    assert one.digest == other.digest
    with torch.no_grad():
        model.projection.bias[0] += 1e-6
    assert save(tmp_path / "third", model, state, step=2, **rest).digest != one.digest


def test_there_is_no_pickle_in_a_checkpoint(trained, tmp_path):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=2, **rest)
    assert {file.name for file in made.path.iterdir()} == {*FILES, MARKER}
    assert {file.suffix for file in made.path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", [*FILES, MARKER])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_bit_in_any_file_is_refused_by_the_files_name(trained, tmp_path, name, where):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=2, **rest)
    data = bytearray((made.path / name).read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    (made.path / name).write_bytes(data)
    for read in (verify, load_model):
        with pytest.raises(CheckpointDamaged, match=name):
            read(made.path)


def test_every_single_bit_of_the_marker_matters(trained, tmp_path):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=2, **rest)
    file = made.path / MARKER
    sound = file.read_bytes()
    for place_ in range(len(sound)):
        file.write_bytes(sound[:place_] + bytes([sound[place_] ^ 4]) + sound[place_ + 1 :])
        with pytest.raises(CheckpointDamaged):
            marker.read(made.path)
    file.write_bytes(sound)
    verify(made.path)


@pytest.mark.parametrize("name", [*FILES, MARKER])
def test_a_missing_or_short_file_is_refused_by_its_name(trained, tmp_path, name):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=2, **rest)
    whole = (made.path / name).read_bytes()
    (made.path / name).write_bytes(whole[:-1])
    with pytest.raises(CheckpointDamaged, match=name):
        verify(made.path)
    (made.path / name).unlink()
    with pytest.raises(CheckpointDamaged, match=f"{name} is damaged: it is missing"):
        verify(made.path)


def test_no_folder_is_a_checkpoint_missing(tmp_path):
    with pytest.raises(CheckpointMissing, match="step-7"):
        verify(tmp_path / "step-7")


def alter_family(path: Path) -> None:
    about = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**about, "family": "clip"}))


def alter_config(path: Path) -> None:
    about = json.loads((path / "config.json").read_text())
    about["config"]["wdith"] = 3
    (path / "config.json").write_text(json.dumps(about))


def alter_tokenizer(path: Path) -> None:
    Tokenizer.train(["another text altogether"], 280).save(path / "tokenizer.json")


def alter_weights(change):
    def alter(path: Path) -> None:
        tensors = load_file(path / "weights.safetensors")
        change(tensors)
        save_file(tensors, path / "weights.safetensors")

    return alter


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (alter_family, ["config.json", "clip", "virtex"]),
        (alter_config, ["config.json", "wdith"]),
        (alter_tokenizer, ["tokenizer.json", "trained with"]),
        (
            alter_weights(lambda t: t.pop("projection.bias")),
            ["weights", "missing: ['projection.bias']"],
        ),
        (
            alter_weights(lambda t: t.update(more=torch.ones(1))),
            ["weights", "unexpected: ['more']"],
        ),
        (
            alter_weights(lambda t: t.update({"projection.bias": torch.ones(31)})),
            ["weights", "projection.bias is (31,)", "(32,)"],
        ),
        (
            alter_weights(lambda t: t.update({"projection.bias": torch.ones(32).half()})),
            ["weights", "float16", "float32"],
        ),
    ],
)
def test_a_well_sealed_checkpoint_of_something_else_is_refused(trained, tmp_path, alter, said):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=2, **rest)
    alter(made.path)
    reseal(made.path)
    with pytest.raises(CheckpointDamaged) as refused:
        load_model(made.path)
    assert all(words in str(refused.value) for words in said), str(refused.value)


def test_optimiser_state_of_another_shape_or_model_is_refused(trained, tmp_path):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=2, **rest)
    sound = load_file(made.path / "state.safetensors")
    name = "projection.bias/exp_avg"
    for wrong, said in (
        ({**sound, name: torch.ones(31)}, "projection.bias/exp_avg is"),
        ({key: value for key, value in sound.items() if key != name}, "of projection.bias only"),
        ({**sound, "more/step": torch.ones(1)}, "unknown parameters"),
    ):
        save_file(wrong, made.path / "state.safetensors")
        with pytest.raises(CheckpointDamaged, match=said):
            restore(made.path, begin(model, PLAN))


def test_the_newest_good_one_is_found_and_the_damaged_ones_are_named(trained, tmp_path):
    model, state, rest = trained
    assert latest(tmp_path) is None
    made = [save(tmp_path, model, state, step=step, **rest) for step in (1, 2, 3)]
    (made[2].path / MARKER).unlink()
    (made[1].path / "weights.safetensors").write_bytes(b"")
    told: list[str] = []
    assert latest(tmp_path, lambda error: told.append(str(error))) == made[0]
    assert [made[2].path.name in told[0], MARKER in told[0]] == [True, True]
    assert [made[1].path.name in told[1], "weights.safetensors" in told[1]] == [True, True]


def test_one_that_is_swept_away_while_it_is_read_gives_way_to_a_newer_one(
    trained, tmp_path, monkeypatch
):
    model, state, rest = trained
    for step in (1, 2):
        save(tmp_path, model, state, step=step, **rest)
    check = marker.check_files

    def swept_meanwhile(folder: Path, content: object) -> None:
        monkeypatch.setattr(marker, "check_files", check)
        save(tmp_path, model, state, step=3, **rest)
        sweep(tmp_path, keep=1)
        check(folder, content)

    monkeypatch.setattr(marker, "check_files", swept_meanwhile)
    found = latest(tmp_path, lambda error: pytest.fail(f"nothing is damaged: {error}"))
    assert found is not None and found.step == 3


def test_a_damaged_checkpoint_is_replaced_by_saving_its_step_again(trained, tmp_path):
    model, state, rest = trained
    made = save(tmp_path, model, state, step=3, **rest)
    (made.path / MARKER).unlink()
    assert save(tmp_path, model, state, step=3, **rest) == made == latest(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [made.path.name]


def test_sweeping_keeps_the_last_two_and_removes_what_a_crash_left(trained, tmp_path):
    model, state, rest = trained
    for step in (1, 2, 10):
        save(tmp_path, model, state, step=step, **rest)
    for left in (".saving-x", ".retired-y"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "weights.safetensors").write_bytes(b"half")
    sweep(tmp_path)
    kept = {entry.name for entry in tmp_path.iterdir()}
    assert kept == {place(tmp_path, 2).name, place(tmp_path, 10).name}


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_new(trained, tmp_path):
    model, state, rest = trained
    good = save(tmp_path, model, state, step=1, **rest)
    limit = (good.path / "weights.safetensors").stat().st_size // 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (limit, hard)
    )  # Python turns the signal into an error
    try:
        with pytest.raises(OSError, match=r"cannot be written.*bytes"):
            save(tmp_path, model, state, step=2, **rest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert latest(tmp_path) == good
    assert [entry.name for entry in tmp_path.iterdir()] == [good.path.name]


SAVE_AGAIN = """
import resource, signal, sys
from pathlib import Path
from components.training.checkpoints import checkpoint
from components.training.checkpoints.checkpoint import Origin
from components.training.plan import TrainingPlan
from components.training.steps.state import begin

path, limits = Path(sys.argv[1]), [int(limit) for limit in sys.argv[2].split(",")]
model, tokenizer, saved = checkpoint.load_model(path)
training = begin(model, TrainingPlan())
checkpoint.restore(path, training)
state = training.kept()
origin = Origin(family=saved.family, config=model.config.to_dict(), seed=1, shards_digest="abc")
import os
for limit in limits:
    child = os.fork()
    if child == 0:
        # A write past the limit now kills this process on the spot, in the middle of the file.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        checkpoint.save(path.parent, model, state, tokenizer=tokenizer, origin=origin, step=9)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    print(checkpoint.latest(path.parent).step, flush=True)
"""


@pytest.mark.faults
def test_a_process_killed_at_any_tenth_of_the_bytes_leaves_the_checkpoint_before(trained, tmp_path):
    model, state, rest = trained
    good = save(tmp_path, model, state, step=1, **rest)
    largest = max(file.stat().st_size for file in good.path.iterdir())
    limits = [largest * tenth // 10 for tenth in range(10)] + [2 * largest]
    output = subprocess.run(
        [sys.executable, "-c", SAVE_AGAIN, str(good.path), ",".join(map(str, limits))],
        check=True, capture_output=True, text=True, cwd=Path(checkpoint.__file__).parents[3],
    ).stdout.split()  # fmt: skip
    results = list(zip(output[::2], output[1::2], strict=True))
    assert results[:10] == [(str(-signal.SIGXFSZ), "1")] * 10
    assert results[10] == ("0", "9"), "the control: with room enough it is saved"
    sweep(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"step-00000001", "step-00000009"}


@pytest.mark.faults
@pytest.mark.parametrize("point", ["checkpoint_unmarked", "checkpoint_unplaced"])
def test_a_process_killed_around_the_marker_leaves_the_checkpoint_before(trained, tmp_path, point):
    model, state, rest = trained
    good = save(tmp_path, model, state, step=1, **rest)
    child = os.fork()
    if child == 0:
        os.environ["DIPTYCH_FAIL"] = point
        save(tmp_path, model, state, step=2, **rest)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert latest(tmp_path) == good
    save(tmp_path, model, state, step=2, **rest)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
