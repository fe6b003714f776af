from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from components.config import ConfigError
from components.data.expectations import check
from components.data.rules import Limits
from components.data.shards import ShardsDamaged, open_shards, write_shards
from components.records import Expectations, Failure, Sample, Shards

Samples = list[Sample]


def png(width: int, height: int, colour: str = "teal") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def first(samples: Samples, split: str) -> int:
    return next(index for index, sample in enumerate(samples) if sample.split == split)


def changed(samples: Samples, index: int, **changes: object) -> Samples:
    return [replace(s, **changes) if i == index else s for i, s in enumerate(samples)]


def captioned(caption: str) -> Callable[[Samples], Samples]:
    return lambda samples: changed(samples, 0, captions=(caption,))


def shown_in(split: str, **changes: object) -> Callable[[Samples], Samples]:
    """A copy of a training image's pixels, under another id, in that split."""

    def seed(samples: Samples) -> Samples:
        copy = replace(samples[first(samples, "train")], id="the copy", split=split, **changes)
        return [*samples, copy]

    return seed


def family_in_training(samples: Samples) -> Samples:
    leaked = samples[first(samples, "test_concept")]
    return changed(samples, first(samples, "train"), concept_family=leaked.concept_family)


def one_caption_for_all(samples: Samples) -> Samples:
    return [replace(sample, captions=("part of a set",)) for sample in samples]


FAILURES: dict[str, Callable[[Samples], Samples]] = {
    "image_readable": lambda samples: changed(samples, 0, image=b"8BPS"),
    "image_large_enough": lambda samples: changed(samples, 0, image=png(64, 15)),
    "label_given": lambda samples: changed(samples, 0, label=" "),
    "license_given": lambda samples: changed(samples, 0, license=""),
    "caption_given": lambda samples: changed(samples, 0, captions=()),
    "caption_not_empty": captioned(" ...\n"),
    "caption_bounded": captioned("x" * 1001),
    "caption_short_enough": lambda samples: [
        replace(sample, captions=("word " * 41,)) for sample in samples
    ],
    "no_pixel_leak": shown_in("test"),
    "no_family_leak": family_in_training,
    "needed_splits": lambda samples: [s for s in samples if s.split != "test"],
}
WARNINGS: dict[str, Callable[[Samples], Samples]] = {
    "image_no_strip": lambda samples: changed(samples, 0, image=png(64, 20)),
    "no_copies": lambda samples: [*samples, *(replace(s, id=f"{s.id} again") for s in samples)],
    "one_naming": shown_in("train", captions=("a man astronaut",)),
    "caption_long_enough": lambda samples: [replace(s, captions=(s.concept,)) for s in samples],
    "caption_plain": captioned("a red\x1b[31m circle"),
    "no_machine_tokens": lambda samples: [
        replace(s, captions=(f"{s.label} clock1230",)) for s in samples
    ],
    "no_boilerplate": captioned("Part of the Flat Icon Collection, see https://example.org"),
    "one_concept": one_caption_for_all,
    "says_something": one_caption_for_all,
}


@pytest.fixture
def tried(tiny_samples: Samples, tmp_path: Path) -> Callable[..., Expectations]:
    """`tried(seed)`: the made data set after `seed` has had its hand in it, written and checked."""

    def run(seed: Callable[[Samples], Samples], **limits: object) -> Expectations:
        shards = write_shards(seed(tiny_samples), tmp_path / "seeded")
        return check(shards, tmp_path / "page.html", Limits(**limits))

    return run


def named(failures: tuple[Failure, ...]) -> dict[str, Failure]:
    return {failure.expectation: failure for failure in failures}


def forged(shards: Shards, folder: Path, change: Callable[[list[str]], list[str]]) -> Shards:
    """Shards whose manifest was rewritten by somebody who also mended the marker."""
    folder.mkdir()
    for path in shards.path.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    lines = change((shards.path / "manifest.jsonl").read_text().splitlines(keepends=True))
    content = "".join(lines).encode()
    (folder / "manifest.jsonl").write_bytes(content)
    marker = json.loads((shards.path / "shards.json").read_text())
    marker["digest"] = hashlib.sha256(content).hexdigest()
    marker["files"]["manifest.jsonl"] = {"sha256": marker["digest"], "size_bytes": len(content)}
    (folder / "shards.json").write_text(json.dumps(marker))
    return open_shards(folder)


def test_a_clean_set_passes_without_a_warning(tiny_shards: Shards, tmp_path: Path) -> None:
    expectations = check(tiny_shards, tmp_path / "page.html")
    assert expectations.passed
    assert expectations.failures == expectations.warnings == ()
    assert expectations.checked == 22
    assert expectations.shards_digest == tiny_shards.digest


def test_every_rule_has_a_known_positive(tiny_shards: Shards, tmp_path: Path) -> None:
    check(tiny_shards, tmp_path / "page.html")
    results = json.loads((tmp_path / "page.json").read_text())["results"]
    tried = {r["expectation_config"]["meta"]["name"] for part in results.values() for r in part}
    forged_below = {"every_image_listed", "id_unique"}
    assert tried == FAILURES.keys() | WARNINGS.keys() | forged_below


