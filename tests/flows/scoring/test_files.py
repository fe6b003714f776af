"""`diptych score` and `diptych metrics certify` through the real command line, on the golden corpus and on bad files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.metrics.frequencies import document_frequencies
from components.metrics.scorecard import MEASURES
from flows.cli import app

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "components" / "metrics" / "golden" / "captions.json"
SHOWN = {
    "BLEU-1": "Bleu_1", "BLEU-2": "Bleu_2", "BLEU-3": "Bleu_3", "BLEU-4": "Bleu_4",
    "ROUGE-L": "ROUGE_L", "CIDEr": "CIDEr", "CIDEr-D": "CIDEr_D", "METEOR": "METEOR",
}  # fmt: skip
PLAIN = "bleu,rouge_l,rouge_n,cider,exact_match"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text("utf-8"))


@pytest.fixture(scope="module")
def files(golden, tmp_path_factory):
    """The golden corpus as COCO files, images in another order than the corpus'."""
    folder = tmp_path_factory.mktemp("golden")
    images = golden["images"][::-1]
    results = [{"image_id": image["id"], "caption": image["cand"]} for image in images]
    annotations = [
        {"id": 10 * image["id"] + number, "image_id": image["id"], "caption": text}
        for image in images
        for number, text in enumerate(image["refs"])
    ]
    whole = {"images": [{"id": image["id"]} for image in images], "annotations": annotations}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "annotations.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture(scope="module")
def home(meteor_data, tmp_path_factory):
    before = os.environ.copy()  # a command makes the process's environment its own
    os.environ["DIPTYCH_HOME"] = str(tmp_path_factory.mktemp("home") / "home")
    Path(os.environ["DIPTYCH_HOME"]).mkdir()
    (Path(os.environ["DIPTYCH_HOME"]) / "metrics").symlink_to(meteor_data)
    yield Path(os.environ["DIPTYCH_HOME"])
    os.environ.clear()
    os.environ.update(before)


def diptych(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def score(folder, *words, candidates="results.json", references="annotations.json"):
    pair = ("--candidates", folder / candidates, "--references", folder / references)
    return diptych("score", *pair, *words)


def write(folder, candidates, references):
    (folder / "results.json").write_text(json.dumps(candidates))
    (folder / "annotations.json").write_text(json.dumps(references))


def assert_refused(result, *said):
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert len(result.stderr) < 1500, "a wall of text is no help"
    for word in said:
        assert str(word) in result.stderr, result.stderr


def test_the_golden_corpus_prints_the_references_numbers(files, golden, meteor_data, tmp_path):
    out = tmp_path / "scores.json"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "metrics").symlink_to(meteor_data)
    words = ("--candidates", files / "results.json", "--references", files / "annotations.json")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "score", *map(str, words), "--json", str(out)],
        cwd=ROOT,
        env={**os.environ, "DIPTYCH_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = {
        cells[0]: cells[1] for line in done.stdout.splitlines() if len(cells := line.split()) > 2
    }
    saved = json.loads(out.read_text())
    assert saved["n"] == len(golden["images"]) and len(saved["per_image"]) == saved["n"]
    for shown, key in SHOWN.items():
        assert printed[shown] == f"{golden['corpus'][key]:.6f}"
        assert saved["corpus"][shown] == pytest.approx(golden["corpus"][key], abs=1e-9)
        certificate = saved["certificates"][shown]
        assert certificate["passed"] and certificate["largest_deviation"] < 1e-9
        assert certificate["id"] in done.stdout
        low, high = saved["intervals"][shown]
        assert low < saved["corpus"][shown] < high
    for image in golden["images"]:
        ours = saved["per_image"][str(image["id"])]
        assert ours["CIDEr-D"] == pytest.approx(image["CIDEr_D"], abs=1e-9)
        assert ours["BLEU-2"] == pytest.approx(image["Bleu"][1], abs=1e-9)
    assert saved["coverage"]["share"] == 1.0
    frequencies = saved["document_frequencies"]
    assert (frequencies["mode"], frequencies["images"]) == ("corpus", saved["n"])


def test_seed_and_processes_decide_what_they_say(files, home, tmp_path):
    outs = []
    for name, words in {
        "one": ("--seed", "5"),
        "two": ("--seed", "5", "--processes", "2"),
        "other": ("--seed", "6"),
    }.items():
        out = tmp_path / name
        done = score(files, "--metrics", PLAIN, "--json", out, "--resamples", "50", *words)
        assert done.exit_code == 0, done.output
        outs.append(json.loads(out.read_text()))
    one, two, other = outs
    assert one == two
    assert one["corpus"] == other["corpus"] and one["intervals"] != other["intervals"]


def test_chosen_metrics_alone_are_printed_with_a_line_an_image(files, home):
    done = score(files, "--metrics", "CIDEr-D,bleu-4", "--per-image", "--resamples", "0")
    assert done.exit_code == 0, done.output
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert lines[0] == ["image_id", "BLEU-4", "CIDEr-D"]
    assert [line[0] for line in lines[1:4]] == ["0", "1", "2"] and len(lines) == 143
    assert "ROUGE" not in done.stdout and "interval" not in done.stdout


