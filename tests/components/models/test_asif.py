"""What only ASIF owes: its six invariants, anchors that come and go, and no test image among them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from components.abilities import Embeds, Indexes, Learns
from components.catalog import MODELS
from components.config import ConfigError
from components.data.batches import SplitImages
from components.data.text import Tokenizer
from components.models import asif
from components.models.anchors import AnchorsRefused, nearest_to_all
from components.models.asif import AnchorLeak, Asif, AsifConfig
from components.models.backbones import VisionShape, build_vision
from components.models.parts import Origin, Part
from components.records import Row, Sample

PX, COUNT = 16, 24
WORDS = ("ball", "tree", "house", "boat", "moon", "fish", "bird", "hill")


class BagOfWords(nn.Module):
    """A text encoder that is quick and tells words apart: the mean of random word vectors."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, 12)

    def encode_texts(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        real_BT = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
        return (self.words(tokens_BT) * real_BT[..., None]).sum(1) / lengths_B[:, None]


@pytest.fixture(scope="module")
def images() -> SplitImages:
    return _images(0, COUNT)


@pytest.fixture(scope="module")
def tokenizer(images: SplitImages) -> Tokenizer:
    return Tokenizer.train((text for row in images.rows for text in row.sample.captions), 400)


@pytest.fixture(scope="module")
def parts(tokenizer: Tokenizer) -> dict[str, Part]:
    torch.manual_seed(0)
    origin = Origin(kind="random", name="test")
    vision = build_vision("conv", PX, VisionShape(widths=(8, 16))).eval()
    return {
        "vision": Part(module=vision, tokenizer=None, origin=origin),
        "text": Part(module=BagOfWords(tokenizer.vocab_size), tokenizer=tokenizer, origin=origin),
    }


@pytest.fixture
def made(parts, images, tokenizer):
    """`made(k=3)`: built from all pairs, with these settings."""

    def make(anchors: SplitImages = images, **settings) -> Asif:
        config = AsifConfig(
            **{"image_px": PX, "max_tokens": 16, "text_by": "states", "k": 5, **settings}
        )
        model = Asif(config, parts)
        model.build(anchors, tokenizer)
        return model

    return make


def _images(start: int, end: int) -> SplitImages:
    pixels = torch.stack([_picture(number) for number in range(start, end)])
    return SplitImages(
        split="train", rows=[_row(number) for number in range(start, end)], pixels_NCHW=pixels
    )


def _picture(number: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (3, PX, PX), generator=made, dtype=torch.uint8)


def _row(number: int) -> Row:
    one, other = WORDS[number % 8], WORDS[number // 8 % 8]
    captions = (f"a {one} and {number} times a {other}", f"{other} near the {one}")
    sample = Sample(
        id=f"made-{number}", image=b"", captions=captions, split="train", concept=one, label=one,
        concept_family=one, origin="made", license="CC0-1.0",
    )  # fmt: skip
    return Row(
        key=number, sample=sample, shard="", offset_bytes=0, size_bytes=0, sha256="",
        pixels_sha256=f"{number:064x}", width_px=PX, height_px=PX,
    )  # fmt: skip


def _some(images: SplitImages, numbers) -> SplitImages:
    numbers = list(numbers)
    return replace(
        images,
        rows=[images.rows[number] for number in numbers],
        pixels_NCHW=images.pixels_NCHW[numbers],
    )


@pytest.fixture(scope="module")
def queries(tokenizer: Tokenizer):
    """Four images and five texts that are no anchors."""
    pixels = torch.stack([_picture(number) for number in range(100, 104)])
    texts = [f"the {one} has a {other}" for one, other in zip(WORDS[:5], WORDS[3:], strict=True)]
    return pixels, *tokenizer.encode(texts, 16)


def _scores(model: Asif, queries) -> torch.Tensor:
    pixels, tokens, lengths = queries
    return model.embed_images(pixels) @ model.embed_texts(tokens, lengths).T


def test_it_embeds_and_is_built_and_does_not_learn(made) -> None:
    model = made()
    assert isinstance(model, Embeds)
    assert isinstance(model, Indexes)
    assert not isinstance(model, Learns)


@pytest.mark.parametrize("centre", [False, True])
def test_all_anchors_at_power_one_give_the_product_of_plain_similarities(
    made, queries, centre: bool
) -> None:
    """Invariant 1: k = N, p = 1 and no clamp: (A_I y) . (A_T t) over their lengths."""
    model = made(k=COUNT, power=1.0, clamp=False, centre=centre)
    pixels, tokens, lengths = queries
    seen, read = model._see(pixels), normalize(model.text.encode_texts(tokens, lengths), dim=1)
    held_images, held_texts = model.image_anchors, model.text_anchors
    if centre:
        seen, held_images = (part - model.image_anchors.mean(0) for part in (seen, held_images))
        read, held_texts = (part - model.text_anchors.mean(0) for part in (read, held_texts))
    image = normalize(seen, dim=1) @ normalize(held_images, dim=1).T
    text = normalize(read, dim=1) @ normalize(held_texts, dim=1).T
    wanted = (image @ text.T) / (image.norm(dim=1)[:, None] * text.norm(dim=1))
    torch.testing.assert_close(_scores(model, queries), wanted, atol=1e-6, rtol=1e-5)
    assert (image < 0).any() or (text < 0).any()


@pytest.mark.parametrize("power", [1.0, 2.5, 8.0])
def test_a_description_has_length_one_and_at_most_k_coordinates(made, queries, power) -> None:
    """Invariant 2, first half."""
    model = made(k=5, power=power)
    pixels, tokens, lengths = queries
    for rows in (model.embed_images(pixels), model.embed_texts(tokens, lengths)):
        assert rows.shape[1] == COUNT
        assert ((rows != 0).sum(dim=1) <= 5).all()
        assert (rows >= 0).all()
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_the_power_only_sharpens(made, queries) -> None:
    """Invariant 2, second half: the same anchors in the same order, and more weight on the first."""
    soft, sharp = (made(k=5, power=power).embed_images(queries[0]) for power in (1.0, 8.0))
    # Sharpened values may underflow to 0, never change places.
    for one, other in zip(soft, sharp, strict=True):
        order = one.argsort(descending=True)[:5]
        assert (other[order].diff() <= 0).all()
        assert set(other.nonzero()[:, 0].tolist()) <= set(order.tolist())
        assert other.max() > one.max()


@pytest.mark.parametrize("centre", [False, True])
def test_adding_and_removing_restores_scores_exactly(
    made, images, tokenizer, queries, centre
) -> None:
    """Invariant 3, first part: bitwise."""
    model = made(centre=centre)
    before = _scores(model, queries)
    more = _images(50, 57)
    model.add(more, tokenizer)
    assert model.config.anchors == COUNT + 7
    assert not torch.equal(_scores(model, queries), before)
    model.remove([row.sample.id for row in more.rows])
    assert model.config.anchors == COUNT
    assert torch.equal(_scores(model, queries), before)


@pytest.mark.parametrize("centre", [False, True])
def test_building_from_some_equals_removing_the_rest(made, images, queries, centre) -> None:
    """Invariant 3, second part."""
    whole = made(centre=centre)
    whole.remove([row.sample.id for row in images.rows[::3]])
    few = made(_some(images, [n for n in range(COUNT) if n % 3]), centre=centre)
    assert torch.equal(whole.ids, few.ids)
    torch.testing.assert_close(_scores(whole, queries), _scores(few, queries), atol=1e-5, rtol=1e-4)


def test_the_order_of_anchors_is_irrelevant(made, images, queries) -> None:
    """Invariant 3, third part."""
    turned = made(_some(images, reversed(range(COUNT))))
    torch.testing.assert_close(_scores(made(), queries), _scores(turned, queries))


def test_anchors_that_no_query_uses_can_go(made, images, queries) -> None:
    """Invariant 4: scores stay bit for bit (without centring, whose mean all anchors share)."""
    model = made(centre=False, k=4)
    before = _scores(model, queries)
    pixels, tokens, lengths = queries
    used = torch.cat([model.embed_images(pixels), model.embed_texts(tokens, lengths)]).any(dim=0)
    assert 0 < int((~used).sum()) < COUNT
    idle = {int(anchor) for anchor in model.ids[~used]}
    names = [row.sample.id for row in images.rows if asif.anchor_id(row.sample.id) in idle]
    model.remove(names)
    assert model.config.anchors == int(used.sum())
    assert torch.equal(_scores(model, queries), before)


def test_encoders_get_no_gradient_and_are_never_changed(
    parts, made, images, tokenizer, queries
) -> None:
    """Invariant 5, batch-norm statistics included."""
    modules = [part.module for part in parts.values()]
    before = [
        {name: value.clone() for name, value in module.state_dict().items()} for module in modules
    ]
    model = made().train()
    assert not any(module.training for module in model.modules())
    model.add(_images(60, 63), tokenizer)
    assert not _scores(model, queries).requires_grad
    assert not any(param.requires_grad for param in model.parameters())
    for module, saved in zip(modules, before, strict=True):
        assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("chunk", [1, 3, 5, 7, COUNT - 1, COUNT, 4 * COUNT])
@pytest.mark.parametrize("k", [1, 5, COUNT])
def test_chunked_equals_unchunked(made, queries, chunk: int, k: int) -> None:
    """Invariant 6, first half; a k larger than a chunk too."""
    wanted = _scores(made(k=k), queries)
    torch.testing.assert_close(_scores(made(k=k, chunk=chunk), queries), wanted)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_equal_anchors_are_chosen_alike_in_any_chunks(parts, tokenizer, queries, chunk) -> None:
    """Captions repeat: among anchors with equal texts those with the lower id are kept."""
    images = _images(0, COUNT)
    same = replace(images.rows[0].sample, captions=("the ball has a boat",))
    rows = [replace(row, sample=replace(same, id=row.sample.id)) for row in images.rows]
    found = []
    for size in (chunk, COUNT):
        model = Asif(
            AsifConfig(image_px=PX, max_tokens=16, text_by="states", k=5, centre=False, chunk=size),
            parts,
        )
        model.build(replace(images, rows=rows), tokenizer)
        found.append(model.describe_texts(*queries[1:]).index_BK)
    assert torch.equal(*found)
    assert (found[0] == torch.arange(5)).all()


@pytest.mark.parametrize("centre", [False, True])
def test_an_explanation_sums_to_the_score(made, queries, centre: bool) -> None:
    """Invariant 6, second half."""
    model = made(k=12, centre=centre, power=2.0)
    scores = _scores(model, queries)
    for row in range(len(scores)):
        for column in range(scores.shape[1]):
            tokens = queries[1][column, : queries[2][column]]
            anchors, shares = model.explain(queries[0][row], tokens)
            torch.testing.assert_close(shares.sum(), scores[row, column], atol=1e-6, rtol=1e-5)
            assert (shares.diff() <= 0).all()
            assert len(set(anchors.tolist())) == len(anchors)


def test_scores_by_chunks_are_the_products_of_the_embeddings(made, queries) -> None:
    model = made(chunk=7)
    found = model.score(model.describe_images(queries[0]), model.describe_texts(*queries[1:]))
    torch.testing.assert_close(found, _scores(model, queries))


def test_an_anchors_own_image_finds_its_caption(made, images, tokenizer) -> None:
    model = made()
    written = model.nearest_captions(images.pixels_NCHW[3:6], tokenizer)
    assert written == [row.sample.captions[0] for row in images.rows[3:6]]
    assert model.ids[model.nearest_anchors(images.pixels_NCHW[3:4])].item() == asif.anchor_id(
        "made-3"
    )


def test_an_anchor_and_its_own_captions_fit_best(made, images, tokenizer) -> None:
    model = made(k=8)
    tokens, lengths = tokenizer.encode([row.sample.captions[0] for row in images.rows], 16)
    scores = model.embed_images(images.pixels_NCHW) @ model.embed_texts(tokens, lengths).T
    assert (scores.argmax(dim=1) == torch.arange(COUNT)).float().mean() > 0.9


def test_test_images_among_the_anchors_are_refused_by_name(made, images) -> None:
    model = made()
    model.refuse_leak([_row(number) for number in range(200, 210)])
    copied = replace(_row(300), pixels_sha256=images.rows[7].pixels_sha256)
    with pytest.raises(AnchorLeak, match='1 of 2 images under test are anchors, as "made-300"'):
        model.refuse_leak([_row(200), copied])
    model.remove(["made-7"])
    model.refuse_leak([_row(200), copied])


def test_a_model_rebuilt_from_its_config_and_weights_scores_the_same(made, parts, queries) -> None:
    model = made()
    other = Asif(AsifConfig(**model.config.to_dict()), parts)
    assert not _scores(
        other, queries
    ).any()  # what was measured of anchors it no longer has is forgotten
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    assert other.config == model.config
    assert torch.equal(_scores(other, queries), _scores(model, queries))


def test_the_anchors_follow_from_the_training_data(images, tokenizer) -> None:
    fitted = AsifConfig.tiny().fitted(images.rows, tokenizer)
    assert (fitted.anchors, fitted.vocab_size) == (COUNT, tokenizer.vocab_size)


def test_an_unbuilt_model_says_that_it_has_no_anchors(parts, queries) -> None:
    model = Asif(AsifConfig(image_px=PX, max_tokens=16, text_by="states"), parts)
    with pytest.raises(AnchorsRefused, match=r"build\(\) takes the pairs"):
        model.embed_images(queries[0])


def test_anchors_that_cannot_be_added_or_removed_are_refused_and_nothing_changes(
    made, images, tokenizer, queries
) -> None:
    model = made()
    before = _scores(model, queries)
    bare = replace(images.rows[0], sample=replace(images.rows[0].sample, id="bare", captions=()))
    with pytest.raises(AnchorsRefused, match='"bare" has no caption'):
        model.add(replace(_some(images, [0]), rows=[bare]), tokenizer)
    with pytest.raises(AnchorsRefused, match="2 samples would be anchors twice"):
        model.add(_some(images, [4, 5]), tokenizer)
    with pytest.raises(AnchorsRefused, match='"made-99"'):
        model.remove(["made-1", "made-99"])
    assert torch.equal(_scores(model, queries), before)


def test_the_papers_preset_has_its_anchors_and_settings(tokenizer) -> None:
    """The paper gives no parameter count: nothing is trained. It gives 1.6 M pairs, k 800, p 8."""
    origin = Origin(kind="random", name="test")
    with torch.device("meta"):
        vision = build_vision("vit", 224, VisionShape(width=768, layers=12, heads=12))
        text = BagOfWords(30_527)
        model = Asif(
            AsifConfig.paper(),
            {
                "vision": Part(module=vision, tokenizer=None, origin=origin),
                "text": Part(module=text, tokenizer=tokenizer, origin=origin),
            },
        )
    assert model.image_anchors.shape == (1_600_000, 768)
    assert model.image_anchors.is_meta
    assert (model.config.k, model.config.power) == (800, 8.0)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"k": 0}, "at least 1"),
        ({"chunk": 0}, "at least 1"),
        ({"keep": -1}, "keep is 0 or more"),
        ({"power": 0.0}, "above 0"),
        ({"power": 2.5, "clamp": False}, "clamp: true"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        AsifConfig(**wrong)


def test_a_part_that_is_missing_or_cannot_read_is_refused(parts) -> None:
    with pytest.raises(ConfigError, match='needs a part "text"'):
        Asif(AsifConfig(image_px=PX, text_by="states"), {"vision": parts["vision"]})
    with pytest.raises(ConfigError, match="is no TextEncoder"):
        Asif(
            AsifConfig(image_px=PX, text_by="states"),
            {"vision": parts["vision"], "text": parts["vision"]},
        )


@pytest.mark.parametrize("kind", ["lm", "mlm_text"])
def test_texts_may_be_read_by_word_vectors_without_their_ends(
    parts, images, tokenizer, queries, kind
) -> None:
    text = random_part_of(kind, tokenizer)
    model = Asif(AsifConfig(image_px=PX, max_tokens=16), {**parts, "text": text})
    model.build(images, tokenizer)
    table = (
        text.module.bert.words if kind == "mlm_text" else text.module.model.get_input_embeddings()
    )
    tokens, lengths = queries[1:]
    wanted = torch.stack(
        [table(row[1 : length - 1]).mean(0) for row, length in zip(tokens, lengths, strict=True)]
    )
    torch.testing.assert_close(model._read(tokens, lengths), normalize(wanted, dim=1))
    assert _scores(model, queries).shape == (4, 5)


def random_part_of(kind: str, tokenizer: Tokenizer) -> Part:
    module = MODELS[kind](MODELS[kind].Config.tiny().fitted((), tokenizer)).requires_grad_(False)
    origin = Origin(kind="random", name=kind)
    return Part(module=module.eval(), tokenizer=tokenizer, origin=origin)


def test_a_text_part_without_known_word_vectors_says_what_to_set(parts) -> None:
    with pytest.raises(ConfigError, match="text_by: states"):
        Asif(AsifConfig(image_px=PX), parts)


# --- a smaller dictionary ---


def test_a_smaller_dictionary_keeps_so_many_of_the_pairs_by_the_runs_draw(made, images) -> None:
    def kept(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return made(keep=7).ids.tolist()

    everything = made().ids.tolist()
    assert len(kept(0)) == 7
    assert set(kept(0)) < set(everything)
    assert kept(0) == kept(0) != kept(1)
    assert made(keep=COUNT).ids.tolist() == everything


def test_a_condensed_dictionary_holds_the_teachers_own_rows_and_comes_back_from_a_checkpoint(
    made, parts, queries
) -> None:
    teacher, model = made(), made(keep=6)
    model.condense(teacher)
    rows = [teacher.ids.tolist().index(number) for number in model.ids.tolist()]
    assert len(rows) == 6
    assert rows == sorted(rows)
    assert torch.equal(model.image_anchors, teacher.image_anchors[rows])
    assert torch.equal(model.text_anchors, teacher.text_anchors[rows])
    again = Asif(AsifConfig(**model.config.to_dict()), parts)
    again.load_state_dict(model.state_dict())
    assert torch.equal(_scores(again, queries), _scores(model, queries))


def test_what_is_kept_is_near_to_all_in_both_modalities() -> None:
    """Two clusters of 5 and 3 and one alone: the middle of the large one first, then of the other, then the one alone."""
    near = torch.zeros(9, 9)
    near[:5, :5], near[5:8, 5:8] = 0.4, 0.4
    near[2, :5] = near[:5, 2] = 0.8
    near[6, 5:8] = near[5:8, 6] = 0.8
    near.fill_diagonal_(1.0)
    assert nearest_to_all(near, 3).tolist() == [2, 6, 8]
    assert sorted(nearest_to_all(near, 9).tolist()) == list(range(9))


def test_a_dictionary_that_cannot_be_condensed_says_what_to_set(made) -> None:
    with pytest.raises(ConfigError, match=r"model\.keep is 0"):
        made().condense(made())
    with pytest.raises(ConfigError, match="below its number of anchors"):
        made(keep=COUNT).condense(made())
    with pytest.raises(ConfigError, match="the teacher is a Linear"):
        made(keep=3).condense(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="same parts, image_px, max_tokens"):
        made(keep=3).condense(made(max_tokens=12))
    other = made()
    other.vision = build_vision("conv", PX, VisionShape(widths=(8, 16))).eval()
    with pytest.raises(ConfigError, match="of other encoders"):
        made(keep=3).condense(other)
