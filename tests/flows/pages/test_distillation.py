"""The students' page: four rows under one protocol, each made once, and none beside rows of other settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.experiment import read_experiment
from flows.pages import distillation
from flows.pages.distillation import KINDS, Row, kinds_of, made, page, variant
from flows.pages.seeded_runs import whole
from flows.runs.retention import teachers_plan

TEACHER = """
family: clip
source: shapes_l0
model: {preset: tiny, image_px: 32, vision_widths: [8, 16], max_tokens: 16, text_width: 16, text_layers: 2, text_heads: 2,
        embed_width: 16}
training: {steps: 2, batch_size: 8, warmup_steps: 0, vocab_size: 300}
gate: [{metric: image_to_text_r1, at_least: 0.0}]
"""
STUDENT = TEACHER.replace("text_layers: 2", "text_layers: 1") + (
    "distill: {teacher: stage:clip_tiny, terms: {affinity: 1.0}, inherit: true}\n"
)


@pytest.fixture
def home(checkout, tmp_path, monkeypatch):
    """A checkout in which teacher and student of shipped names are two steps long."""
    monkeypatch.setattr(distillation, "PAGE", tmp_path / "distillation.md")
    (tmp_path / "clip_tiny.yaml").write_text(TEACHER)
    (tmp_path / "clip_distilled_tiny.yaml").write_text(STUDENT)
    return checkout


def test_the_same_student_has_three_rows_beside_one_teacher_and_none_is_made_twice(home) -> None:
    rows = {kind: made("clip_distilled_tiny", kind, 0) for kind in KINDS}
    trained = sorted(folder.name for folder in home.runs.iterdir())
    assert len(trained) == 4
    students = [rows[kind] for kind in KINDS[1:]]
    assert {row.training for row in students} == {"2 × 8"}
    assert len({(row.parameters, row.macs) for row in students}) == 1
    assert rows["teacher"].parameters > students[0].parameters
    assert {row.count for row in rows.values()} == {students[0].count}
    assert {kind: made("clip_distilled_tiny", kind, 0) for kind in KINDS} == rows
    assert sorted(folder.name for folder in home.runs.iterdir()) == trained


def test_a_variant_has_just_what_its_name_says_of_the_teacher(home) -> None:
    student = whole("clip_distilled_tiny")
    assert variant(student, "scratch").distill is None
    inherited = variant(student, "inherited").distill
    assert (inherited.compared, inherited.written, inherited.inherit) == ({}, 0.0, True)
    assert inherited.teacher == student.distill.teacher
    assert variant(student, "distilled") == student
    assert replace(variant(student, "inherited"), distill=None) == variant(student, "scratch")


def test_weights_are_inherited_within_a_family_alone(home, tmp_path) -> None:
    other = STUDENT.replace("stage:clip_tiny", "stage:align_tiny").replace("inherit: true", "")
    gate = "gate: [{metric: image_to_text_r1, at_least: 0.0}]\n"
    align = f"family: align\nsource: shapes_l0\nmodel: {{preset: tiny}}\n{gate}"
    (tmp_path / "align_tiny.yaml").write_text(align)
    (tmp_path / "clip_distilled_tiny.yaml").write_text(other)
    assert read_experiment("clip_distilled_tiny").distill.teacher.name == "align_tiny"
    assert "inherited" not in kinds_of("clip_distilled_tiny")


def test_rows_of_settings_that_were_changed_leave_the_page(home, tmp_path) -> None:
    for kind in ("scratch", "distilled"):
        made("clip_distilled_tiny", kind, 0)
    distillation._write([])
    assert (tmp_path / "distillation.md").read_text().count("`clip_distilled_tiny`") == 2
    changed = STUDENT.replace("affinity: 1.0", "affinity: 0.5")
    (tmp_path / "clip_distilled_tiny.yaml").write_text(changed)
    made("clip_distilled_tiny", "distilled", 0)
    distillation._write([])
    text = (tmp_path / "distillation.md").read_text()
    assert text.count("`clip_distilled_tiny`") == 1
    assert "student distilled" in text


def test_a_row_that_fails_is_told_last_and_keeps_no_other_from_the_page(
    home, tmp_path, monkeypatch
) -> None:
    original = distillation.variant

    def variant_or_not(student, kind):
        if kind == "inherited":
            raise RuntimeError("no such student")
        return original(student, kind)

    monkeypatch.setattr(distillation, "SEEDS", (0,))
    # Workers are forked, and find it so.
    monkeypatch.setattr(distillation, "variant", variant_or_not)
    with pytest.raises(RuntimeError, match="no such student"):
        distillation.main(["clip_distilled_tiny"])
    text = (tmp_path / "distillation.md").read_text()
    assert [said in text for said in distillation.SAID.values()] == [True, True, False, True]


def _row(kind: str, seed: int, value: float, **changed) -> Row:
    row = Row(
        experiment="clip_distilled_tiny", asked="a", kind=kind, family="clip", teacher="clip_tiny", seed=seed,
        metric="image_to_text_r1", value=value, blind=0.02, split="test", count=160, training="150 × 32", cpu_s=3.0,
        parameters=160_000, macs=1_700_000, latency_ms=0.5,
    )  # fmt: skip
    return replace(row, **changed)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_retention_is_the_mean_over_the_teachers_and_gains_are_paired_by_seed() -> None:
    rows = [
        _row("teacher", 0, 0.8, training="", cpu_s=0.0),
        *(_row("scratch", seed, value) for seed, value in enumerate((0.4, 0.6, 0.5))),
        *(_row("distilled", seed, value) for seed, value in enumerate((0.7, 0.5, 0.6))),
    ]
    _, _, teacher, scratch, distilled = page(rows).splitlines()
    assert _cells(teacher)[6:] == [
        "n/a", "n/a", "image_to_text_r1", "**0.800**", "0.020", "1", "100%", "n/a",
    ]  # fmt: skip
    assert _cells(scratch)[9:] == ["**0.500 ± 0.082**", "0.020", "3", "62%", "n/a"]
    assert _cells(distilled)[2:9] == [
        "student distilled", "0.16 M", "1.7 M", "0.5", "150 × 32", "3", "image_to_text_r1",
    ]  # fmt: skip
    assert _cells(distilled)[9:] == ["**0.600 ± 0.082**", "0.020", "3", "75%", "+0.100 (2 of 3)"]


def test_without_a_teachers_number_there_is_no_retention() -> None:
    *_, line = page([_row("distilled", 0, 0.5, blind=None)]).splitlines()
    assert _cells(line)[10:] == ["n/a", "1", "n/a", "n/a"]


def test_a_teacher_is_measured_as_it_writes_whatever_its_students_decoder_reads() -> None:
    plan = teachers_plan(read_experiment("virtex_from_magic_tiny"))
    student = read_experiment("virtex_from_magic_tiny").evaluation
    assert (student.decoder, student.beams) == ("beam", 5)
    assert (plan.decoder, plan.beta, plan.beams) == ("magic", 1.0, None)
    assert (plan.split, plan.also) == (student.split, student.also)