def test_saved_frequencies_score_other_images(files, home, golden, tmp_path):
    even = [image for image in golden["images"] if image["id"] % 2 == 0]
    odd = [image for image in golden["images"] if image["id"] % 2]
    for name, images in {"even": even, "odd": odd}.items():
        (tmp_path / name).mkdir()
        candidates = [{"image_id": image["id"], "caption": image["cand"]} for image in images]
        lines = [{"image_id": image["id"], "captions": image["refs"]} for image in images]
        write(tmp_path / name, candidates, lines)
    saved, out = tmp_path / "frequencies", tmp_path / "out.json"
    ask = ("--metrics", "cider-d", "--resamples", "0")
    assert score(tmp_path / "even", *ask, "--save-frequencies", saved).exit_code == 0
    assert score(tmp_path / "odd", *ask, "--frequencies", saved, "--json", out).exit_code == 0
    found = json.loads(out.read_text())
    expected = golden["variants"]["cider_d_external_df"]["corpus"]
    assert found["corpus"]["CIDEr-D"] == pytest.approx(expected, abs=1e-9)
    assert found["document_frequencies"]["mode"] == "saved"
    assert found["document_frequencies"]["images"] == len(even)
    assert_refused(score(tmp_path / "odd", *ask, "--frequencies", out), out, "no saved")


def test_lines_and_csv_score_as_coco_does(home, tmp_path):
    write(tmp_path, [{"image_id": 1, "caption": "a cat"}, {"image_id": 2, "caption": ""}], [])
    (tmp_path / "lines").write_text('{"id": 1, "caption": "a cat"}\n{"id": 2, "caption": "b"}\n')
    (tmp_path / "csv").write_text("image_id,caption\n1,a cat\n2,b\n")
    shown = [
        score(tmp_path, "--metrics", PLAIN, references=name).stdout for name in ("lines", "csv")
    ]
    assert shown[0] == shown[1] and "BLEU-1" in shown[0]


def test_what_says_nothing_scores_nothing_and_nothing_is_nan(home, tmp_path):
    empty = [{"image_id": 1, "caption": ""}, {"image_id": 2, "caption": " ?!. \u3000"}]
    write(tmp_path, empty, [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": ""}])
    out = tmp_path / "out.json"
    done = score(tmp_path, "--metrics", PLAIN, "--json", out)
    assert done.exit_code == 0, done.output
    assert "nan" not in done.stdout.lower() and "NaN" not in out.read_text()
    saved = json.loads(out.read_text())
    assert saved["per_image"]["1"]["BLEU-1"] == saved["corpus"]["CIDEr"] == 0.0


def test_punctuation_that_the_reference_keeps_is_a_word(home, tmp_path):
    kept = ["?!", "!!", "#", "&"]
    candidates = [{"image_id": number, "caption": text} for number, text in enumerate(kept)]
    write(tmp_path, candidates, candidates)
    out = tmp_path / "out.json"
    assert score(tmp_path, "--metrics", PLAIN, "--resamples", "0", "--json", out).exit_code == 0
    for row in json.loads(out.read_text())["per_image"].values():
        assert row["ROUGE-L"] == row["exact match"] == 1.0


def test_missing_images_are_refused_by_name_unless_allowed(home, tmp_path):
    candidates = [{"image_id": number, "caption": "a cat"} for number in (1, 2, 8)]
    write(tmp_path, candidates, [{"image_id": n, "caption": "a cat"} for n in (1, 2, 3, 4)])
    assert_refused(score(tmp_path), "2 images (3, 4) without a candidate", "(8)", "--allow-missing")
    out = tmp_path / "out.json"
    done = score(tmp_path, "--allow-missing", "--metrics", PLAIN, "--json", out)
    assert done.exit_code == 0 and "coverage 50.00%" in done.stdout
    saved = json.loads(out.read_text())
    assert saved["n"] == 2 and saved["coverage"]["without_candidate"] == ["3", "4"]
    assert saved["coverage"]["without_reference"] == ["8"]


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (b'[{"image_id": 1, "caption": "\xff"}]', ["results.json", "byte 29", "UTF-8"]),
        (
            b'[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]',
            ["entry 2", "second"],
        ),
        (b'[{"image_id": 1, "caption": "\\udc80"}]', ["entry 1", "\\udc80"]),
        (b'{"image_id": 1, "caption": "' + b"a" * 10_000_000 + b'"}', ["line 1", "10,000,000"]),
        (b'{"1": ["a"]}', ['without "annotations"', "What works"]),
        (b"image_id,text\n1,a\n", ["line 1", "caption"]),
        (b"", ["is empty"]),
    ],
)
def test_a_bad_file_is_refused_with_its_place_and_writes_nothing(home, tmp_path, candidates, said):
    write(tmp_path, [], [{"image_id": 1, "caption": "a"}])
    (tmp_path / "results.json").write_bytes(candidates)
    out = tmp_path / "out.json"
    assert_refused(score(tmp_path, "--json", out), *said)
    assert not out.exists()


