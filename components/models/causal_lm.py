"""A causal language model behind one interface, whatever its layout; trained on texts it is the stage "lm".

GPT-2 (Radford et al. 2019), OPT (arXiv:2205.01068), GPT-NeoX/Pythia (arXiv:2304.01373) and LLaMA (arXiv:2302.13971),
as `transformers` builds them. The margin loss is SimCTG's (Su et al. 2022, arXiv:2202.06417).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from components.config import Config, ConfigError
from components.models.blocks import KeysValues
from components.models.graphs import has_values
from components.models.lm_layouts import build, layout_of
from components.models.text_cache import TextCache
from components.objectives.contrastive import simctg
from components.objectives.language import predicted, token_cross_entropy
from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.text import Tokenizer
    from components.records import Row


FEW = 16
"""Below so many rows MKL reads a vocabulary's matrix anew for every four of them; with the matrix on the left, once."""


class ContextTooLong(ValueError):
    """More tokens than the language model has positions."""


@dataclass(frozen=True, kw_only=True)
class CausalLmConfig(Config):
    """What a language model is made of; the defaults are the tiny preset."""

    layout: Literal["gpt2", "opt", "gpt_neox", "llama"] = "gpt2"
    """Which kind of model, by its `model_type` in transformers."""
    width: int = 128
    layers: int = 4
    heads: int = 4
    positions: int = 160
    """Tokens the model can read at once: a prompt with images, demonstrations and questions must fit."""
    max_tokens: int = 64
    """Longest text it learns from, with `<bos>` and `<eos>`."""
    bos_id: int = 1
    eos_id: int | None = None
    """None: the last entry of the vocabulary, where our tokenizers have it."""
    pad_id: int = 0
    dropout: float = 0.0
    """Share of activations dropped in training, in [0, 1)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All else of a transformers configuration, by its names there."""
    texts: str = "documents"
    """Which texts it learns from: a name in `components/data/texts.py`."""
    simctg_margin: float = 0.0
    """SimCTG's rho: states of different tokens are pushed until their cosine is below 1 - rho; 0 is off, MAGIC's 0.5."""
    random_offsets: bool = True
    """Texts start at a random position, so that every position is learnt where a prefix will later move the words."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"width={self.width} is not a multiple of heads={self.heads}; "
                "choose a number of heads that divides it."
            )
        if self.max_tokens > self.positions:
            raise ConfigError(
                f"max_tokens={self.max_tokens} is more than positions={self.positions}; "
                "a text that is learnt from must fit into the context."
            )
        if not 0 <= self.dropout < 1 or not 0 <= self.simctg_margin <= 2:
            raise ConfigError(
                f"dropout={self.dropout} must be in [0, 1), simctg_margin={self.simctg_margin} in [0, 2]."
            )

    def fitted(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """With the tokenizer's vocabulary and special ids."""
        return replace(
            self,
            vocab_size=tokenizer.vocab_size,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        )

    @classmethod
    def stand_in(cls) -> Self:
        """Untrained, with words far enough apart to be told: at GPT-2's 0.02 no input makes any word likely."""
        return cls(settings={"initializer_range": 0.1})

    @classmethod
    def small(cls) -> Self:
        """Half as deep and wide as the paper's, to be trained on one GPU."""
        return cls(width=384, layers=6, heads=6, positions=512, max_tokens=128, dropout=0.1)

    @classmethod
    def paper(cls) -> Self:
        """GPT-2, 124 M parameters; its vocabulary has one special, which is all three ids."""
        return cls(
            width=768, layers=12, heads=12, positions=1024, max_tokens=1024, dropout=0.1,
            vocab_size=50257, bos_id=50256, eos_id=50256, pad_id=50256, random_offsets=False,
        )  # fmt: skip


