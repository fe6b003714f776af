from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.data.batches import Batches, BatchesRefused, SplitImages, groups, load_split
from components.data.shards import write_shards
from components.data.text import Tokenizer
from components.data.transforms import UnreadableImage, decode
from components.records import Batch, BatchSpec, Box, Question, Sample, Shards

SPEC = BatchSpec(image_px=32, max_tokens=24, flip=True)
FIELDS = ("pixels_BCHW", "tokens_BT", "lengths_B", "groups_B", "keys_B")


@pytest.fixture(scope="module")
def images(tiny_shards: Shards) -> SplitImages:
    return load_split(tiny_shards, "train", 32)


def equal(one: Batch, other: Batch) -> bool:
    return all(getattr(one, field).equal(getattr(other, field)) for field in FIELDS)


def test_a_split_holds_its_rows_and_their_pixels(
    images: SplitImages, tiny_samples: list[Sample]
) -> None:
    samples = [sample for sample in tiny_samples if sample.split == "train"]
    assert [row.sample.id for row in images.rows] == [sample.id for sample in samples]
    assert images.pixels_NCHW.dtype == torch.uint8
    assert np.array_equal(images.pixels_NCHW[5].numpy(), decode(samples[5].image, 32))


def test_a_split_without_images_is_refused(tiny_samples: list[Sample], tmp_path: Path) -> None:
    shards = write_shards([s for s in tiny_samples if s.split == "train"], tmp_path / "shards")
    with pytest.raises(BatchesRefused, match=r'no images of the split "val"; it has .*train'):
        load_split(shards, "val", 32)


def test_an_unreadable_image_is_named(tiny_samples: list[Sample], tmp_path: Path) -> None:
    broken = [replace(tiny_samples[0], image=b"GIF89a")]
    with pytest.raises(UnreadableImage, match=tiny_samples[0].id):
        load_split(write_shards(broken, tmp_path / "shards"), "train", 32)