def test_bleu_alone_compiles_no_data_of_meteor(files, meteor_data, tmp_path, monkeypatch):
    monkeypatch.setenv("DIPTYCH_HOME", str(tmp_path / "home"))
    done = score(files, "--metrics", "bleu", "--resamples", "0")
    assert done.exit_code == 0 and "certificate" in done.stdout, done.output
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["certificates"]


@pytest.mark.parametrize("name", ["folder", "pipe", "link", "annotations.json"])
def test_an_output_that_would_replace_something_is_refused_before_any_work(files, tmp_path, name):
    for file in ("results.json", "annotations.json"):
        (tmp_path / file).write_bytes((files / file).read_bytes())
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.iterdir())
    assert_refused(score(tmp_path, "--json", tmp_path / name), "--json", name, "give")
    done = score(tmp_path, "--save-frequencies", tmp_path / name)
    assert_refused(done, "--save-frequencies", name)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "annotations.json").read_bytes() == (files / "annotations.json").read_bytes()


def test_two_outputs_are_two_files_in_a_folder_that_can_be_made(files, home, tmp_path):
    one, ask = tmp_path / "new" / "one", ("--metrics", "bleu", "--resamples", "0", "--json")
    assert_refused(score(files, *ask, one, "--save-frequencies", one), "another name")
    assert_refused(score(files, *ask, files / "results.json" / "out"), "no folder")
    assert not one.parent.exists()
    assert score(files, *ask, one).exit_code == 0 and one.is_file()


def test_frequencies_that_were_changed_are_refused(files, tmp_path):
    found = document_frequencies([[["a", "cat"]], [["a", "dog"]]])
    for record in (replace(found, images=0), replace(found, counts=found.counts[::-1])):
        (tmp_path / "saved").write_bytes(record.to_bytes())
        done = score(files, "--frequencies", tmp_path / "saved", "--metrics", "cider")
        assert_refused(done, "saved", "damaged", "--save-frequencies")
    assert_refused(score(files, "--frequencies", tmp_path / "no"), "--frequencies", "No such file")


def run_in_terminal(columns, *words):
    """The real command in a terminal of so many columns; what it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "flows.cli", *map(str, words)]
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs, check=False
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that its other end is closed
        while found := os.read(ours, 1 << 16):
            shown += found
    os.close(ours)
    assert done.returncode == 0, shown
    return shown.decode()


def test_a_narrow_terminal_cuts_no_number(files, home, golden):
    pair = ("--candidates", files / "results.json", "--references", files / "annotations.json")
    shown = run_in_terminal(30, "score", *pair, "--metrics", "bleu", "--resamples", "20")
    assert f"{golden['corpus']['Bleu_1']:.6f}" in shown and "…" in shown


def test_a_reader_who_stops_early_is_no_error_and_has_the_json(files, home, tmp_path):
    words = ("--candidates", files / "results.json", "--references", files / "annotations.json")
    words = (*words, "--metrics", "bleu", "--per-image", "--json", tmp_path / "out.json")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "score", *map(str, words)],
        cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads((tmp_path / "out.json").read_text())["n"] == 142


def test_what_a_file_holds_does_not_reach_the_terminal_as_orders(tmp_path):
    write(tmp_path, [{"image_id": "\x1b[2J7", "caption": "a"}], [{"image_id": 1, "caption": "a"}])
    done = score(tmp_path, "--metrics", "bleu")
    assert_refused(done, "[2J7")
    assert "\x1b" not in done.stderr


def test_unknown_names_are_refused_with_the_nearest(files, tmp_path):
    assert_refused(score(files, "--metrics", "bleu,ciderd"), 'Did you mean "cider_d"', "rouge_l")
    assert_refused(score(files, candidates="absent"), "absent cannot be read")


def test_certify_names_what_it_found_and_keeps_it(home):
    done = diptych("metrics", "certify")
    assert done.exit_code == 0, done.output
    shown = [
        column.shown for measure in MEASURES.values() for column in measure.columns if column.golden
    ]
    assert [line for line in done.stdout.splitlines() if "DIFFERS" in line] == []
    saved = json.loads(diptych("metrics", "certify", "--json").stdout)
    assert saved["id"] in done.stdout and set(saved["metrics"]) & set(shown)
    kept = home / "certificates" / f"{saved['code']}.json"
    assert json.loads(kept.read_text()) == saved


def test_certify_ends_with_1_where_a_number_differs(home, tmp_path):
    for file in GOLDEN.parent.glob("*.json"):
        text = file.read_text("utf-8").replace("0.718562874251019", "0.7")
        (tmp_path / file.name).write_text(text, "utf-8")
    done = diptych("metrics", "certify", "--golden", tmp_path)
    assert done.exit_code == 1 and "DIFFERS" in done.stdout
    assert_refused(diptych("metrics", "certify", "--golden", tmp_path / "x"), "No golden corpus")
