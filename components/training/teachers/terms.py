"""Terms of distillation by name: which views of student and teacher each compares, and by what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.abilities import Views
from components.objectives import distillation as objective
from components.records import Batch
from components.table import Table

if TYPE_CHECKING:
    from components.training.teachers.teaching import Distillation

COLUMNS = "_columns"
"""Ends the name of the view that says which words a view of kept probabilities is of."""

Value = Callable[[Views, Views, "Distillation", Batch], Tensor]


@dataclass(frozen=True, kw_only=True)
class Term:
    """How a term is had of what a student and its teacher saw of one batch."""

    ours: tuple[str, ...]
    """Views that the student must have."""
    value: Value
    theirs: tuple[str, ...] = ()
    """Views that the teacher must have; the student's, where none are named."""
    widens: tuple[str, ...] = ()
    """Views that both have, and a learned matrix brings to the teacher's width where the student's
    is another."""
    equal: tuple[tuple[str, str], ...] = ()
    """(the student's view, the teacher's): they must have one shape."""
    by_token: bool = False
    """Both must read with the same tokenizer."""
    remembered: bool = False
    """What it compares of the teacher can be kept (`training/teachers/remembering.py`)."""

    @property
    def taught(self) -> tuple[str, ...]:
        """Views that the teacher must have."""
        return self.theirs or self.ours


def _affinity(ours: Views, theirs: Views, plan: Distillation, batch: Batch) -> Tensor:
    return objective.affinity(
        ours["image"], ours["text"], theirs["image"], theirs["text"],
        ours["scale"], theirs.get("scale", plan.teacher_scale),
    )  # fmt: skip


def _icl(ours: Views, theirs: Views, plan: Distillation, batch: Batch) -> Tensor:
    image_BD, text_BD = (
        torch.nn.functional.normalize(ours[name], dim=-1) for name in ("image", "text")
    )
    return objective.icl(
        image_BD, text_BD, theirs["image"], theirs["text"], ours["scale"], batch.groups_B,
        how=plan.icl_scale,
    )  # fmt: skip


def _feature(ours: Views, theirs: Views, plan: Distillation, batch: Batch) -> Tensor:
    both = [
        objective.feature(ours[name], theirs[name], plan.distance) for name in ("image", "text")
    ]
    return torch.stack(both).mean()


def _logit_kl(ours: Views, theirs: Views, plan: Distillation, batch: Batch) -> Tensor:
    return objective.logit_kl(ours["logits"], theirs["logits"], plan.temperature)


def _token_kl(ours: Views, theirs: Views, plan: Distillation, batch: Batch) -> Tensor:
    directions = [name for name in ours if name.startswith("tokens") and f"{name}_at" in ours]
    return torch.stack(
        [_words_kl(name, ours, theirs, plan) for name in directions if name in theirs]
    ).sum()


def _words_kl(name: str, ours: Views, theirs: Views, plan: Distillation) -> Tensor:
    at = ours[f"{name}_at"], theirs[f"{name}_at"]
    student_NV, teacher_N = objective.at_both(ours[name], at[0], theirs[name], at[1])
    columns_MK = theirs.get(name + COLUMNS)
    if columns_MK is None:
        return objective.logit_kl(student_NV, teacher_N, plan.temperature)
    _, columns_NK = objective.at_both(ours[name], at[0], columns_MK, at[1])
    return objective.kept_kl(student_NV, teacher_N, columns_NK, plan.temperature)


def _context(ours: Views, theirs: Views, plan: Distillation, batch: Batch) -> Tensor:
    return objective.logit_kl(ours["tokens"], theirs["context"], plan.temperature)


def _attention(ours: Views, theirs: Views, plan: Distillation, batch: Batch) -> Tensor:
    return objective.attention(ours["attention"], theirs["attention"], ours["real"])


def _token_nce(ours: Views, theirs: Views, plan: Distillation, batch: Batch) -> Tensor:
    real_BT = ours["real"]
    return objective.token_nce(ours["hidden"][real_BT], theirs["hidden"][real_BT], theirs["queue"])


def _squares(ours: Views, theirs: Views, plan: Distillation, batch: Batch, *, of: str) -> Tensor:
    return objective.squares(ours[of], theirs[of])


def _same_size(name: str, *, by_token: bool = False) -> Term:
    return Term(ours=(name,), widens=(name,), value=partial(_squares, of=name), by_token=by_token)


TERMS: Table[Term] = Table(
    "term of distillation",
    {
        "affinity": Term(
            ours=("image", "text", "scale"),
            theirs=("image", "text"),
            value=_affinity,
            remembered=True,
        ),
        "attention": Term(ours=("attention", "real"), value=_attention, by_token=True),
        "context": Term(
            ours=("tokens",),
            theirs=("context",),
            equal=(("tokens", "context"),),
            value=_context,
            by_token=True,
        ),
        "feature": Term(
            ours=("image", "text"), widens=("image", "text"), value=_feature, remembered=True
        ),
        "gates": _same_size("gates", by_token=True),
        "icl": Term(
            ours=("image", "text", "scale"),
            theirs=("image", "text"),
            widens=("image", "text"),
            value=_icl,
            remembered=True,
        ),
        "latents": _same_size("latents"),
        "logit_kl": Term(ours=("logits",), value=_logit_kl),
        "prefix": _same_size("prefix"),
        "token_kl": Term(ours=("tokens",), value=_token_kl, by_token=True, remembered=True),
        "token_nce": Term(
            ours=("hidden", "real"), widens=("hidden",), value=_token_nce, by_token=True
        ),
    },
)