class CausalLm(nn.Module):
    """Learns to continue texts, and lets others read and write through embeddings, states and a cache."""

    Config: ClassVar[type[CausalLmConfig]] = CausalLmConfig

    def __init__(self, config: CausalLmConfig, model: nn.Module | None = None) -> None:
        """model: a transformers model of this config's layout; by default one with random weights."""
        super().__init__()
        self.config = config
        layout = layout_of(config.layout)
        self.model = model if model is not None else _random(config)
        self._trunk, self._blocks = layout.trunk, layout.blocks
        self.width: int = self.model.get_input_embeddings().embedding_dim
        self.vocab_size = config.vocab_size
        self.bos_id, self.pad_id = config.bos_id, config.pad_id
        self.eos_id = config.vocab_size - 1 if config.eos_id is None else config.eos_id
        self.max_positions = config.positions if layout.absolute else None

    @property
    def blocks(self) -> nn.ModuleList:
        """The model's layers in order."""
        blocks = self.model.get_submodule(self._blocks)
        assert isinstance(blocks, nn.ModuleList), "a layout names the list of layers"
        return blocks

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Token ids -> (B, T, width), positions not yet added."""
        return self.model.get_input_embeddings()(tokens_BT)

    def run(
        self,
        inputs_BTD: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask_BT: Tensor | None = None,
    ) -> tuple[Tensor, TextCache]:
        """Embeddings -> (hidden_BTD after the final norm, the cache of them, one text a row).

        positions_BT: of the inputs; by default from 0 on, and padding takes none, so that a row padded on the left reads
            as it does alone.
        mask_BT: bool, False where a row is padded; the cache remembers it.
        Raises ContextTooLong for a position that does not exist.
        """
        rows = inputs_BTD.shape[0]
        if mask_BT is None:
            mask_BT = torch.ones(inputs_BTD.shape[:2], dtype=torch.bool, device=inputs_BTD.device)
        mask_BT = mask_BT.bool()
        if positions_BT is None:
            positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        hidden_BTD, layers = self._read(inputs_BTD, mask_BT.long(), positions_BT, ())
        next_B1 = (positions_BT.max(dim=1, keepdim=True).values + 1).expand(rows, 1)
        return hidden_BTD, TextCache(layers, next_B1, mask_BT[:, None])

    def step(self, inputs_ND: Tensor, past: TextCache) -> tuple[Tensor, TextCache]:
        """The embedding of one more token of each text -> (hidden_ND, the cache with them in it).

        Raises ContextTooLong for a position that does not exist.
        """
        sees_RQS = past.sees_next
        assert sees_RQS is not None, "`run` remembers what each text has read"
        # Of texts that stand alone `transformers` makes what is fastest; a mask of four dimensions it takes as it is.
        mask = sees_RQS[:, 0].long() if sees_RQS.shape[1] == 1 else sees_RQS[:, None]
        hidden_RQD, layers = self._read(past.by_row(inputs_ND), mask, past.next_RQ, past.layers)
        return hidden_RQD.flatten(0, 1), past.grown(layers)

    def _read(
        self,
        inputs_BTD: Tensor,
        mask: Tensor,
        positions_BT: Tensor,
        past: tuple[KeysValues, ...],
    ) -> tuple[Tensor, tuple[KeysValues, ...]]:
        from transformers.cache_utils import DynamicCache

        self._refuse_beyond(positions_BT)
        out = self.model.get_submodule(self._trunk)(
            inputs_embeds=inputs_BTD,
            attention_mask=mask,
            position_ids=positions_BT,
            past_key_values=DynamicCache(past) if past else DynamicCache(),
            use_cache=True,
        )
        layers = tuple(KeysValues(kept[0], kept[1]) for kept in out.past_key_values)
        return out.last_hidden_state, layers

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """States -> (..., vocab_size)."""
        head = self.model.get_output_embeddings()
        if head.bias is None and _are_few(hidden_BTD) and not torch.is_grad_enabled():
            return (head.weight @ hidden_BTD.T).T.contiguous()
        return head(hidden_BTD)

    def encode_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, width): the mean of each text's states, not normalised."""
        mask_BT = _real(tokens_BT, lengths_B)
        hidden_BTD, _ = self.run(self.embed(tokens_BT), mask_BT=mask_BT)
        return (hidden_BTD * mask_BT[..., None]).sum(1) / lengths_B[:, None]

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(image_px=0, max_tokens=config.max_tokens, texts=config.texts)

    def initialise(self) -> None:
        """Nothing: it starts from random weights."""

    def loss(self, batch: Batch) -> Loss:
        """Mean of minus log p of each token that is not given, in nats, and SimCTG's margin loss if it is asked for."""
        inputs_BT = batch.tokens_BT[:, : int(batch.lengths_B.max()) - 1]
        return language_loss(self, batch, self.config.simctg_margin, self._offset(inputs_BT))

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Matrices decay; gains and biases do not."""
        params = [param for param in self.parameters() if param.requires_grad]
        groups = (
            ("matrices", [param for param in params if param.ndim >= 2], True),
            ("vectors", [param for param in params if param.ndim < 2], False),
        )
        return [
            {"name": name, "params": params, "lr_scale": 1.0, "weight_decay": decay}
            for name, params, decay in groups
            if params
        ]

    def after_step(self) -> None:
        """Nothing to clamp."""

    def _offset(self, inputs_BT: Tensor) -> Tensor | None:
        rows, length = inputs_BT.shape
        free = self.config.positions - length
        if not self.config.random_offsets or not self.training or free <= 0:
            return None
        start_B1 = torch.randint(free + 1, (rows, 1), device=inputs_BT.device)
        return start_B1 + torch.arange(length, device=inputs_BT.device)

    def _refuse_beyond(self, positions_BT: Tensor) -> None:
        if self.max_positions is None or not has_values():
            return
        if (last := int(positions_BT.max())) >= self.max_positions:
            raise ContextTooLong(
                f"Position {last + 1}, and this language model has {self.max_positions}; ask for fewer tokens, "
                "demonstrations or prefix tokens, or train a language model with more `positions`."
            )


def language_loss(lm: Any, batch: Batch, margin: float, positions_BT: Tensor | None = None) -> Loss:
    """Mean of minus log p of each token that is not given, in nats; with a margin above 0, SimCTG's loss beside it.

    lm: a LanguageModel. positions_BT: of all tokens but the last; by default from 0 on. Its items are the words: over
    micro-batches and workers the words' loss is exact, and SimCTG's, a mean over pairs, is weighed by words.
    """
    tokens_BT = batch.tokens_BT[:, : int(batch.lengths_B.max())]
    hidden_BTD, _ = lm.run(lm.embed(tokens_BT[:, :-1]), positions_BT=positions_BT)
    # Padding stands after every word, so causal order alone hides it.
    learnt_BT = predicted(batch.lengths_B, batch.prompts_B, tokens_BT.shape[1])
    words = token_cross_entropy(lm.logits(hidden_BTD[learnt_BT]), tokens_BT[:, 1:][learnt_BT])
    items = learnt_BT.sum()
    if not margin:
        return Loss(words, {"words": words.detach()}, items)
    read_BT = _real(tokens_BT[:, :-1], batch.lengths_B - 1)
    pushed = simctg(hidden_BTD, read_BT, margin)
    return Loss(words + pushed, {"words": words.detach(), "simctg": pushed.detach()}, items)


def require_fit(lm: Any, tokenizer: Tokenizer) -> None:
    """Raise ConfigError unless this language model reads what this tokenizer writes."""
    names = ("bos_id", "eos_id", "pad_id")
    ours, theirs = ([getattr(owner, name) for name in names] for owner in (lm, tokenizer))
    if ours != theirs or tokenizer.vocab_size > lm.vocab_size:
        raise ConfigError(
            f"The language model has {lm.vocab_size} tokens and <bos>, <eos>, <pad> = {ours}; the tokenizer has "
            f"{tokenizer.vocab_size} and {theirs}. Take the tokenizer the language model was trained with."
        )


def _random(config: CausalLmConfig) -> nn.Module:
    last = config.vocab_size - 1
    return build(
        config.layout,
        {name: getattr(config, name) for name in ("width", "layers", "heads", "positions")},
        {
            "bos": config.bos_id,
            "eos": last if config.eos_id is None else config.eos_id,
            "pad": config.pad_id,
        },
        vocab_size=config.vocab_size,
        dropout=config.dropout,
        settings=config.settings,
    )


def _are_few(hidden_BTD: Tensor) -> bool:
    # A graph's rows have no number yet.
    return hidden_BTD.ndim == 2 and hidden_BTD.is_cpu and has_values() and len(hidden_BTD) < FEW


def _real(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    return torch.arange(tokens_BT.shape[1], device=tokens_BT.device) < lengths_B[:, None]
