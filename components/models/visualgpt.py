"""VisualGPT: a GPT-2 that looks at regions through self-resurrecting gates (Chen et al. 2022, arXiv:2102.10407).

Where paper and released code differ the config says which is meant. Its second training by CIDEr reward is not here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.abilities import LanguageModel, Views
from components.config import Config, ConfigError
from components.models.blocks import KeysValues
from components.models.gpt2 import copy_gpt2, initialise_gpt2
from components.models.parts import NO_PARTS, Part
from components.models.prompts import Prompts, given
from components.models.regions import RegionEncoder, region_slot
from components.models.srau import GatedBlock
from components.models.virtex import Written, refuse_too_long
from components.objectives.language import mean_log_likelihood, predicted, token_cross_entropy
from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.text import Tokenizer
    from components.records import Row

LANGUAGE = ("wte.", "wpe.", "ln_f.")
"""GPT-2's own tensors outside of the blocks."""


@dataclass(frozen=True, kw_only=True)
class VisualGptConfig(Config):
    """What a VisualGPT is made of; the defaults are the tiny preset."""

    vision: Literal["conv", "lite0", "part"] = "conv"
    """Whose map's cells are the regions: a small ResNet that learns, the frozen pretrained Lite0, or the frozen tower of
    the part "vision"."""
    image_px: int = 64
    """Side of the square input image, in pixels."""
    vision_widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage of "conv"; the map's stride is 4 and doubles with every further stage."""
    places: bool = True
    """A learned vector for each cell of the map; without it regions have no order, as the paper's detections."""
    max_tokens: int = 24
    """Longest caption, with `<bos>` and `<eos>`."""
    layers: int = 4
    """GPT-2 blocks. These, `width` and `heads` are the language model's it starts from."""
    width: int = 128
    heads: int = 4
    levels: int = 3
    """Layers of the region encoder; every decoder block reads the output of each."""
    encoder_inner: int = 512
    """Width between the two layers of an encoder block."""
    gate_input: Literal["concat", "hidden"] = "concat"
    """What a gate looks at: words and what was seen through weights of its own (the released code), or the words'
    state just as it is (the paper)."""
    threshold: float = 0.2
    """tau: gates at or below it are shut; in [0, 0.5), so that never both are."""
    dropout: float = 0.1
    """Share of activations dropped, in [0, 1)."""
    bos_id: int = 1
    pad_id: int = 0
    language_lr_scale: float = 1.0
    """Learning rate of GPT-2's own weights over that of the rest; 0.2 for a real GPT-2."""
    flip: bool = False
    """Train on mirrored images too, with left and right swapped in their captions."""

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config must equal itself after a checkpoint.
        object.__setattr__(self, "vision_widths", tuple(self.vision_widths))
        if self.width % self.heads:
            raise ConfigError(
                f"width={self.width} is not a multiple of heads={self.heads}; "
                "choose a number of heads that divides it."
            )
        if not 0 <= self.threshold < 0.5:
            raise ConfigError(
                f"threshold={self.threshold} is not in [0, 0.5): from 0.5 on both gates can be shut, and what they "
                "shut off learns no more. The released code's command has 0.2."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} is not in [0, 1); GPT-2 has 0.1.")
        if self.levels < 1:
            raise ConfigError(f"levels={self.levels} leaves nothing to look at; the paper has 3.")

    def fitted(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """With the tokenizer's vocabulary and special ids."""
        fitted = super().fitted(rows, tokenizer)
        return replace(fitted, bos_id=tokenizer.bos_id, pad_id=tokenizer.pad_id)

    @classmethod
    def small(cls) -> Self:
        """Half as deep and wide as the paper's."""
        return cls(vision="lite0", image_px=224, layers=6, width=384, heads=6, encoder_inner=1024)

    @classmethod
    def paper(cls) -> Self:
        """GPT-2 of 124 M and three encoder layers over fixed regions: the cells of a frozen tower that is handed in, for
        the paper's detections."""
        return cls(
            vision="part", image_px=224, places=False, max_tokens=1024, layers=12, width=768,
            heads=12, encoder_inner=2048, vocab_size=50257, language_lr_scale=1.0,
        )  # fmt: skip


class VisualGpt(nn.Module):
    """Learns captions with all of a GPT-2, whose words may look at regions."""

    Config: ClassVar[type[VisualGptConfig]] = VisualGptConfig
    PARTS: ClassVar[Mapping[str, type]] = {"vision": nn.Module}
    STARTS: ClassVar[Mapping[str, type]] = {"lm": LanguageModel}
    TOKENIZER: ClassVar[str | None] = "lm"
    ROWS_APART: ClassVar[bool] = True

    def __init__(self, config: VisualGptConfig, parts: Mapping[str, Part] = NO_PARTS) -> None:
        super().__init__()
        self.config = config
        self.vision = region_slot(
            config.vision, config.image_px, config.vision_widths, parts, "VisualGPT"
        )
        self.encoder = RegionEncoder(
            self.vision.map_width, config.width, config.heads, inner=config.encoder_inner,
            layers=config.levels, dropout=config.dropout,
            places=self.vision.map_tokens if config.places else 0,
        )  # fmt: skip
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.max_tokens, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(GatedBlock(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        for table in (self.wte, self.wpe):
            nn.init.normal_(table.weight, std=0.02)
        initialise_gpt2(self.h)

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(image_px=config.image_px, max_tokens=config.max_tokens, flip=config.flip)

    def initialise(self, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Load a frozen tower's weights, and copy those of the language model "lm", if there are such.

        Raises PretrainedMissing, and ConfigError for a language model that does not fit.
        """
        if self.config.vision != "part":
            self.vision.initialise()
        if "lm" in parts:
            copy_gpt2(parts["lm"], self, heads=self.config.heads)

    def loss(self, batch: Batch) -> Loss:
        """Mean of minus log p of each token that is not given, in nats."""
        return self.view_loss(self.views(batch), batch)

    def views(
        self, batch: Batch, wanted: Collection[str] = (), like: Views | None = None
    ) -> dict[str, Tensor]:
        """Logits of each token that is not given, `tokens`; and, if wanted, how much vision passes to each word at each
        level, the mean over width and blocks: `gates`, (B, T, levels)."""
        tokens_BT = batch.tokens_BT[:, : int(batch.lengths_B.max())]
        opened: list[Tensor] | None = [] if "gates" in wanted else None
        hidden_BTD = self.read_texts(
            self._levels(batch.pixels_BCHW, batch.keys_B), tokens_BT[:, :-1], opened=opened
        )
        learnt_BT = predicted(batch.lengths_B, batch.prompts_B, tokens_BT.shape[1])
        seen = {
            "tokens": self.logits(hidden_BTD[learnt_BT]),
            "tokens_at": learnt_BT,
            "labels": tokens_BT[:, 1:][learnt_BT],
        }
        return seen | ({"gates": torch.stack(opened).mean(dim=0)} if opened else {})

    def view_loss(self, views: Views, batch: Batch) -> Loss:
        """As `loss`."""
        words = token_cross_entropy(views["tokens"], views["labels"])
        return Loss(words, {"words": words.detach()}, items=views["tokens_at"].sum())

    def match(
        self,
        pixels_BCHW: Tensor,
        tokens_BT: Tensor,
        lengths_B: Tensor,
        keys_B: Tensor | None = None,
    ) -> Tensor:
        """(B,) mean log-likelihood of text i's tokens given image i, at most 0."""
        hidden_BTD = self.read_texts(self._levels(pixels_BCHW, keys_B), tokens_BT[:, :-1])
        learnt_BT = predicted(lengths_B, torch.ones_like(lengths_B), tokens_BT.shape[1])
        labels_N = tokens_BT[:, 1:][learnt_BT]
        return mean_log_likelihood(self.logits(hidden_BTD[learnt_BT]), labels_N, learnt_BT)

    def prefill(
        self, pixels_BCHW: Tensor, keys_B: Tensor | None = None, prompts: Prompts = None
    ) -> tuple[Written, Tensor, Tensor]:
        """Read the images, `<bos>` and the prompts: (state, logits_BV of the next word, hidden_BTD)."""
        levels = self._levels(pixels_BCHW, keys_B)
        images = tuple(image for block in self.h for image in block.read(levels))
        ids = {"bos_id": self.config.bos_id, "pad_id": self.config.pad_id}
        start = given(prompts, pixels_BCHW.shape[0], **ids, device=levels[0].device)
        hidden_BTD, kept = self._read(images, start.tokens_BT, start.positions_BT, start.mask)
        state = Written(images, start.cache(kept))
        return state, self.logits(hidden_BTD[:, -1]), start.hide_padding(hidden_BTD)

    def step(self, state: Written, tokens_N: Tensor) -> tuple[Written, Tensor]:
        """Append one token to every text: (state, hidden_ND)."""
        return state.after(tokens_N, self._read)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) of the word that follows each state, by the embedding itself."""
        return F.linear(hidden_ND, self.wte.weight)

    def read_texts(
        self,
        levels: Sequence[Tensor],
        tokens_BT: Tensor,
        regions_BN: Tensor | None = None,
        opened: list[Tensor] | None = None,
    ) -> Tensor:
        """Whole texts over encoded regions: (B, T, D), states after the final norm.

        regions_BN, opened: as a block has them. Padding after a text is hidden by causal order.
        """
        place_1T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        x_BTD = self._embed(tokens_BT, place_1T)
        for block in self.h:
            x_BTD, _ = block(x_BTD, block.read(levels), regions_BN=regions_BN, opened=opened)
        return self.ln_f(x_BTD)

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """GPT-2's own weights at their rate and the rest at full rate; matrices decay, vectors do not."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, param in self.named_parameters():
            if param.requires_grad:
                whose = "language" if _is_language(name) else "seeing"
                kind = "matrices" if param.ndim >= 2 else "vectors"
                groups.setdefault(f"{whose}_{kind}", []).append(param)
        return [
            {
                "name": name,
                "params": params,
                "lr_scale": self.config.language_lr_scale if name.startswith("language") else 1.0,
                "weight_decay": name.endswith("matrices"),
            }
            for name, params in groups.items()
        ]

    def after_step(self) -> None:
        """Nothing to clamp."""

    def _levels(self, pixels_BCHW: Tensor, keys_B: Tensor | None) -> list[Tensor]:
        map_BND, _ = self.vision.encode(pixels_BCHW, keys_B)
        return self.encoder(map_BND)

    def _embed(self, tokens_BT: Tensor, places_BT: Tensor) -> Tensor:
        refuse_too_long(places_BT, self.config.max_tokens)
        return self.drop(self.wte(tokens_BT) + self.wpe(places_BT))

    def _read(
        self,
        images: Sequence[KeysValues],
        tokens_BT: Tensor,
        places_BT: Tensor,
        mask: Tensor | None,
        past: Sequence[KeysValues] = (),
    ) -> tuple[Tensor, list[KeysValues]]:
        """(hidden_BTD after the final norm, each block's keys and values of the words)."""
        x_BTD, kept, levels = self._embed(tokens_BT, places_BT), [], self.config.levels
        for number, block in enumerate(self.h):
            regions = images[number * levels : (number + 1) * levels]
            x_BTD, keys_values = block(x_BTD, regions, past[number] if past else None, mask)
            kept.append(keys_values)
        return self.ln_f(x_BTD), kept


def _is_language(name: str) -> bool:
    return name.startswith(LANGUAGE) or (
        name.startswith("h.") and ".look." not in name and ".gate_inputs." not in name
    )
