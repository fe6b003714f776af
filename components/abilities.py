"""What a family can do: Protocols, met by having the methods and never by a flag.

How a model is trained and measured follows from its abilities, so no flow branches on a family's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.batches import SplitImages
    from components.data.text import Tokenizer


@runtime_checkable
class Learns(Protocol):
    """Goes through `training/loop.py`."""

    def batch_spec(self) -> BatchSpec:
        """What its batches must hold."""

    def initialise(self) -> None:
        """Load what training starts from (frozen pretrained towers); not called when a checkpoint is loaded."""

    def loss(self, batch: Batch) -> Loss:
        """The only call the loop makes: total, and named parts for the log."""

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Groups `{name, params, lr_scale, weight_decay: bool}`; every trainable parameter in exactly one."""

    def after_step(self) -> None:
        """Called after each optimiser step: clamp scales."""


Views = Mapping[str, Tensor]
"""What one forward pass saw, by name, as `Distils` lists them; what it drew by chance is among it."""


@runtime_checkable
class Distils(Protocol):
    """Can learn from a teacher of its kind: its forward pass and its loss stand apart, so that both are had from one pass.

    Models that learn from features (`LearnsFromFeatures`) need none of this: their features are what is compared.

    Names that a term of distillation knows (`training/teachers/terms.py`): `image`, `text` (B, D) of length 1 and `scale`, what
    their cosines are multiplied by; `logits` (N, C); `tokens` (N, V), and `tokens_at` (B, T) bool, the tokens they
    predict, further directions as `tokens_<name>`; `hidden` (B, T, D), `attention` (B, T, S) and `real` (B, T) bool;
    `prefix` (B, P, D), `latents` (B, R, D), `gates` (B, T, G); `context` (N, V), as `DistilsContext` has it.

    Families that say `ROWS_APART` draw nothing, and a row's `tokens` are of its image and its text alone: as a teacher's
    they can be kept.
    """

    def views(
        self, batch: Batch, wanted: Collection[str] = (), like: Views | None = None
    ) -> dict[str, Tensor]:
        """Read a batch.

        wanted: views that cost extra and are made only where they are asked for; the others always are.
        like: another model's views of this batch, whose draws (prefixes, hidden words, boxes) are taken over.
        """

    def view_loss(self, views: Views, batch: Batch) -> Loss:
        """The loss of what was seen; `loss(batch)` is `view_loss(views(batch), batch)`."""


@runtime_checkable
class DistilsContext(Distils, Protocol):
    """Can teach what it says after a few demonstrations, to a student that is shown none."""

    def context_views(self, batch: Batch, shots_BK: Tensor) -> dict[str, Tensor]:
        """`context` (N, V): logits of the tokens that are learnt, row after row, each row behind its demonstrations.

        shots_BK: int64, the rows of the batch that each is shown, with image and text, in order.
        Raises ConfigError where so many demonstrations do not fit.
        """


@runtime_checkable
class LearnsFromFeatures(Learns, Protocol):
    """Its loss compares every image with every text: micro-batches give features, and the loss is of the whole batch.

    `loss(batch)` is `feature_loss(*features(batch), batch)` on equal draws.
    """

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(image_BD, text_BD); a row's features depend on no other row, but for batch statistics."""

    def feature_loss(self, image_BD: Tensor, text_BD: Tensor, batch: Batch) -> Loss:
        """The loss of a batch whose features are at hand; it draws nothing by chance and calls no tower."""


