"""An evaluation's decoding options: which are read, which are refused, and that each reaches its decoder."""

from __future__ import annotations

import pytest
import torch

from components.catalog import DECODERS
from components.config import ConfigError
from components.decoding.options import RANGES
from components.evaluation.plan import EvaluationPlan
from components.evaluation.writing import write
from components.models.virtex import VirTex, VirtexConfig

READ = {
    "beam": {"beams", "length_penalty"},
    "contrastive": {"top_k", "alpha"},
    "greedy": set(),
    "magic": {"top_k", "top_p", "alpha", "beta"},
    "nucleus": {"top_k", "top_p", "temperature", "seed"},
}


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_decoding_names_what_the_decoder_reads_and_nothing_else(decoder):
    named = EvaluationPlan(decoder=decoder).decoding()
    assert set(named) == {"decoder", "max_tokens", "prompt", "end"} | READ[decoder]


def test_every_option_of_a_decoder_is_a_field_of_the_plan():
    assert set().union(*READ.values()) == set(RANGES) <= set(EvaluationPlan().to_dict())


def test_what_is_left_out_is_the_decoders_own_default():
    assert EvaluationPlan(decoder="magic").decoding() == {
        "decoder": "magic", "max_tokens": 20, "prompt": "", "end": "", "top_k": 45, "alpha": 0.1,
        "beta": 2.0, "top_p": 1.0,
    }  # fmt: skip
    assert EvaluationPlan(decoder="magic", beta=0.0).decoding()["beta"] == 0.0


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"beams": 0}, "beams=0 must be at least 1"),
        ({"length_penalty": -1.0}, "length_penalty=-1.0 must be at least 0"),
        ({"decoder": "nucleus", "top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"decoder": "nucleus", "temperature": float("nan")}, "temperature=nan must be above 0"),
        ({"decoder": "nucleus", "seed": -1}, "seed=-1 must be at least 0"),
        ({"decoder": "magic", "top_k": 0}, "top_k=0 must be at least 1"),
        ({"decoder": "magic", "alpha": 2.0}, "alpha=2.0 must be in"),
        ({"decoder": "magic", "beta": float("inf")}, "beta=inf must be at least 0"),
        ({"max_tokens": 1}, "at least 2"),
        (
            {"decoder": "greedy", "beams": 5},
            'The decoder "greedy" reads no beams; it reads no option',
        ),
        ({"beta": 1.0}, 'The decoder "beam" reads no beta; it reads beams, length_penalty'),
    ],
)
def test_an_option_that_cannot_work_is_refused_before_anything_is_trained(wrong, advice):
    with pytest.raises(ConfigError, match=advice):
        EvaluationPlan(**wrong)


@pytest.fixture(scope="module")
def captioner(tiny_tokenizer):
    torch.manual_seed(0)
    return VirTex(
        VirtexConfig(
            vocab_size=tiny_tokenizer.vocab_size, image_px=32, vision_widths=(8, 16), width=32
        )
    ).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"beams": 3, "length_penalty": 0.5},
        {"decoder": "contrastive", "top_k": 3, "alpha": 0.9},
        {"decoder": "magic", "top_k": 3, "alpha": 0.9, "beta": 0.0},
        {"decoder": "nucleus", "top_k": 9, "top_p": 0.7, "temperature": 2.0, "seed": 4},
        {"decoder": "greedy"},
    ],
)
def test_a_plans_options_reach_its_decoder(captioner, tiny_tokenizer, options):
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    plan = EvaluationPlan(max_tokens=6, prompt="the circle", **options)
    start = tiny_tokenizer.words("the circle")
    name = options.pop("decoder", "beam")
    wanted = DECODERS[name](
        captioner, pixels, eos_id=tiny_tokenizer.eos_id, max_tokens=6, prompts=[start] * 3, **options
    )  # fmt: skip
    found = write(captioner, tiny_tokenizer, pixels, plan.decoding())
    assert found == [tiny_tokenizer.decode(ids) for ids in wanted]


def test_a_caption_ends_where_the_plan_says(captioner, tiny_tokenizer):
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    whole = write(captioner, tiny_tokenizer, pixels, EvaluationPlan().decoding())
    end = whole[0].strip()[3]
    cut = write(captioner, tiny_tokenizer, pixels, EvaluationPlan(end=end).decoding())
    assert cut == [text.split(end)[0].strip() for text in whole] != whole
