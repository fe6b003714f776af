"""MAGIC: a language model writes and a CLIP says which of its words fit the image; nothing is trained
(Su et al. 2022, arXiv:2205.02655).

The model brings the two parts together; the search is `components/decoding/magic.py`. Under any other decoder it
writes what its language model would write without an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from components.abilities import Contrasts, LanguageModel
from components.config import Config, ConfigError
from components.models.causal_lm import require_fit
from components.models.parts import NO_PARTS, Part, handed
from components.models.prompts import Prompts, given
from components.records import BatchSpec

if TYPE_CHECKING:
    from components.data.text import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MagicConfig(Config):
    """How the two parts meet; the defaults are the tiny preset. k, alpha and beta belong to the evaluation's decoder."""

    image_px: int = 64
    """Side of the square input image, in pixels: what the CLIP was trained with."""
    max_tokens: int = 24
    """Longest text, with its ends."""
    clip_words: int = 60
    """The CLIP reads at most this many of the last written tokens, counted by the language model's tokenizer."""

    def __post_init__(self) -> None:
        if self.max_tokens < 3 or self.clip_words < 1:
            raise ConfigError(
                f"max_tokens={self.max_tokens} and clip_words={self.clip_words}: at least 3 and 1 are needed."
            )

    @classmethod
    def small(cls) -> Self:
        """SmolLM2 with a CLIP over the frozen Lite0."""
        return cls(image_px=96, max_tokens=32)

    @classmethod
    def paper(cls) -> Self:
        """GPT-2, adapted to captions, with the ViT-B/32: 124 M and 151 M parameters."""
        return cls(image_px=224, max_tokens=64)


@dataclass(frozen=True)
class Steered:
    """What the language model read, what it has written, and the images it is to be steered to; a row a text.

    Before the images part them, texts are the same: the language model reads each distinct one once.
    """

    read: Any
    """The language model's cache, of the distinct texts."""
    place_N: Tensor
    """int64: which of the cache's texts each one is."""
    images_ND: Tensor
    """Of length 1."""
    words: tuple[tuple[int, ...], ...]
    """Written ids of each row, without `<bos>` and prompt: what the CLIP is to judge."""

    def reorder(self, index_N: Tensor) -> Steered:
        """Text i becomes what text index_N[i] was."""
        words = tuple(self.words[row] for row in index_N.tolist())
        return Steered(self.read, self.place_N[index_N], self.images_ND[index_N], words)


