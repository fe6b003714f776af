"""A family that learns nothing is taught by keeping a part of a larger one, and every other wish is refused by name."""

from __future__ import annotations

import pytest

from components.config import ConfigError
from components.models.parts import Origin
from components.training.one_pass import index
from components.training.teachers.teaching import Distillation

TEACHER = Origin(kind="stage", name="asif_tiny")


def test_an_index_cannot_be_taught_by_a_term(build_tiny, tiny_shards, tiny_tokenizer) -> None:
    wanted = Distillation(teacher=TEACHER, terms={"affinity": 1.0}, inherit=True)
    with pytest.raises(ConfigError, match="no term can teach it"):
        index(build_tiny("asif"), tiny_shards, "train", tiny_tokenizer, wanted)
    with pytest.raises(ConfigError, match="inherit: true"):
        plain = Distillation(teacher=TEACHER)
        index(build_tiny("asif"), tiny_shards, "train", tiny_tokenizer, plain)


def test_a_family_without_an_index_keeps_nothing_of_a_teacher(
    build_tiny, tiny_shards, tiny_tokenizer
) -> None:
    wanted = Distillation(teacher=TEACHER, inherit=True)
    with pytest.raises(ConfigError, match="leave distill out"):
        index(build_tiny("magic"), tiny_shards, "train", tiny_tokenizer, wanted)