def test_a_step_gives_the_same_batch_in_any_order_of_asking(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    forward = Batches(images, SPEC, tiny_tokenizer, 8, 3)
    first = [forward.batch(step) for step in range(20)]
    for step in (19, 7, 0, 13):
        assert equal(Batches(images, SPEC, tiny_tokenizer, 8, 3).batch(step), first[step])
        assert equal(forward.batch(step), first[step])


def test_seeds_and_epochs_differ(images: SplitImages, tiny_tokenizer: Tokenizer) -> None:
    batches = Batches(images, SPEC, tiny_tokenizer, 8, 3)
    assert not equal(batches.batch(0), Batches(images, SPEC, tiny_tokenizer, 8, 4).batch(0))
    first, again = batches.batch(0), batches.batch(batches.steps_per_epoch)
    assert (first.keys_B // 2).tolist() != (again.keys_B // 2).tolist()


@pytest.mark.parametrize("world", [2, 4])
def test_slices_of_all_ranks_make_the_batch_of_one(
    world: int, images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    whole = Batches(images, SPEC, tiny_tokenizer, 8, 3)
    ranks = [
        Batches(images, SPEC, tiny_tokenizer, 8, 3, rank=rank, world=world) for rank in range(world)
    ]
    for step in (0, 1, 11):
        parts = [rank.batch(step) for rank in ranks]
        for field in FIELDS:
            joined = torch.cat([getattr(part, field) for part in parts])
            assert joined.equal(getattr(whole.batch(step), field)), field


def test_an_epoch_shows_each_image_once_but_the_rest(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    batches = Batches(images, SPEC, tiny_tokenizer, 9, 0)
    assert batches.steps_per_epoch == 6  # of 56 images, 2 wait for another epoch
    for epoch in range(2):
        steps = range(epoch * 6, epoch * 6 + 6)
        keys = [key for step in steps for key in (batches.batch(step).keys_B // 2).tolist()]
        assert len(set(keys)) == 54
        assert set(keys) <= {row.key for row in images.rows}


def test_every_row_is_an_image_with_one_of_its_captions(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    by_key = {
        row.key: (row, pixels) for row, pixels in zip(images.rows, images.pixels_NCHW, strict=True)
    }
    seen = Counter[tuple[str, int]]()
    plain = replace(SPEC, flip=False)
    batches = Batches(images, plain, tiny_tokenizer, 8, 0)
    for step in range(140):
        batch = batches.batch(step)
        for index in range(8):
            row, pixels = by_key[int(batch.keys_B[index]) // 2]
            assert batch.pixels_BCHW[index].equal(pixels)
            text = tiny_tokenizer.decode(batch.tokens_BT[index].tolist())
            seen[row.sample.id, row.sample.captions.index(text)] += 1
    assert len(seen) == 2 * 56  # each caption of each image has had its turn
    first = sum(count for (_, caption), count in seen.items() if caption == 0)
    assert 0.4 < first / seen.total() < 0.6


def test_mirrored_rows_have_mirrored_captions_and_odd_keys(
    tiny_samples: list[Sample], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    samples = [
        replace(sample, captions=("left of a ring",))
        for sample in tiny_samples
        if sample.split == "train"
    ]
    images = load_split(write_shards(samples, tmp_path / "shards"), "train", 32)
    batches = Batches(images, SPEC, tiny_tokenizer, 56, 0)
    turned = 0
    for step in range(10):
        batch = batches.batch(step)
        for pixels, tokens_T, key in zip(
            batch.pixels_BCHW, batch.tokens_BT, batch.keys_B, strict=True
        ):
            original = images.pixels_NCHW[int(key) // 2]
            mirrored = int(key) % 2 == 1
            turned += mirrored
            assert pixels.equal(original.flip(-1) if mirrored else original)
            side = "right" if mirrored else "left"
            assert tiny_tokenizer.decode(tokens_T.tolist()) == f"{side} of a ring"
    assert 0.4 < turned / 560 < 0.6


def test_the_caption_and_the_mirroring_are_drawn_apart(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    batches = Batches(images, SPEC, tiny_tokenizer, 56, 0)
    seen = {
        (tiny_tokenizer.decode(tokens_T.tolist()).startswith("the"), int(key) % 2)
        for step in range(4)
        for tokens_T, key in zip(
            batches.batch(step).tokens_BT, batches.batch(step).keys_B, strict=True
        )
    }
    assert seen == {(False, 0), (False, 1), (True, 0), (True, 1)}


def test_nothing_is_mirrored_unless_the_family_asks(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    batches = Batches(images, replace(SPEC, flip=False), tiny_tokenizer, 56, 0)
    assert not any((batches.batch(step).keys_B % 2).any() for step in range(10))


def test_the_pixels_in_memory_stay_as_they_were(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    before = images.pixels_NCHW.clone()
    batch = Batches(images, SPEC, tiny_tokenizer, 56, 0).batch(0)
    batch.pixels_BCHW.zero_()
    assert images.pixels_NCHW.equal(before)


def test_texts_are_as_wide_as_the_longest_of_the_batch(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    batch = Batches(images, replace(SPEC, max_tokens=200), tiny_tokenizer, 8, 0).batch(0)
    assert batch.tokens_BT.shape == (8, int(batch.lengths_B.max()))


@pytest.mark.parametrize(
    ("tokens", "pixels", "expected"),
    [
        ([[1], [2], [3]], "abc", [0, 1, 2]),
        ([[1], [1], [3]], "abc", [0, 0, 2]),
        ([[1], [2], [3]], "aba", [0, 1, 0]),
        ([[1], [2], [2], [3]], "abcb", [0, 1, 1, 1]),
        ([[1], [2], [3], [4], [1]], "abcdb", [0, 0, 2, 3, 0]),
        ([[1], [2], [3], [2]], "abca", [0, 0, 2, 0]),
        ([], "", []),
    ],
)
def test_groups_join_equal_texts_and_equal_pixels(
    tokens: list[list[int]], pixels: str, expected: list[int]
) -> None:
    assert groups(tokens, list(pixels)).tolist() == expected


def test_groups_are_the_components_of_the_graph_of_links() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        texts, pictures = rng.integers(0, 12, 16), rng.integers(0, 12, 16)
        found = groups([[int(text)] for text in texts], [str(picture) for picture in pictures])
        reach = (texts[:, None] == texts) | (pictures[:, None] == pictures)
        for _ in range(16):
            reach = reach @ reach
        assert found.tolist() == reach.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"batch_size": 57}, "give 1 to 56"),
        ({"batch_size": 0}, "give 1 to 56"),
        ({"world": 3}, "give a multiple of world"),
        ({"world": 2, "rank": 2}, "a rank from 0 below world"),
        ({"world": 0}, "give a multiple of world"),
        ({"seed": -1}, "seed=-1 is not in"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    numbers: dict[str, int], message: str, images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    with pytest.raises(BatchesRefused, match=message):
        Batches(images, SPEC, tiny_tokenizer, **({"batch_size": 8, "seed": 0} | numbers))


def test_images_of_another_size_are_refused(images: SplitImages, tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(BatchesRefused, match="give load_split side_px=64"):
        Batches(images, replace(SPEC, image_px=64), tiny_tokenizer, 8, 0)


def test_an_image_without_captions_is_refused_by_id(
    tiny_samples: list[Sample], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    silent = replace(tiny_samples[0], captions=())
    images = load_split(write_shards([silent], tmp_path / "shards"), "train", 32)
    with pytest.raises(BatchesRefused, match=f'"{silent.id}" has no caption'):
        Batches(images, SPEC, tiny_tokenizer, 1, 0)


def test_a_question_is_given_and_its_answer_learnt(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    spec = BatchSpec(image_px=32, max_tokens=96, texts="questions")
    batch = Batches(images, spec, tiny_tokenizer, 8, 0).batch(0)
    for tokens_T, given in zip(batch.tokens_BT, batch.prompts_B.tolist(), strict=True):
        prompt, answer = (
            tiny_tokenizer.decode(tokens_T[:given]),
            tiny_tokenizer.decode(tokens_T[given:]),
        )
        assert prompt.startswith("question: what ")
        assert prompt.endswith("? answer:")
        assert answer in {"red", "green", "blue", "yellow", "circle", "square", "triangle", "cross"}


def test_a_caption_gives_only_its_beginning(images: SplitImages, tiny_tokenizer: Tokenizer) -> None:
    assert Batches(images, SPEC, tiny_tokenizer, 8, 0).batch(0).prompts_B.tolist() == [1] * 8


def test_texts_alone_load_no_pixels(tiny_shards: Shards, tiny_tokenizer: Tokenizer) -> None:
    spec = BatchSpec(image_px=0, max_tokens=24, texts="documents")
    batch = Batches(load_split(tiny_shards, "train", 0), spec, tiny_tokenizer, 8, 0).batch(0)
    assert batch.pixels_BCHW.shape == (8, 3, 0, 0)
    assert batch.tokens_BT.shape[0] == 8


def test_half_of_the_second_captions_are_of_the_same_image_and_none_of_the_others_describes_it(
    images: SplitImages, tiny_tokenizer: Tokenizer
) -> None:
    spec = BatchSpec(image_px=32, max_tokens=16, second_caption=True)
    batches, same = Batches(images, spec, tiny_tokenizer, 56, 0), []
    captions = {row.key: row.sample.captions for row in images.rows}
    for step in range(40):
        batch = batches.batch(step)
        same += batch.second_same_B.tolist()
        for row, key in enumerate((batch.keys_B // 2).tolist()):
            second = tiny_tokenizer.decode(batch.second_BT[row])
            assert (second in captions[key]) == bool(batch.second_same_B[row])
    assert abs(sum(same) / len(same) - 0.5) < 0.02


def test_boxes_follow_their_image_through_scale_and_mirror(
    images: SplitImages, tiny_shards: Shards, tiny_tokenizer: Tokenizer
) -> None:
    spec = BatchSpec(image_px=64, max_tokens=16, boxes=True, flip=True)
    double = load_split(tiny_shards, "train", 64)
    batch = Batches(double, spec, tiny_tokenizer, 16, 0).batch(0)
    by_key = {row.key: row.sample.boxes[0] for row in images.rows}
    names = [tiny_tokenizer.decode(row) for row in batch.boxes.class_tokens_CT]
    assert set((batch.keys_B % 2).tolist()) == {0, 1}
    for row, key in enumerate(batch.keys_B.tolist()):
        box = by_key[key // 2]
        left, right = 2 * box.left_px, min(2 * box.right_px, 64)
        expected = [64 - right, 64 - left] if key % 2 else [left, right]
        assert batch.boxes.corners_BO4[row, 0, [0, 2]].tolist() == expected
        assert names[batch.boxes.classes_BO[row, 0]] == box.label


def test_novel_boxes_change_no_batch(tiny_samples: list[Sample], tiny_tokenizer, tmp_path) -> None:
    spec = BatchSpec(image_px=32, max_tokens=16, boxes=True)
    train = [sample for sample in tiny_samples if sample.split == "train"]
    novel = Box(label="zebra", left_px=0, top_px=0, right_px=9, bottom_px=9, novel=True)
    marked = [replace(sample, boxes=(*sample.boxes, novel)) for sample in train]
    without, beside = (
        Batches(
            load_split(write_shards(some, tmp_path / name), "train", 32), spec, tiny_tokenizer, 8, 0
        )
        for name, some in (("without", train), ("beside", marked))
    )
    one, other = without.batch(1), beside.batch(1)
    assert equal(one, other)
    assert all(
        torch.equal(*pair)
        for pair in zip(vars(one.boxes).values(), vars(other.boxes).values(), strict=True)
    )


def test_right_answers_are_targets_and_unknown_ones_are_none(
    images: SplitImages, tiny_tokenizer
) -> None:
    spec = BatchSpec(image_px=32, max_tokens=96, answers=("red", "circle"))
    batch = Batches(images, spec, tiny_tokenizer, 16, 0).batch(0)
    by_key = {row.key: row.sample.questions for row in images.rows}
    for row, key in enumerate((batch.keys_B // 2).tolist()):
        text = tiny_tokenizer.decode(batch.tokens_BT[row])
        right = next(each.answers for each in by_key[key] if each.text == text)
        assert batch.answers_BA[row].tolist() == [float("red" in right), float("circle" in right)]


def test_targets_count_all_ten_people_and_a_mirrored_image_has_mirrored_answers(
    images: SplitImages, tiny_tokenizer
) -> None:
    said = ("right", *["left"] * 6, *["far left"] * 2, "red")
    question = Question(text="what is left of the star ?", answers=said)
    rows = [replace(row, sample=replace(row.sample, questions=(question,))) for row in images.rows]
    known = ("left", "right", "red", "far left", "far right", "blue")
    spec = BatchSpec(image_px=32, max_tokens=96, answers=known, flip=True)
    batch = Batches(replace(images, rows=rows), spec, tiny_tokenizer, 16, 0).batch(0)
    plain, mirrored = [1.0, 0.3, 0.3, 0.6, 0.0, 0.0], [0.3, 1.0, 0.3, 0.0, 0.6, 0.0]
    seen = set()
    for row, key in enumerate(batch.keys_B.tolist()):
        turned = key % 2 == 1
        seen.add(turned)
        assert batch.answers_BA[row].tolist() == pytest.approx(mirrored if turned else plain)
        asked = tiny_tokenizer.decode(batch.tokens_BT[row])
        assert asked == f"what is {'right' if turned else 'left'} of the star ?"
    assert seen == {True, False}
