"""What the language model slot owes: every layout equals its transformers class, with and without a cache."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.abilities import LanguageModel, Learns, TextEncoder
from components.config import ConfigError
from components.data.text import Tokenizer
from components.models.causal_lm import CausalLm, CausalLmConfig, ContextTooLong, require_fit
from components.models.lm_layouts import LAYOUTS
from components.objectives.contrastive import simctg
from components.records import Batch

VOCABULARY = 40
TOKENS = torch.tensor([[1, 5, 9, 30, 7, 12], [1, 22, 6, 8, 8, 39]])


def _config(layout: str = "gpt2", **changes) -> CausalLmConfig:
    sizes = {"width": 32, "layers": 2, "heads": 4, "positions": 24, "max_tokens": 16}
    return CausalLmConfig(layout=layout, **{**sizes, "vocab_size": VOCABULARY, **changes})


@pytest.fixture(params=sorted(LAYOUTS))
def lm(request) -> CausalLm:
    torch.manual_seed(0)
    made = CausalLm(_config(request.param)).eval()
    for (
        param
    ) in made.parameters():  # the start is too near to nothing for an order or a bias to show
        torch.nn.init.normal_(param, std=0.2)
    return made


def _batch(prompts: tuple[int, ...] = (1, 1, 1)) -> Batch:
    tokens = torch.tensor([[1, 5, 6, 7, 8, 39], [1, 9, 10, 39, 0, 0], [1, 4, 4, 5, 39, 0]])
    return Batch(
        pixels_BCHW=torch.zeros(3, 3, 0, 0, dtype=torch.uint8),
        tokens_BT=tokens,
        lengths_B=torch.tensor([6, 4, 5]),
        groups_B=torch.arange(3),
        keys_B=2 * torch.arange(3),
        prompts_B=torch.tensor(prompts),
    )


def _logits(lm: CausalLm, tokens: Tensor, **given) -> Tensor:
    return lm.logits(lm.run(lm.embed(tokens), **given)[0])


@torch.no_grad()
def test_logits_are_those_of_the_transformers_class(lm: CausalLm) -> None:
    assert type(lm.model).__module__.startswith("transformers.models")
    wanted = lm.model(input_ids=TOKENS).logits
    torch.testing.assert_close(_logits(lm, TOKENS), wanted, atol=1e-5, rtol=1e-5)
    assert wanted.std() > 0.1


@torch.no_grad()
def test_reading_through_the_cache_is_reading_at_once(lm: CausalLm) -> None:
    wanted = _logits(lm, TOKENS)
    hidden, past = lm.run(lm.embed(TOKENS[:, :2]))
    found = [*lm.logits(hidden).unbind(1)]
    for at in range(2, 6):
        hidden, past = lm.step(lm.embed(TOKENS[:, at]), past)
        found.append(lm.logits(hidden))
    assert past.length == 6
    torch.testing.assert_close(torch.stack(found, 1), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_is_not_changed_by_reading_on(lm: CausalLm) -> None:
    _, past = lm.run(lm.embed(TOKENS[:, :3]))
    one, _ = lm.step(lm.embed(TOKENS[:, 3]), past)
    lm.step(lm.embed(TOKENS[:, 4]), past)
    again, _ = lm.step(lm.embed(TOKENS[:, 3]), past)
    assert torch.equal(one, again)
    assert past.length == 3


@torch.no_grad()
def test_repeated_and_reordered_rows_go_on_as_their_own_texts(lm: CausalLm) -> None:
    _, past = lm.run(lm.embed(TOKENS[:, :4]))
    order = torch.tensor([3, 0, 2])  # of texts 0 0 1 1
    moved = past.reorder(torch.tensor([0, 0, 1, 1])).reorder(order)
    next_tokens = torch.tensor([7, 8, 9])
    found, _ = lm.step(lm.embed(next_tokens), moved)
    whole = torch.cat([TOKENS[[1, 0, 1], :4], next_tokens[:, None]], 1)
    wanted, _ = lm.run(lm.embed(whole))
    torch.testing.assert_close(found, wanted[:, -1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(wanted[0, -1], wanted[1, -1])


@torch.no_grad()
def test_a_batch_padded_on_the_left_reads_as_its_rows_alone(lm: CausalLm) -> None:
    short, long = torch.tensor([[1, 5, 9]]), torch.tensor([[1, 22, 6, 8, 8]])
    padded = torch.cat([torch.cat([torch.zeros(1, 2).long(), short], 1), long])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    hidden, past = lm.run(lm.embed(padded), mask_BT=mask)
    after, _ = lm.step(lm.embed(torch.tensor([7, 7])), past)
    for row, alone in enumerate((short, long)):
        wanted, _ = lm.run(lm.embed(torch.cat([alone, torch.tensor([[7]])], 1)))
        length = alone.shape[1]
        torch.testing.assert_close(hidden[row, -length:], wanted[0, :-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(after[row], wanted[0, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_layouts_with_learned_positions_feel_where_a_text_starts(lm: CausalLm) -> None:
    moved = torch.arange(6).expand(2, -1) + 7
    here, there = _logits(lm, TOKENS), _logits(lm, TOKENS, positions_BT=moved)
    absolute = LAYOUTS[lm.config.layout].absolute
    assert torch.allclose(here, there, atol=1e-4) != absolute
    assert (lm.max_positions == 24) == absolute


def test_every_layout_is_a_language_model_a_text_encoder_and_learns(lm: CausalLm) -> None:
    assert isinstance(lm, LanguageModel)
    assert isinstance(lm, TextEncoder)
    assert isinstance(lm, Learns)
    assert len(lm.blocks) == 2
    assert lm.eos_id == VOCABULARY - 1


def test_every_parameter_learns_and_a_repeated_batch_is_learnt(lm: CausalLm) -> None:
    lm.train()
    groups = lm.param_groups()
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in lm.parameters()}
    optimiser = torch.optim.AdamW([{"params": group["params"]} for group in groups], lr=1e-2)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = lm.loss(_batch())
        loss.total.backward()
        if not losses:
            silent = [name for name, p in lm.named_parameters() if p.grad is None]
            assert not silent
        optimiser.step()
        losses.append(loss.total.item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_loss_is_the_mean_over_tokens_that_are_not_given_and_not_padding() -> None:
    torch.manual_seed(0)
    lm, batch = CausalLm(_config()).eval(), _batch(prompts=(3, 1, 4))
    log_p = torch.log_softmax(_logits(lm, batch.tokens_BT[:, :-1]), -1)
    chosen = log_p.gather(2, batch.tokens_BT[:, 1:, None])[..., 0]
    learnt = [(0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (2, 3)]
    wanted = -torch.stack([chosen[place] for place in learnt]).mean()
    torch.testing.assert_close(lm.loss(batch).total, wanted)


def test_padding_changes_no_loss() -> None:
    torch.manual_seed(0)
    lm, batch = CausalLm(_config(simctg_margin=0.5)).eval(), _batch()
    longer = torch.cat([batch.tokens_BT, torch.zeros(3, 2).long()], 1)
    padded = Batch(**{**vars(batch), "tokens_BT": longer})
    torch.testing.assert_close(lm.loss(padded).total, lm.loss(batch).total)


def test_training_starts_texts_anywhere_in_the_context_and_reading_at_its_start() -> None:
    torch.manual_seed(0)
    lm, seen = CausalLm(_config()), []
    wpe = lm.model.transformer.wpe
    wpe.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for _ in range(60):
        lm.loss(_batch())
    starts = torch.cat([positions[:, 0] for positions in seen])
    # 24 positions, 5 inputs: 0 to 19
    assert (starts.min(), starts.max()) == (0, 19)
    assert all((positions.diff(dim=1) == 1).all() for positions in seen)
    seen.clear()
    lm.eval().loss(_batch())
    assert seen[0].tolist() in ([[0, 1, 2, 3, 4]], [[0, 1, 2, 3, 4]] * 3)


def test_simctg_by_hand() -> None:
    """Cosines 1, 0 and 0 of three tokens at margin 0.5: (0.5 + 0 + 0) / 3 pairs; padding and single tokens take no part."""
    hidden = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [5.0, 5.0]]])
    mask = torch.tensor([[True, True, True, False]])
    assert simctg(hidden, mask, 0.5).item() == pytest.approx(0.5 / 3)
    assert simctg(hidden, mask[:, :] & torch.tensor([True, False, False, False]), 0.5).item() == 0
    assert simctg(hidden, mask, 0.0).item() == 0


def test_the_margin_loss_is_added_when_it_is_asked_for() -> None:
    torch.manual_seed(0)
    lm = CausalLm(_config(simctg_margin=0.5)).eval()
    loss = lm.loss(_batch())
    assert loss.parts["simctg"] > 0
    torch.testing.assert_close(loss.total.detach(), loss.parts["words"] + loss.parts["simctg"])
    assert set(CausalLm(_config()).loss(_batch()).parts) == {"words"}


@torch.no_grad()
def test_a_text_is_the_mean_of_its_states(lm: CausalLm) -> None:
    lengths = torch.tensor([4, 6])
    found = lm.encode_texts(TOKENS, lengths)
    hidden, _ = lm.run(lm.embed(TOKENS[:1, :4]))
    torch.testing.assert_close(found[0], hidden[0].mean(0), atol=1e-5, rtol=1e-5)
    assert found.shape == (2, 32)


def test_a_position_that_does_not_exist_is_refused_with_advice() -> None:
    lm = CausalLm(_config()).eval()
    with pytest.raises(ContextTooLong, match="has 24"):
        lm.run(torch.zeros(1, 25, 32))


def test_a_tokenizer_of_another_model_is_refused() -> None:
    tokenizer = Tokenizer.train(["a red circle"], 300)
    fitted = _config().fitted([], tokenizer)
    require_fit(CausalLm(fitted), tokenizer)
    other = Tokenizer.train(["a red circle", "a blue cross and more"], 300)
    assert other.vocab_size != tokenizer.vocab_size
    with pytest.raises(ConfigError, match="was trained with"):
        require_fit(CausalLm(fitted), other)
    with pytest.raises(ConfigError, match="was trained with"):
        require_fit(CausalLm(_config()), tokenizer)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"width": 30}, "divides it"),
        ({"max_tokens": 25}, "must fit into the context"),
        ({"simctg_margin": 3.0}, r"in \[0, 2\]"),
        ({"dropout": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_a_config_that_cannot_work_is_refused_with_advice(wrong: dict, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        _config(**wrong)


def test_the_paper_preset_is_gpt2() -> None:
    """124 M parameters as the released checkpoint counts (124,439,808 with tied words)."""
    with torch.device("meta"):
        lm = CausalLm(CausalLmConfig.paper())
    assert sum(param.numel() for param in lm.parameters()) == 124_439_808