@pytest.mark.parametrize("name", FAILURES)
def test_broken_data_fails_by_name(name: str, tried: Callable[..., Expectations]) -> None:
    expectations = tried(FAILURES[name])
    assert not expectations.passed
    assert named(expectations.failures).keys() == {name}


@pytest.mark.parametrize("name", WARNINGS)
def test_doubtful_data_warns_by_name_and_passes(
    name: str, tried: Callable[..., Expectations]
) -> None:
    expectations = tried(WARNINGS[name])
    assert expectations.passed
    assert name in named(expectations.warnings)


def test_a_failure_counts_and_names_its_images(
    tried: Callable[..., Expectations], tiny_samples: Samples
) -> None:
    failure = named(tried(FAILURES["no_pixel_leak"]).failures)["no_pixel_leak"]
    assert failure.count == 2
    assert failure.examples == (tiny_samples[first(tiny_samples, "train")].id, "the copy")
    assert "Broken by 2 of 97 images; 0.0% may." in failure.detail


def test_at_most_ten_images_are_named(tried: Callable[..., Expectations]) -> None:
    warning = named(tried(one_caption_for_all).warnings)["one_concept"]
    assert warning.count == 96
    assert len(warning.examples) == 10


def test_pixels_shared_by_val_and_test_are_no_leak(tried: Callable[..., Expectations]) -> None:
    def seed(samples: Samples) -> Samples:
        return [*samples, replace(samples[first(samples, "val")], id="the copy", split="test")]

    assert tried(seed).passed


@pytest.mark.parametrize(("share", "passed"), [(1 / 96, True), (1 / 97, False)])
def test_a_share_is_allowed_to_its_edge(
    share: float, passed: bool, tried: Callable[..., Expectations]
) -> None:
    assert tried(FAILURES["image_large_enough"], small_share=share).passed is passed


def test_limits_decide_what_is_small(tried: Callable[..., Expectations]) -> None:
    assert tried(lambda samples: samples, side_px_min=32).passed
    assert not tried(lambda samples: samples, side_px_min=33).passed


def test_an_id_that_stands_twice_in_a_forged_manifest_fails(
    tiny_shards: Shards, tmp_path: Path
) -> None:
    shards = forged(
        tiny_shards,
        tmp_path / "forged",
        lambda lines: [line.replace("red-circle-1", "red-circle-0") for line in lines],
    )
    failure = named(check(shards, tmp_path / "page.html").failures)["id_unique"]
    assert failure.count == 2


def test_a_row_that_a_forged_manifest_drops_is_missed(tiny_shards: Shards, tmp_path: Path) -> None:
    shards = forged(tiny_shards, tmp_path / "forged", lambda lines: lines[:-1])
    assert "every_image_listed" in named(check(shards, tmp_path / "page.html").failures)


def test_no_images_at_all_fail(tried: Callable[..., Expectations]) -> None:
    assert "needed_splits" in named(tried(lambda samples: []).failures)


def test_no_captions_at_all_fail(tried: Callable[..., Expectations]) -> None:
    expectations = tried(lambda samples: [replace(s, captions=()) for s in samples])
    assert named(expectations.failures)["caption_given"].count == 96


def test_a_damaged_manifest_is_an_error_and_leaves_no_page(
    tiny_shards: Shards, tmp_path: Path
) -> None:
    shards = replace(tiny_shards, digest="0" * 64)
    with pytest.raises(ShardsDamaged):
        check(shards, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_scripts_in_data_stand_escaped_in_the_page(tried: Callable[..., Expectations]) -> None:
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    expectations = tried(
        lambda samples: [
            replace(s, id=f"{attack}{s.id}", captions=(attack,), label=attack, license="")
            for s in samples
        ]
    )
    page = expectations.page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "default-src 'none'" in page


def test_the_folders_name_stands_escaped_in_the_page(tiny_samples: Samples, tmp_path: Path) -> None:
    shards = write_shards(tiny_samples, tmp_path / "<b>bold")
    page = check(shards, tmp_path / "page.html").page.read_text()
    assert "&lt;b&gt;bold" in page
    assert "<b>" not in page


def test_the_page_names_what_failed_before_what_holds(tried: Callable[..., Expectations]) -> None:
    page = tried(FAILURES["license_given"]).page.read_text()
    assert "<title>Failed: expectations of seeded</title>" in page
    assert page.index("license_given") < page.index("label_given")


def test_the_result_is_strict_json_without_a_caption(
    tried: Callable[..., Expectations], tmp_path: Path
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    tried(lambda samples: changed(samples, 0, image=b"", captions=("a secret\x1b name",)))
    text = (tmp_path / "page.json").read_text()
    assert json.loads(text, parse_constant=refuse)["limits"]["words_max"] == 40
    assert "secret" not in text


@pytest.mark.parametrize(
    "wrong",
    [{"small_share": 1.5}, {"copies_share": math.nan}, {"words_min": 0}, {"aspect_max": math.nan}],
)
def test_limits_that_cannot_hold_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)
