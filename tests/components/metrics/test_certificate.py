"""The parity certificate: within tolerance here, and not where a number is off."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from components.metrics import certificate, scorecard
from components.metrics.certificate import Parity, certify, code_digest, from_dict, to_dict
from components.metrics.golden import GoldenMissing
from components.metrics.metric import MetricInputError
from components.table import Table

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def found():
    return certify(GOLDEN)


def test_meteor_is_certified_where_its_data_are(meteor_data):
    parity = certify(GOLDEN, meteor_data).metrics["METEOR"]
    assert parity.deviation < 1e-12 and parity.compared > 280
    assert "METEOR" not in certify(GOLDEN).metrics and "METEOR" in certify(GOLDEN).left_out


@pytest.fixture
def changed(tmp_path):
    """A golden corpus whose numbers a test may change."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    for file in (tmp_path / "golden").iterdir():
        file.chmod(0o600)
    return tmp_path / "golden"


def rewrite(folder, change):
    path = folder / "captions.json"
    saved = json.loads(path.read_text())
    change(saved)
    path.write_text(json.dumps(saved))


def test_every_metric_of_the_reference_is_within_its_tolerance(found):
    assert found.passed
    named = {
        column.shown
        for measure in scorecard.MEASURES.values()
        for column in measure.columns
        if column.golden and measure.missing(None) is None
    }
    others = {"tokens", "SPICE from tuples", "CLIPScore", "RefCLIPScore"}
    assert set(found.metrics) == named | others
    assert found.metrics["tokens"].compared == 171 + 587
    for name, parity in found.metrics.items():
        assert parity.passed and parity.compared > (4 if "CLIP" in name else 100), name


def test_the_parts_without_captions_are_compared_too(changed):
    for name, change, shown in (
        (
            "spice_tuples",
            lambda saved: saved[0]["scores"]["All"].__setitem__(0, 99),
            "SPICE from tuples",
        ),
        ("clipscore", lambda saved: saved["items"][0].update(CLIPScore=0.1), "CLIPScore"),
    ):
        path = changed / f"{name}.json"
        saved = json.loads(path.read_text())
        change(saved)
        path.write_text(json.dumps(saved))
        assert not certify(changed).metrics[shown].passed


@pytest.mark.parametrize(
    ("shown", "change"),
    [
        ("BLEU-3", lambda saved: saved["images"][40]["Bleu"].__setitem__(2, 0.5)),
        ("CIDEr", lambda saved: saved["corpus"].__setitem__("CIDEr", 2.7)),
        (
            "ROUGE-L",
            lambda saved: saved["variants"]["first_ref_only"]["corpus"].update(ROUGE_L=0.1),
        ),
        ("CIDEr-D", lambda saved: saved["variants"]["cider_d_external_df"].update(corpus=1.0)),
        ("tokens", lambda saved: saved["images"][5].update(tok_cand="something else")),
    ],
)
def test_a_number_that_is_off_anywhere_is_found(changed, shown, change):
    rewrite(changed, change)
    off = certify(changed)
    assert not off.passed
    assert [name for name, parity in off.metrics.items() if not parity.passed] == [shown]


def test_a_nan_does_not_pass(monkeypatch):
    assert not Parity(float("nan"), 1.0, 1).passed
    rouge = scorecard.MEASURES["rouge_l"]
    broken = replace(rouge, score=lambda stats, weights: (float("nan"),))
    table = Table("caption metric", {"rouge_l": broken})
    monkeypatch.setattr(scorecard, "MEASURES", table)
    for module in ("golden", "scoring"):
        monkeypatch.setattr(f"components.metrics.{module}.MEASURES", table)
    monkeypatch.setattr("components.metrics.golden._other_frequencies", lambda golden: iter(()))
    assert not certify(GOLDEN).metrics["ROUGE-L"].passed


def test_the_id_names_the_finding(found, changed):
    assert certify(GOLDEN).id == found.id
    rewrite(changed, lambda saved: saved.update(note="other bytes"))
    assert certify(changed).id != found.id


def test_the_code_digest_follows_every_source_of_the_metrics(tmp_path, monkeypatch):
    before = code_digest()
    shutil.copytree(certificate.SOURCES, tmp_path / "metrics")
    monkeypatch.setattr(certificate, "SOURCES", tmp_path / "metrics")
    assert code_digest() == before
    (tmp_path / "metrics" / "bleu.py").write_text("# another\n")
    assert code_digest() != before


def test_the_code_digest_follows_the_packages_that_compute(monkeypatch):
    before = code_digest()
    monkeypatch.setattr(certificate, "PACKAGES", ("numpy", "numba", "a-package-that-is-not-there"))
    absent = code_digest()
    monkeypatch.setattr(certificate, "PACKAGES", ("numpy", "numba", "pytest"))
    assert len({before, absent, code_digest()}) == 3


def test_a_certificate_comes_back_and_a_changed_one_does_not(found):
    saved = json.loads(json.dumps(to_dict(found)))
    assert from_dict(saved) == found
    saved["metrics"]["BLEU-1"]["deviation"] = 0.5
    with pytest.raises(MetricInputError, match="changed"):
        from_dict(saved)
    for other in ({}, [], None, {"metrics": 1}):
        with pytest.raises(MetricInputError, match="no certificate"):
            from_dict(other)


def test_a_folder_without_the_corpus_is_named(tmp_path):
    with pytest.raises(GoldenMissing, match=str(tmp_path)):
        certify(tmp_path)
