"""Asking a registered version about images from the command line: real stores, real tiny models, no servers."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from typer.testing import CliRunner

from components import abilities
from components.catalog import FAMILIES
from components.data.shards import write_shards
from components.data.transforms import decode, read_picture
from components.evaluation.plan import EvaluationPlan
from components.evaluation.writing import write
from components.training.checkpoints.checkpoint import Origin, load_model, save
from flows.cli import app
from flows.using.chosen_version import UnknownVersion, choose
from infra.settings import Settings
from registry.tracking import Tracking
from registry.versions import VersionMissing, Versions

CLIP, VIRTEX = "clip_tiny", "virtex_tiny"


@pytest.fixture(scope="module")
def registry(tmp_path_factory, build_tiny, tiny_tokenizer):
    """A home in which two versions of a CLIP and one of a VirTex are registered, as `diptych train` leaves it."""
    home = tmp_path_factory.mktemp("home")
    tracking = Tracking(f"sqlite:///{home}/mlflow.db", "diptych", home / "artifacts")
    versions = Versions(tracking.uri)
    for seed, (name, family) in enumerate([(CLIP, "clip"), (CLIP, "clip"), (VIRTEX, "virtex")]):
        checkpoint = saved(
            home / "runs" / str(seed), family, build_tiny(family, seed), tiny_tokenizer
        )
        run_id = tracking.open_run(f"key-{seed}", "night")
        versions.register(run_id, name, checkpoint, key=f"key-{seed}", example=png("red"))
    return home


@pytest.fixture
def home(registry, tmp_path):
    before = os.environ.copy()  # a command makes the process's environment its own
    os.environ["DIPTYCH_HOME"] = str(registry)
    yield registry
    os.environ.clear()
    os.environ.update(before)


def saved(folder, family, model, tokenizer):
    origin = Origin(family=family, config=model.config.to_dict(), seed=0, shards_digest="made")
    return save(folder, model, tokenizer=tokenizer, origin=origin, step=0)


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory, build_tiny, tiny_tokenizer):
    """`checkpoint_of("vild")`: the folder of an untrained tiny checkpoint."""
    return lambda family: str(
        saved(tmp_path_factory.mktemp(family), family, build_tiny(family), tiny_tokenizer).path
    )


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        (folder / f"{colour}.png").write_bytes(png(colour))
    return folder


def png(colour, size=(40, 30), mode="RGB", kind="PNG", **options):
    buffer = BytesIO()
    Image.new(mode, size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


def diptych(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def rows_of(result):
    assert result.exit_code in (0, 1), result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def assert_refused(result, *said):
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    for word in said:
        assert word in result.stderr, result.stderr


# What a version can be called


def test_a_version_is_its_number_its_alias_or_the_newest_where_there_is_no_champion(home):
    settings = Settings.read()
    assert choose(CLIP, settings).title == f"{CLIP} version 2"
    assert choose(f"{CLIP}/1", settings).title == f"{CLIP} version 1"
    with pytest.raises(
        UnknownVersion, match=f'no "champion". Its.*{CLIP}/1, {CLIP}/2.*diptych promote'
    ):
        choose(f"{CLIP}@champion", settings)
    versions = Versions(f"sqlite:///{home}/mlflow.db")
    versions.point(CLIP, "champion", 1)
    try:
        assert choose(CLIP, settings).title == f"{CLIP} version 1"
        assert choose(f"{CLIP}@champion", settings).title == f"{CLIP} version 1"
        with pytest.raises(UnknownVersion, match='Did you mean "champion"'):
            choose(f"{CLIP}@champoin", settings)
    finally:
        MlflowClient(versions.uri, registry_uri=versions.uri).delete_registered_model_alias(
            CLIP, "champion"
        )


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("clip_tinny", [f'Did you mean "{CLIP}"', VIRTEX]),
        (f"{CLIP}/7", [f"Did you mean {CLIP}/2", f"{CLIP}/1"]),
        (f"{CLIP}/0", [f"Did you mean {CLIP}/1"]),
        (f"{CLIP}@best", ['no "best"', f"{CLIP}/2"]),
        ("", ["EXPERIMENT@champion"]),
        ("no/such/folder", ["folder of a checkpoint"]),
        ("../../etc/passwd", ["folder of a checkpoint"]),
        ("x' OR 1=1 --", ["EXPERIMENT/3"]),
        ("red \x1b[31m", ["No version"]),
        ("nul\x00", ["No version"]),
        ("a" * 5000, ["No version"]),
    ],
)
def test_an_unknown_version_is_refused_with_the_nearest(home, images, version, said):
    result = diptych("caption", version, images)
    assert_refused(result, *said)
    assert not re.search("[\x00-\x09\x0b-\x1f]", result.stderr), "it would steer the terminal"
    assert len(result.stderr) < 1000


def test_where_nothing_was_registered_a_version_is_refused_and_no_store_is_made(
    home, images, tmp_path
):
    os.environ["DIPTYCH_HOME"] = str(tmp_path / "fresh")
    assert_refused(diptych("caption", CLIP, images), "nothing is registered", "diptych train")
    assert not (tmp_path / "fresh").exists()


def test_the_folder_of_a_checkpoint_is_a_version_and_another_folder_is_told(
    home, images, checkpoint_of
):
    rows = rows_of(diptych("caption", checkpoint_of("virtex"), images, "--json"))
    assert len(rows) == 3
    assert_refused(diptych("caption", images, images), "MANIFEST.json")


def test_what_a_server_stored_is_read_from_its_folder_and_not_from_outside(home, tmp_path):
    uri = f"sqlite:///{home}/mlflow.db"
    client = MlflowClient(uri, registry_uri=uri)
    direct = client.get_model_version(CLIP, "1")
    inside = Path(direct.source.removeprefix("file://")).relative_to(home / "artifacts")
    client.create_registered_model("served")
    for source in (f"mlflow-artifacts:/{inside}", "mlflow-artifacts:/../../../etc"):
        client.create_model_version("served", source=source, tags=dict(direct.tags))
    versions = Versions(uri, artifacts=home / "artifacts")
    assert versions.numbers("served") == [1, 2]
    assert versions.models() == [CLIP, "served", VIRTEX]
    fetched = versions.checkpoint("served", 1, tmp_path)
    assert (fetched / "MANIFEST.json").is_file()
    with pytest.raises(VersionMissing, match="leads out of"):
        versions.checkpoint("served", 2, tmp_path)
    client.delete_registered_model("served")


# What is asked


def test_a_caption_for_each_image_as_a_table_and_as_json_lines(home, images):
    rows = rows_of(diptych("caption", VIRTEX, images, "--json"))
    assert [Path(row["image"]).name for row in rows] == ["blue.png", "green.png", "red.png"]
    assert all(row.keys() == {"image", "caption"} for row in rows)
    table = diptych("caption", VIRTEX, images).stdout
    assert "red.png" in table
    assert "caption" in table


def test_the_decoder_and_its_limit_can_be_chosen(home, images):
    # Untrained, the likeliest caption is none at all; drawn at random, words come until the limit.
    drawn = ("caption", VIRTEX, images / "red.png", "--json", "--decoder", "nucleus")
    [likeliest] = rows_of(diptych("caption", VIRTEX, images / "red.png", "--json"))
    [long], [short] = rows_of(diptych(*drawn)), rows_of(diptych(*drawn, "--max-tokens", "3"))
    assert likeliest["caption"] != long["caption"]
    assert len(short["caption"]) < len(long["caption"])
    assert_refused(
        diptych("caption", VIRTEX, images, "--decoder", "greedi"), 'Did you mean "greedy"'
    )


def test_a_version_writes_as_its_experiment_measured_it(home, images, build_tiny, tiny_tokenizer):
    plan = EvaluationPlan(decoder="nucleus", max_tokens=9, temperature=3.0, prompt="red", seed=5)
    folder = home / "runs" / "drawn"
    checkpoint = saved(folder, "virtex", build_tiny("virtex"), tiny_tokenizer)
    tracking = Tracking(f"sqlite:///{home}/mlflow.db", "diptych", home / "artifacts")
    Versions(tracking.uri).register(
        tracking.open_run("drawn", "night"), "virtex_drawn", checkpoint, key="drawn",
        example=png("red"), decoding=plan.decoding(), prompts=["{}", "one {}"],
    )  # fmt: skip
    chosen = choose("virtex_drawn", Settings.read())
    assert chosen.plan().decoding() == plan.decoding()
    assert chosen.plan().prompts == ("{}", "one {}")
    # What a person names goes before; another decoder has other options, and the same prompt.
    assert chosen.plan(max_tokens=4) == replace(chosen.plan(), max_tokens=4)
    assert chosen.plan("nucleus") == chosen.plan()
    beam = chosen.plan("beam")
    assert (beam.decoder, beam.temperature, beam.prompt) == ("beam", None, "red")

    model, tokenizer, _ = load_model(checkpoint.path)
    pixels = torch.from_numpy(decode(png("red"), model.batch_spec().image_px))[None]
    [row] = rows_of(diptych("caption", "virtex_drawn", images / "red.png", "--json"))
    assert row["caption"] == write(model, tokenizer, pixels, plan.decoding())[0]
    assert row["caption"] != write(model, tokenizer, pixels, EvaluationPlan().decoding())[0]


def test_a_label_is_the_best_of_all_scores(home, images):
    labels = "a red circle, blue square,blue square,, green cross"
    rows = rows_of(diptych("classify", CLIP, images, "--labels", labels, "--json"))
    for row in rows:
        assert row["scores"].keys() == {"a red circle", "blue square", "green cross"}
        assert list(row["scores"].values()) == sorted(row["scores"].values(), reverse=True)
        assert row["scores"][row["label"]] == row["score"] == max(row["scores"].values())
        assert all(-1 <= score <= 1 for score in row["scores"].values())
    assert len(rows) == 3


def test_a_family_that_matches_without_embedding_classifies_too(home, images, checkpoint_of):
    version = checkpoint_of("simvlm")
    rows = rows_of(diptych("classify", version, images, "--labels", "red,blue", "--json"))
    assert [row["scores"].keys() == {"red", "blue"} for row in rows] == [True] * 3


def test_a_question_stands_last_after_any_number_of_images(home, images, checkpoint_of):
    question = "red ?"
    files = [images / "red.png", images / "blue.png"]
    rows = rows_of(diptych("ask", checkpoint_of("simvlm"), *files, question, "--json"))
    assert [Path(row["image"]).name for row in rows] == ["red.png", "blue.png"]
    assert all(row["question"] == question and isinstance(row["answer"], str) for row in rows)
    assert_refused(diptych("ask", checkpoint_of("simvlm"), *files, " "), "question is empty")


def test_boxes_are_told_and_drawn(home, images, checkpoint_of, tmp_path):
    version, out = checkpoint_of("vild"), tmp_path / "drawn.png"
    command = (
        "detect",
        version,
        images / "red.png",
        "--labels",
        "red circle,dog",
        "--at-least",
        "0",
    )
    rows = rows_of(diptych(*command, "--out", out, "--json"))
    for each in rows[0]["detections"]:
        assert each["label"] in {"red circle", "dog"}
        assert 0 <= each["score"] <= 1
        assert len(each["box"]) == 4
    assert read_picture(out.read_bytes()).size == (512, 512)
    taught = rows_of(diptych("detect", version, images, "--out", tmp_path / "folder", "--json"))
    assert len(taught) == 3
    drawn = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert drawn == ["blue.png", "green.png", "red.png"]


def test_a_place_where_pictures_cannot_go_is_refused_before_anything_is_drawn(
    home, images, checkpoint_of, tmp_path
):
    version, red = checkpoint_of("vild"), images / "red.png"
    (tmp_path / "other").mkdir()
    shutil.copy(red, tmp_path / "other")
    before = red.read_bytes()
    for out, asked, said in [
        (tmp_path / "x.jpg", [red], "call it x.png"),
        (red, [red], "overwrite"),
        (images, [red], "overwrite"),
        (red, [images], "give a folder"),
        (tmp_path / "new", [red, tmp_path / "other"], "Two images"),
    ]:
        assert_refused(diptych("detect", version, *asked, "--labels", "dog", "--out", out), said)
    assert red.read_bytes() == before
    assert not (tmp_path / "new").exists()
    assert_refused(diptych("detect", version, red, "--at-least", "2"), "0 to 1")


def test_the_image_that_fits_best_comes_first(home, tiny_samples, monkeypatch, tmp_path):
    write_shards(tiny_samples, tmp_path / "data" / "shards" / "shapes_l0")
    settings = replace(Settings.read(), repo=tmp_path)
    monkeypatch.setattr(Settings, "read", classmethod(lambda cls: settings))
    rows = rows_of(
        diptych("search", CLIP, "a red circle", "--in", "shapes_l0", "--json", "--top", 96)
    )
    assert [row["rank"] for row in rows] == list(range(1, 97))
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    held_out = rows_of(diptych("search", CLIP, "a cross", "--in", "shapes_l0/test", "--json"))
    assert {row["split"] for row in held_out} == {"test"}
    assert len(held_out) == 10
    assert_refused(diptych("search", CLIP, "x", "--in", "shapes_l0/tset"), 'Did you mean "test"')
    assert_refused(diptych("search", CLIP, "x", "--in", "shapes_0"), 'Did you mean "shapes_l0"')
    assert_refused(diptych("search", CLIP, "", "--in", "shapes_l0"), "text is empty")
    assert_refused(diptych("search", CLIP, "x", "--in", "shapes_l1"), "diptych prepare shapes_l1")
    assert_refused(
        diptych("search", VIRTEX, "x", "--in", "shapes_l0"), "virtex, which cannot", "clip"
    )


@pytest.mark.parametrize(
    ("words", "ability"),
    [
        (["caption", CLIP, "IMAGES"], abilities.Captions),
        (["classify", VIRTEX, "IMAGES", "--labels", "a,b"], abilities.Embeds),
        (["ask", CLIP, "IMAGES", "what ?"], abilities.Answers),
        (["detect", CLIP, "IMAGES", "--labels", "a"], abilities.Detects),
    ],
)
def test_a_family_that_cannot_is_refused_by_name_with_those_that_can(home, images, words, ability):
    family = "clip" if CLIP in words else "virtex"
    result = diptych(*(str(images) if word == "IMAGES" else word for word in words))
    able = [name for name, each in FAMILIES.items() if issubclass(each, ability)]
    assert_refused(result, f"of the family {family}, which cannot", *able)


@pytest.mark.parametrize("labels", ["", " , ,"])
def test_labels_that_name_nothing_are_refused(home, images, labels):
    assert_refused(diptych("classify", CLIP, images, "--labels", labels), "cat,dog")


# Which images


def test_files_folders_and_patterns_are_read_each_image_once(home, images):
    (images / "deep").mkdir()
    (images / "deep" / "grey.JPG").write_bytes(png("grey", kind="JPEG"))
    (images / "notes.txt").write_text("no image")
    red = images / "red.png"

    def names(*asked):
        rows = rows_of(diptych("caption", VIRTEX, *asked, "--json"))
        return [Path(row["image"]).name for row in rows]

    assert names(red, images, red) == ["red.png", "blue.png", "green.png"]
    assert names(images / "*e*.png") == ["blue.png", "green.png", "red.png"]
    assert names(f"{images}/**/*.[jJ]*") == ["grey.JPG"]


def test_images_that_cannot_be_read_are_told_and_the_others_answered(home, images, tmp_path):
    (images / "half.png").write_bytes(png("red")[:50])
    (images / "photo.webp").write_bytes(b"<html>")
    os.mkfifo(images / "pipe.png")
    (tmp_path / "empty").mkdir()
    result = diptych(
        *("caption", VIRTEX, images, images / "pipe.png", images / "absent.png"),
        *(tmp_path / "empty", "nul\x00.png", "*.nothing", "--json"),
    )
    assert result.exit_code == 1
    assert len(rows_of(result)) == 3
    told = result.stderr.splitlines()
    for name in ("half.png", "photo.webp", "pipe.png", "absent.png", "empty", "nul�", "*.nothing"):
        assert sum(name in line for line in told) == 1, (name, told)
    assert len(told) == 7


def test_every_kind_of_picture_is_read(home, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held sideways
    kinds = {
        "grey.png": png(128, mode="L"),
        "sixteen_bit.png": png(40000, mode="I;16"),
        "clear.png": png((255, 0, 0, 0), mode="RGBA"),
        "palette.png": png(3, mode="P"),
        "dot.png": png("red", size=(1, 1)),
        "strip.png": png("red", size=(500, 1)),
        "cmyk.jpg": png((0, 255, 255, 0), mode="CMYK", kind="JPEG"),
        "turned.jpg": png("red", kind="JPEG", exif=turned),
        "a.webp": png("red", kind="WEBP"),
    }
    for name, encoded in kinds.items():
        (tmp_path / name).write_bytes(encoded)
    result = diptych("caption", VIRTEX, tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    assert sorted(Path(row["image"]).name for row in rows_of(result)) == sorted(kinds)


def test_a_sideways_photograph_is_answered_as_the_upright_one(home, tmp_path, checkpoint_of):
    halves = Image.new("RGB", (64, 64), "red")
    halves.paste("blue", (0, 0, 64, 32))
    sideways = halves.transpose(Image.Transpose.ROTATE_90)
    turn = Image.Exif()
    turn[0x0112] = 6
    halves.save(tmp_path / "upright.png")
    sideways.save(tmp_path / "sideways.png")
    sideways.save(tmp_path / "tagged.png", exif=turn)
    rows = rows_of(diptych("classify", CLIP, tmp_path, "--labels", "red,blue", "--json"))
    scores = {Path(row["image"]).stem: row["scores"] for row in rows}
    assert scores["tagged"] == scores["upright"] != scores["sideways"]


def test_more_images_than_a_block_keep_their_order_and_answers(home, images):
    for number in range(70):
        (images / f"{number:02d}.png").write_bytes(png((number * 3, 255 - number * 3, 9)))
    rows = rows_of(diptych("classify", CLIP, images, "--labels", "red,blue", "--json"))
    assert len(rows) == 73
    alone = rows_of(diptych("classify", CLIP, images / "65.png", "--labels", "red,blue", "--json"))
    of_many = next(row for row in rows if row["image"].endswith("65.png"))
    assert of_many["scores"] == pytest.approx(alone[0]["scores"], abs=1e-5)


def test_a_file_name_cannot_steer_the_terminal(home, tmp_path):
    (tmp_path / "red\x1b[31m\n[bold].png").write_bytes(png("red"))
    (tmp_path / "bad\x1b[2J.png").write_bytes(b"no image")
    result = diptych("caption", VIRTEX, tmp_path)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "[bold].png" in result.stdout.replace("\n", "").replace(" ", "")
    [row] = rows_of(diptych("caption", VIRTEX, tmp_path, "--json"))
    assert row["image"].endswith("red\x1b[31m\n[bold].png")


def test_families_as_json_name_each_with_abilities_and_sizes(home):
    shown = json.loads(diptych("families", "--json").stdout)
    assert [row["family"] for row in shown] == list(FAMILIES)
    for row in shown:
        assert "arXiv:" in row["paper"]
        assert row["abilities"]
        assert row["presets"] == ["tiny", "small", "paper"]
        assert row["parameters"]["tiny"] is not None
        if not row["parts"]:
            sizes = [row["parameters"][preset] for preset in row["presets"]]
            assert sizes == sorted(sizes)
    clip = next(row for row in shown if row["family"] == "clip")
    assert clip["abilities"] == ["learns", "embeds"]


# As a person meets it


def test_a_bar_is_drawn_on_stderr_of_a_terminal_and_stdout_stays_json(home, images):
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "caption", VIRTEX, str(images), "--json"],
        stdout=subprocess.PIPE,
        stderr=end,
        env=environment,
        text=True,
    ) as process:
        os.close(end)
        drawing = ThreadPoolExecutor(1).submit(shown_on, terminal)
        out, _ = process.communicate(timeout=300)
    drawn = drawing.result(30)
    os.close(terminal)
    assert process.returncode == 0
    assert [json.loads(line).keys() for line in out.splitlines()] == [{"image", "caption"}] * 3
    assert f"{VIRTEX} version 1" in drawn
    assert "3/3" in drawn


def shown_on(terminal: int) -> str:
    """All that is drawn until its last writer is gone: one that nobody reads makes its writer wait."""
    drawn = b""
    with contextlib.suppress(OSError):  # how a terminal says that its other end is closed
        while found := os.read(terminal, 1 << 16):
            drawn += found
    return drawn.decode()


def test_help_loads_nothing_heavy():
    words = ["-X", "importtime", "-m", "flows.cli", "--help"]
    done = subprocess.run([sys.executable, *words], capture_output=True, check=True, text=True)
    loaded = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    heavy = {"torch", "numpy", "PIL", "prefect", "mlflow", "ray", "transformers", "sqlalchemy"}
    assert not heavy & {name.partition(".")[0] for name in loaded}
    assert len(loaded) < 600, "0.4 s were 369"
    for command in ("caption", "classify", "ask", "detect", "search", "families"):
        assert f" {command} " in done.stdout