@runtime_checkable
class Embeds(Protocol):
    """Images and texts meet in one space; retrieval and zero-shot classification follow."""

    def embed_images(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """uint8 images -> (B, D), each row of length 1."""

    def embed_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids -> (B, D), each row of length 1."""


@runtime_checkable
class Contrasts(Embeds, Protocol):
    """Embeds, and was trained on scaled cosines, by a softmax or a sigmoid; a softmax does not see the latter's bias."""

    def cosine_scale(self) -> Tensor:
        """What its loss multiplies cosines by, a scalar."""


class DecoderState(Protocol):
    """A decoder's memory and cache for a batch of texts being written."""

    def reorder(self, index_N: Tensor) -> Self:
        """Text i becomes what text index_N[i] was: whole prefixes move, one may be named many times, and those that
        nobody names are dropped. Texts of one image that stay side by side are not copied."""


@runtime_checkable
class Captions(Protocol):
    """Writes texts for images, one token a step, over a cache.

    Hidden states are the last layer's, after its final norm: what contrastive search compares. A step stops there, for a
    search that reads many words ahead asks for the logits of the few it keeps: over a real vocabulary they cost as much
    as all layers.
    """

    def prefill(
        self,
        pixels_BCHW: Tensor,
        keys_B: Tensor | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Any, Tensor, Tensor]:
        """Read the images and how each text starts: (state, logits_BV of the next word, hidden_BTD of what was read).

        prompts: ids after `<bos>`, one list an image; nothing by default. Short ones are padded on the left
            (`models/prompts.py`), and hidden is zero at padding.
        """

    def step(self, state: Any, tokens_N: Tensor) -> tuple[Any, Tensor]:
        """Append one token to every text: (state, hidden_ND of it)."""

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) of the word that follows each state of `step`."""


@runtime_checkable
class Steers(Captions, Protocol):
    """Writes with an eye on the image only through its scores of candidates (MAGIC)."""

    def steer(self, state: Any, candidates_BK: Tensor) -> Tensor:
        """(B, K): how well each row's text fits its image with the candidate appended, on a softmax's scale."""


@runtime_checkable
class Matches(Protocol):
    """Says how well a text fits an image, pair by pair."""

    def match(
        self,
        pixels_BCHW: Tensor,
        tokens_BT: Tensor,
        lengths_B: Tensor,
        keys_B: Tensor | None = None,
    ) -> Tensor:
        """(B,) scores of image i with text i; the higher, the better it fits."""


class CannotAnswer(ValueError):
    """A model that learnt no answers, or a question longer than it reads; a report then has no such number."""


@runtime_checkable
class Answers(Protocol):
    """Answers questions about images. `answer` raises CannotAnswer."""

    def answer(
        self,
        pixels_BCHW: Tensor,
        questions: Sequence[str],
        tokenizer: Tokenizer,
        keys_B: Tensor | None = None,
    ) -> list[str]:
        """One answer an image; a family words the question as it was trained to read it."""


Shots = Sequence[tuple["Tensor | None", Sequence[int]]]
"""Demonstrations for one query, the most similar last: an image (3, H, W) and the ids of its text.

None where the text stands alone: only families that say `TEXT_ONLY_SHOTS` are given such.
"""


@runtime_checkable
class InContext(Protocol):
    """Learns from a few examples in front of the query, without training."""

    def prefill_shots(
        self,
        shots: Sequence[Shots],
        pixels_BCHW: Tensor,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Any, Tensor, Tensor]:
        """As `Captions.prefill`, with each row's demonstrations read first."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one image, best first."""

    boxes_N4: Tensor
    """Left, top, right, bottom in pixels of the image that was given."""
    scores_N: Tensor
    """In [0, 1]."""
    classes_N: Tensor
    """int64: row of the class names that were asked for."""


@runtime_checkable
class Detects(Protocol):
    """Finds objects of classes that are named only when it is asked."""

    def detect(
        self,
        pixels_BCHW: Tensor,
        class_tokens_CT: Tensor,
        class_lengths_C: Tensor,
        base_C: Tensor,
    ) -> list[Detections]:
        """One record an image. base_C: bool, True for classes whose boxes training knew.

        class_tokens_CT: C classes in each of `batch_spec().prompts`, a class's rows side by side.
        """


@runtime_checkable
class Probes(Protocol):
    """Has image features that a linear classifier can be put on."""

    def image_features(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """uint8 images -> (B, D), as they come."""


@runtime_checkable
class Indexes(Protocol):
    """Is built by one pass over pairs instead of being trained."""

    def build(self, images: SplitImages, tokenizer: Tokenizer) -> None:
        """Take the pairs of a split as anchors, in place of those there are."""


@runtime_checkable
class Condenses(Indexes, Protocol):
    """Can be made from a larger one of its kind, without data."""

    def condense(self, teacher: nn.Module) -> None:
        """Keep what matters most of the teacher's index. Raises ConfigError for one it cannot be made from."""


@runtime_checkable
class TextEncoder(Protocol):
    """Reads texts: what a slot for a text tower takes."""

    def encode_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids -> (B, D), pooled over the text and not normalised."""


@runtime_checkable
class Sees(Protocol):
    """Reads images: what a slot for a vision tower takes."""

    map_width: int
    pooled_width: int
    map_tokens: int

    def encode(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 images -> (map_BND, pooled_BD)."""


@runtime_checkable
class LanguageModel(Protocol):
    """A causal language model that reads embeddings: what a slot for one takes."""

    width: int
    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int
    max_positions: int | None
    """Longest sequence; None where positions are relative and without end."""
    blocks: nn.ModuleList
    """Its layers in order, for a family that puts its own between them."""

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Token ids -> (B, T, width), positions not yet added."""

    def run(
        self,
        inputs_BTD: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask_BT: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Embeddings -> (hidden_BTD after the final norm, a `TextCache` of them, one text a row).

        mask_BT: bool, False where a row is padded.
        """

    def step(self, inputs_ND: Tensor, past: Any) -> tuple[Tensor, Any]:
        """The embedding of one more token of each text -> (hidden_ND, the cache with them in it)."""

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, vocab_size)."""
