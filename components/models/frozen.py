"""Frozen: an image as a few words that a language model which never changes goes on from
(Tsimpoukelli et al. 2021, arXiv:2106.13884; ilkerkesen/frozen where the paper is silent).

Besides the letters of `records.py`: P prefix tokens of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from components.abilities import LanguageModel, Shots, Views
from components.config import Config, ConfigError
from components.models.backbones import VisionShape, VisionSlot, build_vision, frozen_vision
from components.models.causal_lm import require_fit
from components.models.interleave import require_room
from components.models.parts import NO_PARTS, Part, handed
from components.models.prompts import write_answers
from components.objectives.language import mean_log_likelihood, predicted, token_cross_entropy
from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.text import Tokenizer
    from components.records import Row

ANSWER_TOKENS = 12
"""Longest answer that is written."""


@dataclass(frozen=True, kw_only=True)
class FrozenConfig(Config):
    """What turns an image into words for the language model; the defaults are the tiny preset."""

    vision: Literal["conv", "resnet50", "lite0", "part"] = "conv"
    """Image tower: a small ResNet, a ResNet-50 in place of the paper's NF-ResNet-50, the frozen pretrained Lite0, or
    the tower of the part it is handed, frozen too."""
    image_px: int = 64
    """Side of the square input image, in pixels."""
    vision_widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of each stage of "conv"; the map's stride is 4 and doubles with every further stage."""
    features: Literal["map", "pooled"] = "map"
    """What the mapper reads: the whole map, which keeps where things are, or its mean, as in the paper."""
    prefix_tokens: int = 4
    """Embeddings that an image becomes; the paper's n."""
    mapper_std: float = 0.005
    """Of the mapper's first weights, so that a prefix starts at the size of word embeddings."""
    separated: bool = True
    """A `<sep>` between an image and its text, as between the two halves of the documents our LM stage learns from."""
    sep_id: int = 5
    """The tokenizer's `<sep>`; training sets it."""
    max_tokens: int = 24
    """Longest text, with `<bos>` and `<eos>`."""
    texts: str = "captions"
    """Which texts it learns from: a name in `components/data/texts.py`. "questions" is the paper's upper bound."""
    flip: bool = False
    """Train on mirrored images too, with left and right swapped in their texts."""
    language: Literal["frozen", "finetuned", "scratch"] = "frozen"
    """The paper's ablations: the language model learns too, from its weights or from random ones."""
    blind: bool = False
    """The paper's ablation: the mapper is given zeros in place of the image."""

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config must equal itself after a checkpoint.
        object.__setattr__(self, "vision_widths", tuple(self.vision_widths))
        if self.prefix_tokens < 1:
            raise ConfigError(
                f"prefix_tokens={self.prefix_tokens} shows nothing; at least 1, the paper's is 2."
            )

    def fitted(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """With the tokenizer's vocabulary and its `<sep>`."""
        return replace(self, vocab_size=tokenizer.vocab_size, sep_id=tokenizer.sep_id)

    @classmethod
    def small(cls) -> Self:
        """The paper's vision and prefix, for a language model of some hundred million parameters."""
        return cls(
            vision="resnet50", image_px=224, features="pooled", prefix_tokens=2, max_tokens=64,
            separated=False,
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """As `small`: the paper's size is its language model's, 7 B parameters, which is a part."""
        return cls.small()


class Frozen(nn.Module):
    """Learns to show an image to a language model as a prefix, by the caption the model then writes."""

    Config: ClassVar[type[FrozenConfig]] = FrozenConfig
    PARTS: ClassVar[Mapping[str, type]] = {"lm": LanguageModel, "vision": nn.Module}
    TOKENIZER: ClassVar[str | None] = "lm"
    ROWS_APART: ClassVar[bool] = True

    def __init__(self, config: FrozenConfig, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Raises ConfigError for a missing part, one too short for a text, or one that reads another vocabulary."""
        super().__init__()
        self.config = config
        self.lm: Any = _language_model(config, parts)
        self.vision = _vision(config, parts)
        seen = self.vision.map_width * self.vision.map_tokens
        seen = seen if config.features == "map" else self.vision.pooled_width
        self.mapper = nn.Linear(seen, config.prefix_tokens * self.lm.width)
        nn.init.normal_(self.mapper.weight, std=config.mapper_std)
        nn.init.zeros_(self.mapper.bias)
        if config.blind:
            self.vision.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """A frozen language model stays in eval mode: it drops nothing."""
        super().train(mode)
        if self.config.language == "frozen":
            self.lm.eval()
        return self

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(
            image_px=config.image_px,
            max_tokens=config.max_tokens,
            flip=config.flip,
            texts=config.texts,
        )

    def initialise(self) -> None:
        """Load Lite0's weights, where that is the tower; a part came with its own. Raises PretrainedMissing."""
        if self.config.vision != "part":
            self.vision.initialise()

    def loss(self, batch: Batch) -> Loss:
        """Mean of minus log p of each token that is not given, in nats; an image's own places predict nothing."""
        return self.view_loss(self.views(batch), batch)

    def views(
        self, batch: Batch, wanted: Collection[str] = (), like: Views | None = None
    ) -> dict[str, Tensor]:
        """Logits of each token that is not given, `tokens`, and the embeddings that images became, `prefix`."""
        tokens_BT = batch.tokens_BT[:, : int(batch.lengths_B.max())]
        prefix_BPD = self._prefix(batch.pixels_BCHW, batch.keys_B)
        hidden_BTD = self._states(prefix_BPD, tokens_BT)
        learnt_BT = predicted(batch.lengths_B, batch.prompts_B, tokens_BT.shape[1])
        return {
            "tokens": self.lm.logits(hidden_BTD[learnt_BT]),
            "tokens_at": learnt_BT,
            "labels": tokens_BT[:, 1:][learnt_BT],
            "prefix": prefix_BPD,
        }

    @torch.no_grad()
    def context_views(self, batch: Batch, shots_BK: Tensor) -> dict[str, Tensor]:
        """`context`: as `tokens` of `views`, each row behind the rows of the batch that are its demonstrations.

        Raises ConfigError where so many demonstrations do not fit the language model.
        """
        tokens_BT = batch.tokens_BT[:, : int(batch.lengths_B.max())]
        between_SD = self._words(self._between, tokens_BT.device)
        longest = max(self.config.max_tokens, tokens_BT.shape[1]) - 2 + 2 * len(between_SD)
        each = self.config.prefix_tokens + longest
        require_room(self.lm, 1 + each * (shots_BK.shape[1] + 1))
        prefix_BPD = self._prefix(batch.pixels_BCHW, batch.keys_B)
        words_BTD = self.lm.embed(tokens_BT)
        # Without <bos> and <eos>, as `prefill_shots` has them.
        shown = [
            torch.cat([prefix_PD, between_SD, words_TD[1 : length - 1]])
            for prefix_PD, words_TD, length in zip(
                prefix_BPD, words_BTD, batch.lengths_B.tolist(), strict=True
            )
        ]
        rows = []
        for row, shots in enumerate(shots_BK.tolist()):
            before = [piece for shot in shots for piece in (shown[shot], between_SD)]
            rows.append(torch.cat([words_BTD[row, :1], *before, shown[row]]))
        hidden_BLD, _ = self._run(rows)
        # A row ends with the states from which its own tokens are predicted.
        counts = predicted(batch.lengths_B, batch.prompts_B, tokens_BT.shape[1]).sum(dim=1).tolist()
        ends = [
            hidden_LD[len(hidden_LD) - count :]
            for hidden_LD, count in zip(hidden_BLD, counts, strict=True)
        ]
        return {"context": self.lm.logits(torch.cat(ends))}

    def view_loss(self, views: Views, batch: Batch) -> Loss:
        """As `loss`."""
        total = token_cross_entropy(views["tokens"], views["labels"])
        return Loss(total, {"words": total.detach()}, items=views["tokens_at"].sum())

    def prefill(
        self,
        pixels_BCHW: Tensor,
        keys_B: Tensor | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Any, Tensor, Tensor]:
        """Read `<bos>`, the images and the prompts: (state, logits_BV of the next word, hidden_BTD, 0 at images)."""
        prefix_BPD = self._prefix(pixels_BCHW, keys_B)
        if prompts is None:
            return self._read_alike(prefix_BPD)
        rows = [
            [[self.lm.bos_id], prefix_PD, self._after(prompts, row)]
            for row, prefix_PD in enumerate(prefix_BPD)
        ]
        return self._read(rows)

    def prefill_shots(
        self,
        shots: Sequence[Shots],
        pixels_BCHW: Tensor,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Any, Tensor, Tensor]:
        """As `prefill`, behind each row's demonstrations; one without an image is its text alone."""
        images = [image for row in shots for image, _ in row if image is not None]
        # One key for all: what a tower remembers is told apart by pixels, and demonstrations come again.
        pixels_NCHW = torch.cat([pixels_BCHW, *(image[None] for image in images)])
        prefix_NPD = self._prefix(pixels_NCHW, torch.zeros(len(pixels_NCHW), dtype=torch.long))
        shown, rows = iter(prefix_NPD[len(pixels_BCHW) :]), []
        for number, demonstrations in enumerate(shots):
            pieces: list[Any] = [[self.lm.bos_id]]
            for image, words in demonstrations:
                pieces += [] if image is None else [next(shown), self._between]
                pieces.append([*words, *self._between])
            rows.append([*pieces, prefix_NPD[number], self._after(prompts, number)])
        return self._read(rows)

    def step(self, state: Any, tokens_N: Tensor) -> tuple[Any, Tensor]:
        """Append one token to every text: (state, hidden_ND)."""
        hidden_ND, state = self.lm.step(self.lm.embed(tokens_N), state)
        return state, hidden_ND

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) of the word that follows each state."""
        found: Tensor = self.lm.logits(hidden_ND)
        return found

    def match(
        self,
        pixels_BCHW: Tensor,
        tokens_BT: Tensor,
        lengths_B: Tensor,
        keys_B: Tensor | None = None,
    ) -> Tensor:
        """(B,) mean log p, in nats, of each text's words and its end, given its image; at most 0."""
        hidden_BTD = self._states(self._prefix(pixels_BCHW, keys_B), tokens_BT)
        learnt_BT = predicted(lengths_B, torch.ones_like(lengths_B), tokens_BT.shape[1])
        logits_NV = self.lm.logits(hidden_BTD[learnt_BT])
        return mean_log_likelihood(logits_NV, tokens_BT[:, 1:][learnt_BT], learnt_BT)

    def answer(
        self,
        pixels_BCHW: Tensor,
        questions: Sequence[str],
        tokenizer: Tokenizer,
        keys_B: Tensor | None = None,
    ) -> list[str]:
        """What is written greedily, up to its end or the end of its line. Raises QuestionTooLong."""
        written = write_answers(
            self, pixels_BCHW, questions, tokenizer, keys_B,
            before=1 + self.config.prefix_tokens + len(self._between),
            positions=self.lm.max_positions, longest=ANSWER_TOKENS,
        )  # fmt: skip
        return [text.strip().partition("\n")[0] for text in written]

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """All that learns, without decay: the paper has plain Adam."""
        params = [param for param in self.parameters() if param.requires_grad]
        return [{"name": "vision", "params": params, "lr_scale": 1.0, "weight_decay": False}]

    def after_step(self) -> None:
        """Nothing to clamp."""

    @property
    def _between(self) -> list[int]:
        return [self.config.sep_id] if self.config.separated else []

    def _after(self, prompts: Sequence[Sequence[int]] | None, row: int) -> list[int]:
        """What stands between the row's image and its first word."""
        return [*self._between, *(prompts[row] if prompts else ())]

    def _prefix(self, pixels_BCHW: Tensor, keys_B: Tensor | None) -> Tensor:
        """(B, P, D): each image as embeddings of the language model."""
        if self.config.blind:
            seen_BF = self.mapper.weight.new_zeros(len(pixels_BCHW), self.mapper.in_features)
        else:
            map_BND, pooled_BD = self.vision.encode(pixels_BCHW, keys_B)
            seen_BF = map_BND.flatten(1) if self.config.features == "map" else pooled_BD
        return self.mapper(seen_BF).unflatten(1, (self.config.prefix_tokens, -1))

    def _states(self, prefix_BPD: Tensor, tokens_BT: Tensor) -> Tensor:
        """(B, T - 1, D): the state from which each token after `<bos>` is predicted."""
        # No gradient reaches the language model's weights, but all of it passes through them to the prefix.
        sep_BS = tokens_BT.new_tensor(self._between).expand(len(tokens_BT), -1)
        bos_B1D, words_BSD = (
            self.lm.embed(tokens)
            for tokens in (tokens_BT[:, :1], torch.cat([sep_BS, tokens_BT[:, 1:-1]], dim=1))
        )
        hidden_BLD, _ = self.lm.run(torch.cat([bos_B1D, prefix_BPD, words_BSD], dim=1))
        # The first word follows the last token of what stands before it; an image's own places predict nothing.
        return hidden_BLD[:, prefix_BPD.shape[1] + sep_BS.shape[1] :]

    def _read(self, rows: Sequence[Sequence[Any]]) -> tuple[Any, Tensor, Tensor]:
        """Rows of pieces, each ids or an image's embeddings, padded on the left so that all end in the last column."""
        device = self.mapper.weight.device
        embedded = [
            torch.cat(
                [
                    piece if isinstance(piece, Tensor) else self._words(piece, device)
                    for piece in row
                ]
            )
            for row in rows
        ]
        texts = [
            [not isinstance(piece, Tensor) for piece in row for _ in range(len(piece))]
            for row in rows
        ]
        hidden_BTD, past = self._run(embedded)
        longest = hidden_BTD.shape[1]
        text_BT = torch.tensor(
            [[False] * (longest - len(row)) + row for row in texts], device=device
        )
        return past, self.lm.logits(hidden_BTD[:, -1]), hidden_BTD * text_BT[..., None]

    def _run(self, rows: Sequence[Tensor]) -> tuple[Tensor, Any]:
        """Rows of embeddings, padded on the left so that all end in the last column: (hidden_BTD, the LM's cache)."""
        longest = max(map(len, rows))
        inputs_BTD = torch.stack(
            [nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows]
        )
        padding_B = torch.tensor([longest - len(row) for row in rows], device=inputs_BTD.device)
        mask_BT = torch.arange(longest, device=inputs_BTD.device) >= padding_B[:, None]
        hidden_BTD, past = self.lm.run(inputs_BTD, mask_BT=mask_BT)
        return hidden_BTD, past

    def _read_alike(self, prefix_BPD: Tensor) -> tuple[Any, Tensor, Tensor]:
        """As `_read`, of `<bos>`, the image and what stands behind it in every row: nothing to pad."""
        before_SD, after_SD = (
            self._words(ids, prefix_BPD.device) for ids in ([self.lm.bos_id], self._between)
        )
        rows, image = prefix_BPD.shape[:2]
        inputs_BTD = torch.cat(
            [before_SD.expand(rows, -1, -1), prefix_BPD, after_SD.expand(rows, -1, -1)], dim=1
        )
        hidden_BTD, past = self.lm.run(inputs_BTD)
        place_T1 = torch.arange(inputs_BTD.shape[1], device=prefix_BPD.device)[:, None]
        text_T1 = (place_T1 < len(before_SD)) | (place_T1 >= len(before_SD) + image)
        return past, self.lm.logits(hidden_BTD[:, -1]), hidden_BTD * text_T1

    def _words(self, ids: Sequence[int], device: Any) -> Tensor:
        tokens_1T = torch.tensor([list(ids)], dtype=torch.long, device=device)
        words_TD: Tensor = self.lm.embed(tokens_1T)[0]
        return words_TD


def _vision(config: FrozenConfig, parts: Mapping[str, Part]) -> VisionSlot:
    if config.vision == "part":
        return frozen_vision(handed(parts, "vision", nn.Module, "Frozen"), config.image_px)
    shape = VisionShape(widths=config.vision_widths)
    return build_vision(config.vision, config.image_px, shape)


def _language_model(config: FrozenConfig, parts: Mapping[str, Part]) -> nn.Module:
    lm: Any = handed(parts, "lm", LanguageModel, "Frozen")
    if parts["lm"].tokenizer is not None:
        require_fit(lm, parts["lm"].tokenizer)
    if config.vocab_size > lm.vocab_size:
        raise ConfigError(
            f"vocab_size={config.vocab_size} is more than the language model's {lm.vocab_size}; Frozen reads with the "
            "tokenizer of its language model."
        )
    needed = config.max_tokens + config.prefix_tokens + config.separated
    if lm.max_positions is not None and needed > lm.max_positions:
        raise ConfigError(
            f"prefix_tokens={config.prefix_tokens} and max_tokens={config.max_tokens} need {needed} positions, and the "
            f"language model has {lm.max_positions}; shorten them, or train one with more `positions`."
        )
    if config.language == "frozen":
        return lm
    # Its own from here on: what learns is no longer the part it was handed.
    own = deepcopy(lm) if config.language == "finetuned" else type(lm)(lm.config)
    return own.train().requires_grad_(True)
