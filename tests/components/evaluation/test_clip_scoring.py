"""Written captions get a CLIPScore by a named scorer, beside the blind control and the baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tokenizers
import torch

from components.abilities import Captions
from components.catalog import FAMILIES, METRICS
from components.config import ConfigError
from components.data.batches import load_split
from components.evaluation.clip_scoring import PREFIX, Scorer, clip_scores, load_scorer, terms
from components.evaluation.measure import CLIP_SCORES, measurable, measure
from components.evaluation.plan import EvaluationPlan
from components.metrics import clipscore
from components.models import hub_clip, hub_layout
from components.models.clip import Clip, ClipConfig
from components.models.parts import Origin, Part
from components.training.checkpoints.checkpoint import CheckpointDamaged
from components.training.job import run_job
from components.training.plan import TrainingPlan
from components.training.training_job import TrainingJob


def job_for(name, shards, folder, *, steps, **settings):
    return TrainingJob(
        family=name,
        config=replace(FAMILIES[name].Config.tiny(), image_px=32, **settings).to_dict(),
        plan=TrainingPlan(
            steps=steps, batch_size=28, lr=3e-3, warmup_steps=steps // 10, vocab_size=400
        ),
        shards=shards.path,
        folder=folder,
    )


@pytest.fixture(scope="module")
def judge(tiny_shards, tmp_path_factory):
    """A CLIP that was trained on the shapes."""
    folder = tmp_path_factory.mktemp("clip")
    return run_job(job_for("clip", tiny_shards, folder, steps=80, vision_widths=(16, 32)))


@pytest.fixture(scope="module")
def origin(judge):
    return Origin(kind="stage", name="clip_here", digest=judge.digest, path=str(judge.path))


@pytest.fixture(scope="module")
def writer(tiny_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("virtex")
    return run_job(job_for("virtex", tiny_shards, folder, steps=1, vision_widths=(8, 16)))


@pytest.fixture(scope="module")
def images(tiny_shards):
    return load_split(tiny_shards, "test", 32)


def test_right_captions_score_above_those_of_other_images(origin, images):
    right = [row.sample.captions[0] for row in images.rows]
    values = clip_scores(load_scorer(origin, ""), images, {"": right, "wrong/": right[::-1]})
    assert set(values) == {*CLIP_SCORES, *(f"wrong/{name}" for name in CLIP_SCORES)}
    for name in CLIP_SCORES:
        assert METRICS[name].high >= values[name] > values[f"wrong/{name}"] + 0.1


def test_scores_are_the_formula_over_the_models_own_embeddings(origin, images):
    scorer = load_scorer(origin, "see ")
    written = ["a red square", *(row.sample.captions[-1] for row in images.rows[1:])]
    stats = terms(scorer, images, {"": written})[""]
    model, tokenizer = scorer.part.module, scorer.part.tokenizer
    limit = model.batch_spec().max_tokens
    with torch.inference_mode():
        image_D = model.embed_images(images.pixels_NCHW[:1])[0]
        texts = ["see " + text for text in (written[0], *images.rows[0].sample.captions)]
        text_ND = torch.cat([model.embed_texts(*tokenizer.encode([t], limit)) for t in texts])
    assert stats.image_N[0] == pytest.approx(2.5 * max(float(image_D @ text_ND[0]), 0), abs=1e-5)
    assert stats.reference_N[0] == pytest.approx(float((text_ND[1:] @ text_ND[0]).max()), abs=1e-5)


def test_the_prefix_is_read_and_is_part_of_the_scorers_name(origin, images):
    captions = {"": [row.sample.captions[0] for row in images.rows]}
    bare, long = load_scorer(origin, ""), load_scorer(origin, "a red ")
    assert clip_scores(bare, images, captions) != clip_scores(long, images, captions)
    assert bare.identity == f"stage:clip_here@{origin.digest[:12]} ''"
    assert long.identity == f"stage:clip_here@{origin.digest[:12]} 'a red '"


def test_a_prefix_that_leaves_no_room_for_captions_is_refused(origin):
    with pytest.raises(ConfigError, match=r"of the 24 tokens .* evaluation\.scorer_prefix"):
        load_scorer(origin, PREFIX)


def test_a_caption_scores_the_same_among_others(origin, images):
    scorer = load_scorer(origin, "")
    captions = [row.sample.captions[0] for row in images.rows]
    whole = terms(scorer, images, {"": captions, "other/": ["red"] * len(captions)})
    alone = terms(scorer, images, {"": captions})
    assert np.abs(clipscore.per_image(whole[""]) - clipscore.per_image(alone[""])).max() < 1e-5
    assert np.ptp(whole["other/"].reference_N) > 0


def test_an_empty_caption_has_some_score(origin, images):
    values = clip_scores(load_scorer(origin, ""), images, {"": [""] * len(images.rows)})
    assert all(np.isfinite(value) for value in values.values())


def test_a_report_names_its_scorer_and_scores_every_column(writer, origin, tiny_shards, tmp_path):
    plan = EvaluationPlan(max_tokens=12, beams=2, scorer=origin, scorer_prefix="")
    report = measure(writer, tiny_shards, "test", plan, tmp_path)
    assert report.scorer == f"stage:clip_here@{origin.digest[:12]} ''"
    for name in CLIP_SCORES:
        for prefix in ("", "image_blind/", "nearest_pixels/", "most_frequent/"):
            assert 0 <= report.values[prefix + name] <= METRICS[name].high
        assert report.values[f"nearest_pixels/{name}"] > report.values[f"most_frequent/{name}"]
    without = measure(writer, tiny_shards, "test", replace(plan, scorer=None), tmp_path)
    assert without.scorer == "" and without.captions == report.captions
    rest = {name: value for name, value in report.values.items() if "clip_score" not in name}
    assert without.values == rest


def test_a_scorer_reads_images_in_its_own_size(writer, tiny_shards, tmp_path):
    job = job_for("clip", tiny_shards, tmp_path / "small", steps=1, vision_widths=(8, 16))
    judge = run_job(replace(job, config=job.config | {"image_px": 16}))
    origin = Origin(kind="stage", name="c", digest=judge.digest, path=str(judge.path))
    assert load_scorer(origin, "").side_px == 16
    plan = EvaluationPlan(max_tokens=12, beams=1, scorer=origin, scorer_prefix="")
    assert "clip_score" in measure(writer, tiny_shards, "test", plan, tmp_path).values


def test_a_scorer_that_does_not_embed_is_refused(writer):
    origin = Origin(kind="stage", name="v", digest=writer.digest, path=str(writer.path))
    with pytest.raises(ConfigError, match="stage:v is a VirTex, which does not embed"):
        load_scorer(origin)


def test_a_folder_in_transformers_layout_scores_and_is_named_by_its_weights(tmp_path, images):
    torch.manual_seed(0)
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(["a red circle", "the green square"], trainer)
    bpe.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    bpe.save(str(tmp_path / "tokenizer.json"))
    model = Clip(
        ClipConfig(
            vision="vit", image_px=32, patch_px=8, vision_width=16, vision_layers=1,
            vision_heads=2, text_width=16, text_layers=1, text_heads=2, embed_width=8,
            max_tokens=40, vocab_size=bpe.get_vocab_size(),
        )
    )  # fmt: skip
    hub_clip.save_pretrained(model.eval(), tmp_path)
    scorer = load_scorer(Origin(kind="folder", name=str(tmp_path)), "a ")
    digest = hub_layout.weights_digest(tmp_path)
    assert scorer.identity == f"folder:{tmp_path}@{digest[:12]} 'a '"
    values = clip_scores(scorer, images, {"": ["a red circle"] * len(images.rows)})
    assert all(0 <= values[name] <= METRICS[name].high for name in CLIP_SCORES)


def test_a_scorer_of_another_digest_is_refused(origin):
    with pytest.raises(CheckpointDamaged, match="asked for is 000000000000"):
        load_scorer(replace(origin, digest="0" * 64), "")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_what_can_be_measured_knows_of_the_scorer(name):
    family = FAMILIES[name]
    writes = issubclass(family, Captions)
    for metric in CLIP_SCORES:
        assert (metric in measurable(family)) == writes
        assert metric not in measurable(family, scored=False)
        assert f"image_blind/{metric}" not in measurable(family, scored=False)


def test_every_embedding_family_can_be_a_scorer(build_tiny, tiny_tokenizer, tiny_shards):
    for name in ("align", "clip"):
        model = build_tiny(name).eval()
        origin = Origin(kind="random", name=name)
        part = Part(module=model, tokenizer=tiny_tokenizer, origin=origin)
        scorer = Scorer(part=part, prefix="")
        images = load_split(tiny_shards, "test", scorer.side_px)
        values = clip_scores(scorer, images, {"": ["a red circle"] * len(images.rows)})
        assert all(np.isfinite(value) for value in values.values())


def test_a_plan_says_its_scorer_by_digest_and_nothing_without_one(origin):
    assert EvaluationPlan(scorer=origin).to_dict()["scorer"] == origin.identity
    assert not {"scorer", "scorer_prefix"} & set(EvaluationPlan().to_dict())
