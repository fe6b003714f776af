"""VirTex: a vision tower learns by captioning in both directions (Desai & Johnson 2021, arXiv:2006.06666).

Captions are written by the forward decoder alone; the backward one only teaches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from components.abilities import Views
from components.config import Config, ConfigError
from components.models.backbones import VisionShape, build_vision
from components.models.blocks import CrossAttention, KeysValues, SelfAttention
from components.models.graphs import has_values
from components.models.prompts import Prompts, given
from components.models.text_cache import TextCache, taken
from components.objectives.language import flipped, token_cross_entropy, two_way
from components.records import Batch, BatchSpec, Loss

PAD_ID, BOS_ID = 0, 1
"""The first two specials of every tokenizer here (components/data/text.py)."""


class TextTooLong(ValueError):
    """More tokens than the model has positions."""


@dataclass(frozen=True, kw_only=True)
class VirtexConfig(Config):
    """What a VirTex is made of; the defaults are the tiny preset."""

    vision: Literal["conv", "resnet50", "lite0"] = "conv"
    """Image tower: a small ResNet, the paper's ResNet-50, or the frozen pretrained Lite0."""
    image_px: int = 64
    """Side of the square input image, in pixels."""
    vision_widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of each stage of "conv"; the map's stride is 4 and doubles with every further stage."""
    max_tokens: int = 24
    """Longest caption, with `<bos>` and `<eos>`."""
    layers: int = 1
    """Decoder layers of each direction."""
    width: int = 128
    """Width of the decoders; their inner layer is four times as wide."""
    heads: int = 4
    dropout: float = 0.1
    """Share of activations dropped in the text side, in [0, 1)."""
    vision_lr_scale: float = 1.0
    """Learning rate of the image tower over that of the rest; the paper's 0.2 / 0.001 is 200."""
    flip: bool = True
    """Train on mirrored images too, with left and right swapped in their captions."""

    def __post_init__(self) -> None:
        # JSON knows no tuples; a config must equal itself after a checkpoint.
        object.__setattr__(self, "vision_widths", tuple(self.vision_widths))
        if self.width % self.heads:
            raise ConfigError(
                f"width={self.width} is not a multiple of heads={self.heads}; "
                "choose a number of heads that divides it."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} is not in [0, 1); the paper has 0.1.")

    @classmethod
    def small(cls) -> Self:
        """ResNet-50 with the paper's narrowest decoders (H 512)."""
        return cls.paper(width=512, heads=8)

    @classmethod
    def paper(cls, *, width: int = 2048, heads: int = 32) -> Self:
        """R-50, L1 H2048: the paper's best for transfer at one layer."""
        return cls(
            vision="resnet50", image_px=224, max_tokens=30, layers=1, width=width, heads=heads,
            vision_lr_scale=200.0, vocab_size=10000,
        )  # fmt: skip


class DecoderLayer(nn.Module):
    """Post-norm layer: over the words so far, over the image, then two layers with GELU."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.words = SelfAttention(width, heads, dropout=dropout)
        self.image = CrossAttention(width, heads, dropout=dropout)
        self.inner = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x_BTD: Tensor,
        image: KeysValues,
        past: KeysValues | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """The next representation, and this layer's keys and values of the words."""
        seen, kept = self.words(x_BTD, past, causal=True, mask=mask)
        x_BTD = self.norms[0](x_BTD + self.drop(seen))
        x_BTD = self.norms[1](x_BTD + self.drop(self.image(x_BTD, image)))
        return self.norms[2](x_BTD + self.drop(self.inner(x_BTD))), kept


class WordsAndPlaces(nn.Module):
    """Word plus position, normalised; padding is zero. Both directions share it."""

    def __init__(self, config: VirtexConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width, padding_idx=PAD_ID)
        self.places = nn.Embedding(config.max_tokens, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-8)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, tokens_BT: Tensor, places_BT: Tensor | None = None) -> Tensor:
        """places_BT: of each token in its own text; by default from 0 on. Raises TextTooLong."""
        if places_BT is None:
            places_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        refuse_too_long(places_BT, self.places.num_embeddings)
        x_BTD = self.words(tokens_BT) + self.places(places_BT)
        return self.drop(self.norm(x_BTD)) * (tokens_BT != PAD_ID).unsqueeze(-1)


