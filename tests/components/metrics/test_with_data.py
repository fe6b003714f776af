"""METEOR's data where the scorecard asks for them."""

from __future__ import annotations

import importlib.util

import pytest

from components.metrics import with_data
from components.metrics.meteor.packaged import PACKAGE, MeteorDataMissing


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="METEOR's package is needed")
def test_a_folder_that_takes_no_data_is_named_with_what_to_do(tmp_path):
    file = tmp_path / "metrics"
    file.write_text("no folder")
    with pytest.raises(MeteorDataMissing, match="make room") as refused:
        with_data.load(file)
    assert str(file) in str(refused.value) and file.read_text() == "no folder"


def test_without_a_folder_there_is_no_meteor():
    with pytest.raises(MeteorDataMissing, match="needs a folder"):
        with_data.load(None)
    assert with_data.meteor_missing(None) is not None
