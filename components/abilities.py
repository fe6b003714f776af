"""What a family can do: Protocols, met by having the methods and never by a flag.

How a model is trained and measured follows from its abilities, so no flow branches on a family's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from components.records import Batch, BatchSpec, Loss


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


@runtime_checkable
class Embeds(Protocol):
    """Images and texts meet in one space; retrieval and zero-shot classification follow."""

    def embed_images(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """uint8 images -> (B, D), each row of length 1."""

    def embed_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids -> (B, D), each row of length 1."""


class DecoderState(Protocol):
    """A decoder's memory and cache for a batch of texts being written."""

    def repeat(self, times: int) -> Self:
        """Each row `times` times, rows of one image side by side."""

    def reorder(self, index_N: Tensor) -> Self:
        """Row i becomes what row index_N[i] was: whole prefixes move."""


@runtime_checkable
class Captions(Protocol):
    """Writes texts for images, one token a step, over a cache."""

    def prefill(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> tuple[Any, Tensor]:
        """Read the images and `<bos>`: (state, logits_BV of the first word)."""

    def step(self, state: Any, tokens_N: Tensor) -> tuple[Any, Tensor]:
        """Append one token to every row: (state, logits_NV of the next)."""