class Magic(nn.Module):
    """Writes about images with two models that never saw each other."""

    Config: ClassVar[type[MagicConfig]] = MagicConfig
    PARTS: ClassVar[Mapping[str, type]] = {"lm": LanguageModel, "clip": Contrasts}
    TOKENIZER: ClassVar[str | None] = "lm"

    def __init__(self, config: MagicConfig, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Raises ConfigError for parts that are missing, cannot do what is asked, or do not fit the settings."""
        super().__init__()
        self.config = config
        self.lm = handed(parts, "lm", LanguageModel, "magic")
        self.clip = handed(parts, "clip", Contrasts, "magic")
        self._words = _tokenizer(parts, "lm")
        self._clip_words = _tokenizer(parts, "clip")
        require_fit(self.lm, self._words)
        seen: BatchSpec = self.clip.batch_spec()
        self._clip_tokens = seen.max_tokens
        if seen.image_px != config.image_px:
            raise ConfigError(
                f"image_px={config.image_px}, and the CLIP was trained with {seen.image_px}; "
                f"set image_px: {seen.image_px}."
            )
        longest = self.lm.max_positions
        if longest is not None and config.max_tokens > longest:
            raise ConfigError(
                f"max_tokens={config.max_tokens}, and the language model has {longest} positions; "
                f"set max_tokens: {longest} or less."
            )

    def train(self, mode: bool = True) -> Self:
        """Stays as it is: nothing here is trained, and dropout would make captions a matter of luck."""
        return super().train(False)

    def batch_spec(self) -> BatchSpec:
        return BatchSpec(image_px=self.config.image_px, max_tokens=self.config.max_tokens)

    def prefill(
        self, pixels_BCHW: Tensor, keys_B: Tensor | None = None, prompts: Prompts = None
    ) -> tuple[Steered, Tensor, Tensor]:
        """Embed the images, read `<bos>` and the prompts: (state, logits_BV of the first word, hidden_BTD)."""
        images_BD = self.clip.embed_images(pixels_BCHW, keys_B)
        prompts = [()] * len(images_BD) if prompts is None else prompts
        _refuse_unpaired(prompts, len(images_BD))
        distinct, place_B = _distinct([tuple(prompt) for prompt in prompts], images_BD.device)
        start = given(
            distinct, len(distinct), bos_id=self.lm.bos_id, pad_id=self.lm.pad_id,
            device=images_BD.device,
        )  # fmt: skip
        hidden_UTD, read = self.lm.run(self.lm.embed(start.tokens_BT), mask_BT=start.real_BT)
        state = Steered(read, place_B, images_BD, ((),) * len(images_BD))
        logits_UV = self.lm.logits(hidden_UTD[:, -1])
        return state, logits_UV[place_B], start.hide_padding(hidden_UTD)[place_B]

    def step(self, state: Steered, tokens_N: Tensor) -> tuple[Steered, Tensor]:
        """Append one token to every text: (state, hidden_ND)."""
        longer = list(zip(state.place_N.tolist(), tokens_N.tolist(), strict=True))
        distinct, place_N = _distinct(longer, tokens_N.device)
        source_U, tokens_U = torch.tensor(distinct, device=tokens_N.device).unbind(1)
        hidden_UD, read = self.lm.step(self.lm.embed(tokens_U), state.read.reorder(source_U))
        words = tuple((*row, token) for row, (_, token) in zip(state.words, longer, strict=True))
        return Steered(read, place_N, state.images_ND, words), hidden_UD[place_N]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) of the word that follows each state."""
        return self.lm.logits(hidden_ND)

    def steer(self, state: Steered, candidates_BK: Tensor) -> Tensor:
        """(B, K): cosine of each row's image with its text so far and the candidate, times the CLIP's own scale."""
        texts = [
            self._shown([*row, token])
            for row, tokens in zip(state.words, candidates_BK.tolist(), strict=True)
            for token in tokens
        ]
        # Rows start alike, and many candidates are bytes or specials that add nothing: each text is embedded once.
        distinct, place_N = _distinct(texts, candidates_BK.device)
        cosine_BU = state.images_ND @ self._embed_texts(distinct).mT
        return self.clip.cosine_scale() * cosine_BU.gather(1, place_N.view(candidates_BK.shape))

    def _shown(self, words: Sequence[int]) -> str:
        return self._words.decode(words[-self.config.clip_words :])

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        tokenizer, room = self._clip_words, self._clip_tokens - 2
        # A text too long loses its first words: `encode` would take the last ones, which are to be judged.
        rows = [
            torch.tensor([tokenizer.bos_id, *tokenizer.words(text)[-room:], tokenizer.eos_id])
            for text in texts
        ]
        device = self.clip.cosine_scale().device
        lengths_B = torch.tensor([len(row) for row in rows], device=device)
        tokens_BT = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_id)
        embedded: Tensor = self.clip.embed_texts(tokens_BT.to(device), lengths_B)
        return embedded


def _distinct(things: Sequence[T], device: torch.device) -> tuple[list[T], Tensor]:
    """Each thing once, and where each of them stands among those."""
    place = {thing: number for number, thing in enumerate(dict.fromkeys(things))}
    return list(place), torch.tensor([place[thing] for thing in things], device=device)


def _refuse_unpaired(prompts: Sequence[Sequence[int]], images: int) -> None:
    if len(prompts) != images:
        raise ValueError(f"{len(prompts)} prompts for {images} images; give each image one.")


def _tokenizer(parts: Mapping[str, Part], slot: str) -> Tokenizer:
    tokenizer = parts[slot].tokenizer
    if tokenizer is None:
        raise ConfigError(f'The part "{slot}" of magic brings no tokenizer; name one that reads.')
    return tokenizer
