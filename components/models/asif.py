"""ASIF: two frozen unimodal encoders meet through pairs, without training (Norelli et al. 2022, arXiv:2210.01738).

An image is described by how near it is to the images of N pairs, a text by how near it is to their texts; since the
anchors are pairs, the two descriptions are compared coordinate by coordinate. An image with several captions is one
anchor whose text is their mean: an anchor for each caption names new drawings no better, at 2.1 times the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.abilities import TextEncoder
from components.config import Config, ConfigError
from components.data.batches import SplitImages
from components.data.text import Tokenizer
from components.models.anchors import (
    ANCHOR_BUFFERS,
    AnchorsRefused,
    anchor_id,
    in_order,
    nearest_to_all,
    picture_of,
    rows_of,
)
from components.models.backbones import frozen_vision
from components.models.nearest import Nearest
from components.models.parts import NO_PARTS, Part, handed
from components.models.relative import Relative, cosines, unit
from components.models.word_vectors import word_vectors
from components.records import BatchSpec, Row

Side = Literal["image", "text"]

BATCH = 128
"""Pairs that are encoded at once."""


class AnchorLeak(ValueError):
    """An image under test is one of the anchors."""


@dataclass(frozen=True, kw_only=True)
class AsifConfig(Config):
    """How anchors are read; the defaults are the tiny preset."""

    image_px: int = 64
    """Side of the square input image, in pixels: what the vision part was trained with."""
    max_tokens: int = 24
    """Longest text, with its ends."""
    anchors: int = 0
    """N, the pairs; follows from the training data, so that a checkpoint rebuilds its model."""
    keep: int = 0
    """How many of the pairs a smaller dictionary keeps; 0 keeps all."""
    text_by: Literal["states", "words"] = "words"
    """A text's vector: the mean of the text part's states, or of its word vectors alone, its ends left out. States of a
    part trained in half a minute tell places in a text rather than words: 0.24 of 13 made shapes named, and 0.79."""
    k: int = 32
    """Anchors that a description keeps: the nearest."""
    power: float = 8.0
    """What similarities are raised to; a higher one listens more to the nearest."""
    centre: bool = True
    """Take the anchors' mean from all features before they are normalised."""
    clamp: bool = True
    """Similarities below 0 count as 0 (ours; the release lets them through)."""
    chunk: int = 4096
    """Anchors that queries are compared with at once: what bounds the memory, and changes nothing else."""

    def __post_init__(self) -> None:
        if min(self.k, self.chunk) < 1 or min(self.anchors, self.keep) < 0 or not self.power > 0:
            raise ConfigError(
                f"k={self.k}, chunk={self.chunk}, power={self.power}, keep={self.keep}, anchors={self.anchors}: k and "
                "chunk are at least 1, power is above 0, keep is 0 or more, and anchors follows from the data."
            )
        if not self.clamp and self.power != int(self.power):
            raise ConfigError(
                f"power={self.power} of a negative similarity is no number; set clamp: true, or a whole power."
            )

    @classmethod
    def small(cls) -> Self:
        """The emoji of eight sets through ImageNet's Lite0 and MiniLM."""
        return cls(image_px=96, text_by="states", k=50, centre=False)

    @classmethod
    def paper(cls) -> Self:
        """CC12M's subset of 1.6 M pairs, a ViT-B/16 and all-mpnet-base-v2."""
        return cls(
            image_px=224,
            max_tokens=128,
            text_by="states",
            anchors=1_600_000,
            k=800,
            centre=False,
        )

    def fitted(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """One anchor an image of the training split."""
        return replace(self, vocab_size=tokenizer.vocab_size, anchors=len(rows))


class Asif(nn.Module):
    """Knows what its anchors show, and can be taught or made to forget by adding and removing pairs."""

    Config: ClassVar[type[AsifConfig]] = AsifConfig
    PARTS: ClassVar[Mapping[str, type]] = {"vision": nn.Module, "text": TextEncoder}
    TOKENIZER: ClassVar[str | None] = "text"

    def __init__(self, config: AsifConfig, parts: Mapping[str, Part] = NO_PARTS) -> None:
        super().__init__()
        self.config = config
        self.vision = frozen_vision(handed(parts, "vision", nn.Module, "asif"), config.image_px)
        self.text = handed(parts, "text", TextEncoder, "asif")
        self.words = word_vectors(self.text) if config.text_by == "words" else None
        count, widths = config.anchors, (self.vision.pooled_width, self._text_width())
        self._hold(
            image_anchors=torch.zeros(count, widths[0]),
            text_anchors=torch.zeros(count, widths[1]),
            ids=torch.zeros(count, dtype=torch.int64),
            pictures=torch.zeros(count, 32, dtype=torch.uint8),
            captions=torch.zeros(count, config.max_tokens, dtype=torch.int64),
        )

    def batch_spec(self) -> BatchSpec:
        return BatchSpec(image_px=self.config.image_px, max_tokens=self.config.max_tokens)

    def train(self, mode: bool = True) -> Asif:
        """Stays in eval mode: nothing here learns."""
        return super().train(False)

    # --- the anchors ---

    def build(self, images: SplitImages, tokenizer: Tokenizer) -> None:
        """Take the pairs of a split as anchors, in place of those there are; any `keep` of them, by torch's own draw.

        Raises AnchorsRefused for an image without a caption, and for one that comes twice.
        """
        held = in_order(self._encode(images, tokenizer))
        count = len(held["ids"])
        self._hold(**rows_of(held, torch.randperm(count)[: self.config.keep or count]))

    def condense(self, teacher: nn.Module) -> None:
        """Take those `keep` of a teacher's anchors that all of its pairs are near to, in picture and text alike.

        Greedily (facility location; Nemhauser et al. 1978): each is the one by which the pairs' nearness to their nearest
        grows most, the product of both sides' cosines. It takes N² numbers. Raises ConfigError for a teacher that is no
        ASIF, that reads by other encoders, or that has no more anchors than are to be kept.
        """
        if not isinstance(teacher, Asif) or not 0 < self.config.keep < len(teacher.ids):
            raise ConfigError(
                f"model.keep is {self.config.keep} and the teacher is a {type(teacher).__name__}: a smaller dictionary "
                "keeps some of a larger ASIF's anchors; name one, and set keep below its number of anchors."
            )
        if not self._reads_as(teacher):
            raise ConfigError(
                "The teacher's anchors are of other encoders; give both the same parts, image_px, max_tokens and text_by."
            )
        held = teacher._held()
        image_ND = unit(held["image_anchors"] - teacher.image_centre)
        text_ND = unit(held["text_anchors"] - teacher.text_centre)
        near_NN = (image_ND @ image_ND.T).clamp(min=0) * (text_ND @ text_ND.T).clamp(min=0)
        self._hold(**rows_of(held, nearest_to_all(near_NN, self.config.keep)))

    def add(self, images: SplitImages, tokenizer: Tokenizer) -> None:
        """Take further pairs as anchors. Raises AnchorsRefused as `build`, and for one that is there already."""
        new = self._encode(images, tokenizer)
        held = self._held()
        self._hold(**in_order({name: torch.cat([held[name], new[name]]) for name in held}))

    def remove(self, sample_ids: Sequence[str]) -> None:
        """Forget the anchors made of these samples. Raises AnchorsRefused for one that is not there."""
        gone = torch.tensor([anchor_id(name) for name in sample_ids], dtype=torch.int64)
        for name, known in zip(sample_ids, torch.isin(gone, self.ids.cpu()).tolist(), strict=True):
            if not known:
                raise AnchorsRefused(f'No anchor was made of the sample "{name}".')
        stays = ~torch.isin(self.ids, gone.to(self.ids.device))
        self._hold(**{name: value[stays] for name, value in self._held().items()})

    def refuse_leak(self, rows: Sequence[Row]) -> None:
        """Raise AnchorLeak if an image of these rows is, pixel by pixel, an anchor."""
        anchors = {bytes(digest) for digest in self.pictures.cpu().numpy()}
        leaked = [row.sample.id for row in rows if picture_of(row) in anchors]
        if leaked:
            raise AnchorLeak(
                f'{len(leaked)} of {len(rows)} images under test are anchors, as "{leaked[0]}": their score would be '
                "memory. Leave them out of the source, or remove their anchors."
            )

    # --- what is asked of them ---

    def embed_images(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """uint8 images -> (B, N), each row of length 1 with at most k coordinates that are not 0."""
        return self.describe_images(pixels_BCHW, keys_B).dense()

    def embed_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids -> (B, N), each row of length 1 with at most k coordinates that are not 0."""
        return self.describe_texts(tokens_BT, lengths_B).dense()

    def describe_images(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Relative:
        """uint8 images by the k anchor images they are nearest to."""
        return self._describe(self._see(pixels_BCHW, keys_B), "image")

    def describe_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Relative:
        """Texts by the k anchor texts they are nearest to."""
        return self._describe(self._read(tokens_BT, lengths_B), "text")

    def score(self, images: Relative, texts: Relative) -> Tensor:
        """(B, M) scores in [-1, 1] of each image with each text; no anchor is unfolded."""
        return images.products(texts)

    def explain(self, pixels_CHW: Tensor, tokens_T: Tensor) -> tuple[Tensor, Tensor]:
        """Which anchors make one image and one text fit: rows (K,) and what each adds to the score, most first."""
        image = self.describe_images(pixels_CHW[None]).dense()[0]
        text = self.describe_texts(tokens_T[None], torch.tensor([len(tokens_T)])).dense()[0]
        products_N = image * text
        rows = products_N.nonzero()[:, 0]
        order = products_N[rows].argsort(descending=True, stable=True)
        return rows[order], products_N[rows[order]]

    def nearest_anchors(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """(B,) the row of the anchor whose image is nearest: what the vision part alone would answer with."""
        return self._nearest(self._see(pixels_BCHW, keys_B), "image", k=1)[1][:, 0]

    def nearest_captions(self, pixels_BCHW: Tensor, tokenizer: Tokenizer) -> list[str]:
        """The first caption of each image's nearest anchor: how the paper reads a text off."""
        rows_B = self.nearest_anchors(pixels_BCHW)
        return [tokenizer.decode(ids) for ids in self.captions[rows_B].tolist()]

    # --- how it is done ---

    def _reads_as(self, other: Asif) -> bool:
        """Whether both make the same features of a grey image and a short text."""
        settings = ("image_px", "max_tokens", "text_by")
        if any(getattr(self.config, name) != getattr(other.config, name) for name in settings):
            return False
        side_px, device = self.config.image_px, self.ids.device
        grey_1CHW = torch.full((1, 3, side_px, side_px), 128, dtype=torch.uint8, device=device)
        text_1T = torch.arange(4, device=device)[None]
        read = [
            (each._see(grey_1CHW), each._read(text_1T, text_1T[:, -1] + 1))
            for each in (self, other)
        ]
        return all(torch.equal(ours, theirs) for ours, theirs in zip(*read, strict=True))

    @torch.no_grad()
    def _see(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        return self.vision.encode(pixels_BCHW, keys_B)[1].float()

    @torch.no_grad()
    def _read(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        if self.config.text_by == "states":
            return unit(self.text.encode_texts(tokens_BT, lengths_B).float())
        place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        inner_BT = (place_T > 0) & (place_T < lengths_B[:, None] - 1)
        return unit((self.words(tokens_BT).float() * inner_BT[..., None]).sum(dim=1))

    def _describe(self, features_BD: Tensor, side: Side) -> Relative:
        values_BK, index_BK = self._nearest(features_BD, side, self.config.k)
        # Divided by the largest first: the eighth power of small similarities would leave float32.
        largest_B1 = values_BK.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
        raised_BK = (values_BK / largest_B1) ** self.config.power
        return Relative(F.normalize(raised_BK, dim=1), index_BK, self.config.anchors)

    def _nearest(self, features_BD: Tensor, side: Side, k: int) -> tuple[Tensor, Tensor]:
        """The k largest similarities of each row of features and their anchors, chunk by chunk."""
        if not self.config.anchors:
            raise AnchorsRefused("There are no anchors yet; build() takes the pairs of a split.")
        anchors_ND, centre_D = self._side(side)
        query_BD, length_N = unit(features_BD - centre_D), self._lengths(side)
        nearest = Nearest(k)
        for start, end in self._chunks():
            nearest.see(cosines(query_BD, anchors_ND[start:end], centre_D, length_N[start:end]))
        values_BK, index_BK = nearest.found()
        # Only those that are kept: which they are does not change by it, but among values that are 0 then.
        return values_BK.clamp_(min=0) if self.config.clamp else values_BK, index_BK

    def _side(self, side: Side) -> tuple[Tensor, Tensor]:
        anchors_ND, centre_D = getattr(self, f"{side}_anchors"), getattr(self, f"{side}_centre")
        return anchors_ND, centre_D

    def _lengths(self, side: Side) -> Tensor:
        """Of the anchors without their centre, (N,); measured once for as long as they stay what they are."""
        anchors_ND, centre_D = self._side(side)
        version, known = anchors_ND._version, self._measured.get(side)
        if known is None or known[0] is not anchors_ND or known[1] != version:
            parts = [
                torch.linalg.vector_norm(anchors_ND[start:end] - centre_D, dim=1)
                for start, end in self._chunks()
            ]
            known = self._measured[side] = anchors_ND, version, torch.cat(parts)
        return known[2]

    def _chunks(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.config.anchors, self.config.chunk):
            yield start, min(start + self.config.chunk, self.config.anchors)

    def _encode(self, images: SplitImages, tokenizer: Tokenizer) -> dict[str, Tensor]:
        for row in images.rows:
            if not row.sample.captions:
                raise AnchorsRefused(f'Sample "{row.sample.id}" has no caption to be an anchor by.')
        limit, device = self.config.max_tokens, self.ids.device
        pixels = images.pixels_NCHW.split(BATCH)
        first, _ = tokenizer.encode([row.sample.captions[0] for row in images.rows], limit)
        ids = [anchor_id(row.sample.id) for row in images.rows]
        pictures = [list(picture_of(row)) for row in images.rows]
        return {
            "image_anchors": torch.cat([self._see(block.to(device)) for block in pixels]),
            "text_anchors": self._mean_texts(images.rows, tokenizer),
            "ids": torch.tensor(ids, dtype=torch.int64, device=device),
            "pictures": torch.tensor(pictures, dtype=torch.uint8, device=device),
            "captions": F.pad(first, (0, limit - first.shape[1]), value=tokenizer.pad_id).to(
                device
            ),
        }

    def _mean_texts(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Tensor:
        # Drawings of one concept share their captions: each is read once, beside others of its length.
        texts = sorted(
            {text for row in rows for text in row.sample.captions}, key=lambda t: (len(t), t)
        )
        number, device, read = {text: at for at, text in enumerate(texts)}, self.ids.device, []
        for start in range(0, len(texts), BATCH):
            tokens_BT, lengths_B = tokenizer.encode(
                texts[start : start + BATCH], self.config.max_tokens
            )
            read.append(self._read(tokens_BT.to(device), lengths_B.to(device)))
        read_MD = torch.cat(read)
        return torch.stack(
            [read_MD[[number[text] for text in row.sample.captions]].mean(dim=0) for row in rows]
        )

    def _text_width(self) -> int:
        if self.words is not None:
            return self.words.embedding_dim
        # The slot promises vectors and not how wide: one text is read to know.
        word_11 = torch.zeros(1, 1, dtype=torch.int64, device=next(self.text.parameters()).device)
        with torch.no_grad():
            return int(self.text.encode_texts(word_11, word_11[0] + 1).shape[-1])

    def _held(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ANCHOR_BUFFERS}

    def _hold(self, **anchors: Tensor) -> None:
        self._measured: dict[Side, tuple[Tensor, int, Tensor]] = {}
        for name in ANCHOR_BUFFERS:
            self.register_buffer(name, anchors[name])
        self.config = replace(self.config, anchors=len(self.ids))
        for side in ("image", "text"):
            anchors_ND = anchors[f"{side}_anchors"]
            is_centred = self.config.centre and len(anchors_ND)
            middle_D = (
                anchors_ND.mean(dim=0) if is_centred else anchors_ND.new_zeros(anchors_ND.shape[1])
            )
            self.register_buffer(f"{side}_centre", middle_D)
