"""An experiment's parts: needed where the model's settings say so, and refused with what would work."""

from __future__ import annotations

import pytest

from components.config import ConfigError
from components.models.visualbert import VisualBert
from components.table import UnknownName
from flows.sections.slots import read_parts

PART, LITE0 = VisualBert.Config.tiny(), VisualBert.Config(vision="lite0")


def test_a_slot_is_needed_only_where_the_settings_ask_for_the_part() -> None:
    with pytest.raises(ConfigError, match="leaves vision empty"):
        read_parts(VisualBert, PART, {}, "x.yaml: parts")
    assert read_parts(VisualBert, LITE0, {}, "x.yaml: parts") == {}


def test_weights_to_start_from_may_be_left_out_and_are_read_where_named() -> None:
    parts = read_parts(VisualBert, PART, {"vision": "random"}, "x.yaml: parts")
    assert set(parts) == {"vision"}
    parts = read_parts(
        VisualBert, PART, {"vision": "stage:clip_a", "text": "stage:mlm_a"}, "x.yaml: parts"
    )
    assert (parts["text"].kind, parts["text"].name) == ("stage", "mlm_a")


def test_a_commit_is_part_of_a_hub_name_and_a_branch_is_refused_before_anything_is_read() -> None:
    name = f"openai/clip@{'0' * 40}"
    parts = read_parts(VisualBert, PART, {"vision": f"hub:{name}"}, "x.yaml: parts")
    assert (parts["vision"].kind, parts["vision"].name) == ("hub", name)
    with pytest.raises(ConfigError, match="40 hex digits"):
        read_parts(VisualBert, PART, {"vision": "hub:openai/clip@main"}, "x.yaml: parts")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"visoin": "random"}, 'Did you mean "vision"'),
        ({"vision": "stagge:clip"}, "stage:EXPERIMENT"),
    ],
)
def test_a_slot_or_kind_nobody_knows_is_refused_with_the_nearest(text, said: str) -> None:
    with pytest.raises(UnknownName, match=said):
        read_parts(VisualBert, PART, text, "x.yaml: parts")
    with pytest.raises(ConfigError, match="names nothing"):
        read_parts(VisualBert, PART, {"vision": "stage:"}, "x.yaml: parts")
