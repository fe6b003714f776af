"""MAGIC over its files: the search stays in Python, and all that is computed in it onnxruntime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.data.text import Tokenizer
from components.decoding.magic import magic
from components.export.graph import NotExportable
from components.export.onnx_files import SUFFIX, session
from components.export.states import leaves, with_leaves
from components.models.parts import Origin, Part
from components.records import BatchSpec


def same_captions(
    model: Any, tokenizer: Tokenizer, folder: Path, pixels_BCHW: Tensor, *, max_tokens: int
) -> list[list[int]]:
    """The ids that MAGIC writes for images by the files `image`, `text`, `prefill`, `step` and `logits`.

    Raises NotExportable if they are not, to the last id, what it writes with the model.
    """
    theirs, ours = (
        magic(each, pixels_BCHW, eos_id=tokenizer.eos_id, max_tokens=max_tokens)
        for each in (from_files(model, folder), model)
    )
    if theirs != ours:
        row = next(row for row, ids in enumerate(ours) if ids != theirs[row])
        raise NotExportable(
            f"onnxruntime writes {theirs[row]} where the model writes {ours[row]}; nothing was exported."
        )
    return theirs


def from_files(model: Any, folder: Path) -> Any:
    """The same family with both of its parts replaced by the files made of them."""
    made = {"lm": _Lm(model.lm, folder), "clip": _Clip(model.clip, folder)}
    parts = {
        slot: Part(
            module=module,
            tokenizer=model.handed_parts[slot].tokenizer,
            origin=Origin(kind="folder", name=folder.name),
        )
        for slot, module in made.items()
    }
    return type(model)(model.config, parts).eval()


class _Lm(nn.Module):
    """A language model whose states and logits come from files."""

    def __init__(self, lm: Any, folder: Path) -> None:
        super().__init__()
        for name in ("width", "vocab_size", "bos_id", "eos_id", "pad_id", "max_positions"):
            setattr(self, name, getattr(lm, name))
        self.blocks = nn.ModuleList()
        self._prefill, self._step, self._logits = (
            session(folder / f"{name}{SUFFIX}") for name in ("prefill", "step", "logits")
        )
        with torch.no_grad():
            self._like = lm.run(lm.embed(torch.tensor([[lm.bos_id]])))[1]

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The ids as they are: the files read those."""
        return tokens_BT

    def run(self, inputs_BT: Tensor, **_: Any) -> tuple[Tensor, Any]:
        """Texts of one length."""
        hidden_BTD, *state = self._prefill((inputs_BT,))
        return hidden_BTD, with_leaves(self._like, state)

    def step(self, inputs_N: Tensor, past: Any) -> tuple[Tensor, Any]:
        """One token more of each text, which the file reads in a row of its own."""
        hidden_ND, *state = self._step((inputs_N, *leaves(past.apart())))
        return hidden_ND, with_leaves(self._like, state)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, vocab_size)."""
        (logits_NV,) = self._logits((hidden_ND,))
        return logits_NV


class _Clip(nn.Module):
    """A CLIP whose two towers are files."""

    def __init__(self, clip: Any, folder: Path) -> None:
        super().__init__()
        self._image, self._text = (
            session(folder / f"{name}{SUFFIX}") for name in ("image", "text")
        )
        self._spec: BatchSpec = clip.batch_spec()
        self._scale: Tensor = clip.cosine_scale().detach()

    def batch_spec(self) -> BatchSpec:
        return self._spec

    def cosine_scale(self) -> Tensor:
        return self._scale

    def embed_images(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        return self._image((pixels_BCHW,))[0]

    def embed_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        return self._text((tokens_BT, lengths_B))[0]
