"""The certificate beside a score: made once for a state of the code, and again for another."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flows.runs import certifying
from infra.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return replace(Settings.read({}), home=tmp_path / "home")


def test_it_is_made_once_and_read_from_then_on(settings, monkeypatch):
    first = certifying.certificate_here(settings, None)
    assert first is not None and first.passed and "METEOR" not in first.metrics
    monkeypatch.setattr(certifying, "certify", None)  # it would fail if it were called
    assert certifying.certificate_here(settings, None) == first


def test_a_damaged_one_is_made_again(settings):
    first = certifying.certificate_here(settings, None)
    [path] = (settings.home / "certificates").iterdir()
    saved = json.loads(path.read_text())
    saved["metrics"]["BLEU-1"]["deviation"] = 1.0
    for damage in (json.dumps(saved), "{", ""):
        path.write_text(damage)
        assert certifying.certificate_here(settings, None) == first


def test_where_there_is_no_corpus_there_is_no_certificate(settings, tmp_path):
    assert certifying.certificate_here(replace(settings, repo=tmp_path), None) is None


def test_a_night_has_meteor_from_when_its_data_are_compiled(settings, meteor_data):
    assert certifying.compiled_tables(settings) is None
    settings.home.mkdir()
    (settings.home / "metrics").symlink_to(meteor_data)
    cache = certifying.compiled_tables(settings)
    assert cache is not None
    assert "METEOR" in certifying.certificate_here(settings, cache).metrics


def test_half_a_minute_of_compiling_is_told_and_no_other(settings, meteor_data, capsys):
    certifying.tell_of_compiling(settings, ["bleu", "cider"])
    assert capsys.readouterr() == ("", "")
    certifying.tell_of_compiling(settings, ["bleu", "meteor"])
    out, err = capsys.readouterr()
    assert not out and str(certifying.tables(settings)) in err
    settings.home.mkdir()
    (settings.home / "metrics").symlink_to(meteor_data)
    certifying.tell_of_compiling(settings, ["meteor"])
    assert capsys.readouterr() == ("", "")
