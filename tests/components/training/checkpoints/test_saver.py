"""Saving beside the training: what is written is what was there when it was taken, one at a time, and no failure is lost."""

from __future__ import annotations

import threading

import pytest
import torch

from components.training.checkpoints import saver as saver_module
from components.training.checkpoints.saver import Saver, saving
from components.training.checkpoints.snapshot import HostMemory, Snapshot
from components.training.checkpoints.tensors import read


def snapshot(memory: HostMemory, step: int, tensor: torch.Tensor) -> Snapshot:
    about = {"family": "clip", "step": step, "seed": 0, "shards_digest": "made"}
    found = memory.hold("weights.safetensors", {"w": tensor})
    return Snapshot(step=step, about=about, tensors={"weights.safetensors": found})


@pytest.fixture
def held(monkeypatch):
    """`put` waits until the event is set; how many are inside at once is counted."""
    gate, inside, most = threading.Event(), [], []
    put = saver_module.checkpoint.put

    def slow(folder, taken):
        inside.append(taken.step)
        most.append(len(inside))
        gate.wait(10)
        made = put(folder, taken)
        inside.remove(taken.step)
        return made

    monkeypatch.setattr(saver_module.checkpoint, "put", slow)
    return gate, inside, most


def test_a_step_taken_meanwhile_changes_nothing_of_what_is_written(tmp_path, held):
    gate, inside, _ = held
    weight, made = torch.zeros(3), []
    saver = Saver(tmp_path, made.append)
    saver.save(lambda memory: snapshot(memory, 1, weight))
    weight += 1  # the next step, before a byte was written
    assert not made
    gate.set()
    saver.settle()
    assert read(made[0].path / "weights.safetensors")["w"].tolist() == [0, 0, 0]
    assert not inside


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path, held):
    gate, inside, most = held
    made: list[int] = []
    saver = Saver(tmp_path, lambda each: made.append(each.step))
    saver.save(lambda memory: snapshot(memory, 1, torch.zeros(3)))
    second = threading.Thread(
        target=saver.save, args=(lambda memory: snapshot(memory, 2, torch.ones(3)),)
    )
    second.start()
    second.join(0.2)
    assert second.is_alive(), "its copy would overwrite what is being written"
    assert inside == [1]
    gate.set()
    second.join()
    saver.settle()
    assert made == [1, 2]
    assert max(most) == 1


def test_a_failure_is_raised_at_the_next_checkpoint_and_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    saver = Saver(tmp_path / "file", lambda _: None)
    saver.save(lambda memory: snapshot(memory, 1, torch.zeros(3)))
    with pytest.raises(OSError, match="file"):
        saver.save(lambda memory: pytest.fail("it was taken although the one before failed"))
    saver.settle()


def test_leaving_the_block_waits_for_the_last_and_raises_what_ended_it(tmp_path):
    made: list[int] = []
    saver = Saver(tmp_path, lambda each: made.append(each.step))
    with pytest.raises(InterruptedError), saving(saver):
        saver.save(lambda memory: snapshot(memory, 4, torch.zeros(3)))
        raise InterruptedError
    assert made == [4], "an interrupted training keeps the checkpoint under way"
    (tmp_path / "file").write_text("in the way")
    broken = Saver(tmp_path / "file", lambda _: None)
    with pytest.raises(FileExistsError), saving(broken):
        broken.save(lambda memory: snapshot(memory, 1, torch.zeros(3)))


def test_memory_is_kept_for_the_next_checkpoint_and_follows_a_tensor_that_grew():
    memory = HostMemory()
    first = memory.hold("f", {"w": torch.zeros(3)})["w"]
    again = memory.hold("f", {"w": torch.ones(3)})["w"]
    assert again.data_ptr() == first.data_ptr()
    assert memory.hold("f", {"w": torch.ones(5)})["w"].tolist() == [1] * 5