def refuse_too_long(places_BT: Tensor, known: int) -> None:
    """Raise TextTooLong for a place that a model has no position for."""
    if has_values() and (last := int(places_BT.max())) >= known:
        raise TextTooLong(
            f"{last + 1} tokens, and the model has {known} positions; raise max_tokens in the family's config, or ask "
            "the decoder for fewer."
        )


@dataclass(frozen=True)
class Written:
    """The words written so far, and the images they are about as each layer's keys and values, made once."""

    images: tuple[KeysValues, ...]
    """A row for each of the words'."""
    words: TextCache

    def reorder(self, index_N: Tensor) -> Written:
        """Text i becomes what text index_N[i] was."""
        words, row_R = self.words.moved(index_N)
        return Written(taken(self.images, row_R), words)

    def after(self, tokens_N: Tensor, read: Callable[..., Any]) -> tuple[Written, Tensor]:
        """With one more token of each text, read by a captioner's layers: (state, hidden_ND)."""
        past = self.words
        hidden_RQD, kept = read(
            self.images, past.by_row(tokens_N), past.next_RQ, past.mask(), past.layers
        )
        return Written(self.images, past.grown(kept)), hidden_RQD.flatten(0, 1)


class VirTex(nn.Module):
    """Learns by predicting each caption from its start and from its end, over the image's map."""

    Config: ClassVar[type[VirtexConfig]] = VirtexConfig
    ROWS_APART: ClassVar[bool] = True

    def __init__(self, config: VirtexConfig) -> None:
        super().__init__()
        self.config = config
        shape = VisionShape(widths=config.vision_widths)
        self.vision = build_vision(config.vision, config.image_px, shape)
        self.projection = nn.Linear(self.vision.map_width, config.width)
        self.embedding = WordsAndPlaces(config)
        self.forward_layers = self._decoder()
        self.backward_layers = self._decoder()
        self.output = nn.Linear(config.width, config.vocab_size)
        for name, module in self.named_modules():
            if not name.startswith("vision") and isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)
        self.output.weight = self.embedding.words.weight
        with torch.no_grad():
            self.embedding.words.weight[PAD_ID] = 0

    def _decoder(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            DecoderLayer(config.width, config.heads, config.dropout) for _ in range(config.layers)
        )

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(image_px=config.image_px, max_tokens=config.max_tokens, flip=config.flip)

    def initialise(self) -> None:
        """Load the frozen tower's weights, if it has one. Raises PretrainedMissing."""
        self.vision.initialise()

    def loss(self, batch: Batch) -> Loss:
        """Both directions' mean token losses, summed; the parts are each alone, in nats."""
        return self.view_loss(self.views(batch), batch)

    def views(
        self, batch: Batch, wanted: Collection[str] = (), like: Views | None = None
    ) -> dict[str, Tensor]:
        """Logits of every word in both directions: `tokens`, and `tokens_backward` over the texts read from their end."""
        memory_BND = self._memory(batch.pixels_BCHW, batch.keys_B)
        tokens_BT = batch.tokens_BT[:, : int(batch.lengths_B.max())]
        turned_BT = flipped(tokens_BT, batch.lengths_B)
        seen = {}
        for name, layers, texts_BT in (
            ("tokens", self.forward_layers, tokens_BT),
            ("tokens_backward", self.backward_layers, turned_BT),
        ):
            logits_NV, real_BT = self._direction(layers, memory_BND, texts_BT)
            labels_N = texts_BT[:, 1:][real_BT]
            seen |= {name: logits_NV, f"{name}_at": real_BT, f"{name}_labels": labels_N}
        return seen

    def view_loss(self, views: Views, batch: Batch) -> Loss:
        """As `loss`."""
        forward, backward = (
            token_cross_entropy(views[name], views[f"{name}_labels"])
            for name in ("tokens", "tokens_backward")
        )
        total = two_way(forward, backward)
        parts = {"forward": forward.detach(), "backward": backward.detach()}
        # Each direction predicts every token but the one it starts with.
        return Loss(total, parts, items=(batch.lengths_B - 1).sum())

    def prefill(
        self, pixels_BCHW: Tensor, keys_B: Tensor | None = None, prompts: Prompts = None
    ) -> tuple[Written, Tensor, Tensor]:
        """Read the images, `<bos>` and the prompts: (state, logits_BV of the first word, hidden_BTD)."""
        memory_BND = self._memory(pixels_BCHW, keys_B)
        images = tuple(layer.image.read(memory_BND) for layer in self.forward_layers)
        start = given(
            prompts, memory_BND.shape[0], bos_id=BOS_ID, pad_id=PAD_ID, device=memory_BND.device
        )
        hidden_BTD, kept = self._read(images, start.tokens_BT, start.positions_BT, start.mask)
        state = Written(images, start.cache(kept))
        return state, self.logits(hidden_BTD[:, -1]), start.hide_padding(hidden_BTD)

    def step(self, state: Written, tokens_N: Tensor) -> tuple[Written, Tensor]:
        """Append one token to every text: (state, hidden_ND)."""
        return state.after(tokens_N, self._read)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) of the word that follows each state."""
        return self.output(hidden_ND)

    def image_features(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """uint8 images -> (B, D): the tower's last map averaged, what the paper puts its linear probes on."""
        return self.vision.encode(pixels_BCHW, keys_B)[1]

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """The image tower at its own rate; words, where only norms and biases of embedding and layers do not decay."""
        named = [(name, param) for name, param in self.named_parameters() if param.requires_grad]
        vision = [param for name, param in named if name.startswith("vision.")]
        spared = [param for name, param in named if _spared(name)]
        rest = [
            param for name, param in named if not name.startswith("vision.") and not _spared(name)
        ]
        groups = (
            ("vision", vision, self.config.vision_lr_scale, True),
            ("text", rest, 1.0, True),
            ("text_spared", spared, 1.0, False),
        )
        return [
            {"name": name, "params": params, "lr_scale": rate, "weight_decay": decay}
            for name, params, rate, decay in groups
            if params
        ]

    def after_step(self) -> None:
        """Nothing to clamp."""

    def _memory(self, pixels_BCHW: Tensor, keys_B: Tensor | None) -> Tensor:
        map_BND, _ = self.vision.encode(pixels_BCHW, keys_B)
        return self.projection(map_BND)

    def _direction(
        self, layers: nn.ModuleList, memory_BND: Tensor, tokens_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of the words that follow, and where these stand: (N, V), and bool (B, T - 1)."""
        # Padding stands after every word, so causal order alone hides it.
        x_BTD = self.embedding(tokens_BT[:, :-1])
        for layer in layers:
            x_BTD, _ = layer(x_BTD, layer.image.read(memory_BND))
        real_BT = tokens_BT[:, 1:] != PAD_ID
        # Logits only where a word is predicted: over padding they would cost half of the step at a real vocabulary.
        return self.output(x_BTD[real_BT]), real_BT

    def _read(
        self,
        images: Sequence[KeysValues],
        tokens_BT: Tensor,
        places_BT: Tensor,
        mask: Tensor | None,
        past: Sequence[KeysValues] = (),
    ) -> tuple[Tensor, list[KeysValues]]:
        """(hidden_BTD, each layer's keys and values of the words)."""
        x_BTD, kept = self.embedding(tokens_BT, places_BT), []
        for number, (layer, image) in enumerate(zip(self.forward_layers, images, strict=True)):
            x_BTD, keys_values = layer(x_BTD, image, past[number] if past else None, mask)
            kept.append(keys_values)
        return x_BTD, kept


def _spared(name: str) -> bool:
    """The reference's no-decay set: norms and biases of the text embedding and of the decoder layers."""
    return name.startswith(("embedding.", "forward_layers.", "backward_layers.")) and (
        "norm" in name or name.endswith("bias")
    )
