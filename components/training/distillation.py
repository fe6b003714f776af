"""A student beside its teacher, as one thing that learns: the training loop knows neither.

The student runs once a step; what it saw is compared with what its teacher saw of the same batch (`terms.py`). The teacher
is no part of the learner's state: it is found again by its digest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.abilities import Distils, Embeds, LearnsFromFeatures, Views
from components.config import ConfigError
from components.data.text import Tokenizer
from components.models.parts import Part
from components.objectives.distillation import KEPT
from components.records import Batch, BatchSpec, Loss
from components.training.checkpoints.checkpoint import load_part
from components.training.teachers.inheritance import inherit
from components.training.teachers.remembering import Remembering
from components.training.teachers.teacher import Teacher
from components.training.teachers.teacher_cache import FOLDER, TeacherCache
from components.training.teachers.teaching import Distillation
from components.training.teachers.terms import TERMS, Term


class Distilled(nn.Module):
    """Learns as its student does, and from what a teacher makes of the same batches."""

    def __init__(
        self,
        student: nn.Module,
        tokenizer: Tokenizer,
        teacher: Part,
        plan: Distillation,
        probe: Batch,
        cache: TeacherCache | None = None,
    ) -> None:
        """tokenizer: the student's. probe: a batch, by which widths are known and a mistake is told before training.
        cache: where the teacher's answers are kept, if they are.

        Raises ConfigError where student or teacher lacks what a term compares, or they read with other tokenizers.
        """
        super().__init__()
        self.student: Any = student
        self._plan = plan
        self._terms = {name: TERMS[name] for name in plan.compared}
        # Not registered: it is neither trained nor saved nor sent to other workers.
        asked = Teacher(teacher, tokenizer, plan.shots)
        self._memory = Remembering(asked, cache, plan.temperature) if cache else None
        self._teacher = (self._memory or asked,)
        self.widening = nn.ModuleDict()
        self.register_buffer("queue", None)
        if self._terms:
            _refuse(student, teacher, tokenizer, self._terms)
            if cache is not None:
                _refuse_drawn(teacher, self._terms)
            ours, theirs = self._probed(probe)
            self._make_heads(ours, theirs)
        self._waiting: Tensor | None = None

    def batch_spec(self) -> BatchSpec:
        spec: BatchSpec = self.student.batch_spec()
        return spec

    def loss(self, batch: Batch) -> Loss:
        """The student's own loss and every term, weighted and summed; each term is a part, unweighted.

        Without terms that count it is the student's loss, bit for bit.
        """
        student: Any = self.student
        if not self._terms:
            own: Loss = student.loss(batch)
            if self._plan.task == 1:
                return own
            return replace(own, total=self._plan.task * own.total)
        ours = self._seen(batch)
        own = (
            student.view_loss(ours, batch)
            if isinstance(student, Distils)
            else student.feature_loss(ours["image"], ours["text"], batch)
        )
        theirs = self._teacher[0].views(batch, ours, _taught(self._terms))
        parts = self._compare(ours, theirs, batch)
        weighted = [self._plan.compared[name] * part for name, part in parts.items()]
        total = self._plan.task * own.total + torch.stack(weighted).sum()
        shown = {name: part.detach() for name, part in parts.items()}
        # A captioner's terms are means over the words that its own loss is a mean over.
        return Loss(total, {**own.parts, "task": own.total.detach(), **shown}, own.items)

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """The student's groups, and one of the matrices that widen its outputs."""
        groups: list[Mapping[str, Any]] = list(self.student.param_groups())
        if params := list(self.widening.parameters()):
            groups.append(
                {"name": "widening", "params": params, "lr_scale": 1.0, "weight_decay": True}
            )
        return groups

    def after_step(self) -> None:
        """The student's own, and the queue takes in the teacher's states of this step."""
        self.student.after_step()
        if self._waiting is not None:
            new_ND = self._waiting[: len(self.queue)]
            self.queue.copy_(torch.cat([new_ND, self.queue])[: len(self.queue)])
            self._waiting = None

    def remember(self) -> None:
        """Put on disk what the teacher said since the last time, if that is kept."""
        if self._memory is not None:
            self._memory.write()

    def _seen(self, batch: Batch) -> Views:
        """What the student sees of a batch."""
        student: Any = self.student
        if isinstance(student, Distils):
            return student.views(batch, _wanted(self._terms))
        image_BD, text_BD = student.features(batch)
        return {"image": image_BD, "text": text_BD, "scale": student.cosine_scale()}

    def _compare(self, ours: Views, theirs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if self.queue is not None:
            theirs["queue"] = self.queue
            self._waiting = theirs["hidden"][theirs["real"]]
        parts = {}
        for name, term in self._terms.items():
            widened = {
                view: self.widening[view](ours[view]) if view in self.widening else ours[view]
                for view in term.widens
            }
            parts[name] = term.value({**ours, **widened}, theirs, self._plan, batch)
        return parts

    @torch.no_grad()
    def _probed(self, probe: Batch) -> tuple[Views, Views]:
        """What both see of a batch; the student in eval mode, as looking must not move its statistics."""
        student: Any = self.student
        with torch.random.fork_rng(devices=[]):
            student.eval()
            ours = self._seen(probe)
            theirs = self._teacher[0].views(probe, ours, _taught(self._terms))
            student.train()
        return ours, theirs

    def _make_heads(self, ours: Views, theirs: Views) -> None:
        for name, term in self._terms.items():
            _refuse_missing(name, term, ours, theirs)
            _refuse_unequal(name, term, ours, theirs)
            for view in term.widens:
                there, here = theirs[view].shape, ours[view].shape
                if here[:-1] != there[:-1]:
                    raise ConfigError(
                        f"distill.terms.{name}: the student's {view} is {tuple(here)}, the teacher's {tuple(there)}; only "
                        "the last width may differ. Give both as many, or leave the term out."
                    )
                if here[-1] != there[-1] and view not in self.widening:
                    self.widening[view] = nn.Linear(here[-1], there[-1], bias=False)
        self.widening.to(next(self.student.parameters()).device)
        if "token_nce" in self._terms:
            self.queue = theirs["hidden"].new_zeros(self._plan.queue, theirs["hidden"].shape[-1])


def taught(
    student: nn.Module,
    tokenizer: Tokenizer,
    plan: Distillation,
    probe: Batch,
    *,
    fresh: bool,
    folder: Path,
    of: Mapping[str, Any],
) -> Distilled:
    """A student beside the teacher that its plan pins by digest.

    fresh: training begins, so that weights are inherited now, if they are to be.
    folder: the run's, where the teacher's answers are kept. of: what they hang on beside teacher, tokenizer and image size.
    Raises as `checkpoint.load_part` for a teacher that is gone or another one, and ConfigError as `Distilled` and `inherit`.
    """
    teacher = load_part(Path(plan.teacher.path), plan.teacher)
    _warn_of_size(student, teacher)
    if plan.inherit and fresh:
        if teacher.tokenizer is not None and teacher.tokenizer.digest != tokenizer.digest:
            raise ConfigError(
                f"distill.inherit: {teacher.origin.kind}:{teacher.origin.name} reads with another tokenizer, so its words "
                "are not the student's; set inherit: false, or train both on one source with one vocab_size."
            )
        inherit(student, teacher.module)
    cache = None
    if plan.remember:
        identity = {
            **of,
            "teacher": plan.teacher.digest,
            "tokenizer": tokenizer.digest,
            "image_px": probe.pixels_BCHW.shape[-1],
            "temperature": plan.temperature,
            "kept": KEPT,
        }
        cache = TeacherCache(folder / FOLDER, identity)
    return Distilled(student, tokenizer, teacher, plan, probe, cache)


def _wanted(terms: Mapping[str, Term]) -> set[str]:
    return {view for term in terms.values() for view in term.ours}


def _taught(terms: Mapping[str, Term]) -> set[str]:
    return {view for term in terms.values() for view in term.taught}


def _refuse(
    student: nn.Module, teacher: Part, tokenizer: Tokenizer, terms: Mapping[str, Term]
) -> None:
    named = f"{teacher.origin.kind}:{teacher.origin.name}"
    if not isinstance(student, Distils | LearnsFromFeatures):
        raise ConfigError(
            f"A {type(student).__name__} has no outputs that are compared with a teacher's; only `seq` teaches it."
        )
    if not isinstance(teacher.module, Distils | Embeds):
        raise ConfigError(
            f"The teacher {named} is a {type(teacher.module).__name__}, which shows no outputs to compare; it teaches by "
            "the texts it writes: set distill.terms to {seq: 1.0}."
        )
    by_token = [name for name, term in terms.items() if term.by_token]
    if by_token and teacher.tokenizer is not None and teacher.tokenizer.digest != tokenizer.digest:
        raise ConfigError(
            f"distill.terms.{by_token[0]} compares word by word, and the teacher {named} reads with another tokenizer "
            f"({teacher.tokenizer.digest[:12]}, the student {tokenizer.digest[:12]}). Train both on one source with one "
            "vocab_size, or let it teach by the texts it writes: seq."
        )


def _refuse_drawn(teacher: Part, terms: Mapping[str, Term]) -> None:
    """What a pass draws by chance is another thing to be asked about each time."""
    if isinstance(teacher.module, Embeds) or getattr(teacher.module, "ROWS_APART", False):
        return
    raise ConfigError(
        f"distill.remember: what a {type(teacher.module).__name__} says for {', '.join(terms)} hangs on what each batch draws "
        "(where texts are cut, which words are hidden, which documents rows make); set remember: false."
    )


def _refuse_missing(name: str, term: Term, ours: Views, theirs: Views) -> None:
    for whose, seen, needed in (("student", ours, term.ours), ("teacher", theirs, term.taught)):
        if missing := [view for view in needed if view not in seen]:
            raise ConfigError(
                f"distill.terms.{name} compares {', '.join(missing)}, which this {whose} does not show; it shows "
                f"{', '.join(sorted(seen))}."
            )


def _refuse_unequal(name: str, term: Term, ours: Views, theirs: Views) -> None:
    for mine, other in term.equal:
        here, there = tuple(ours[mine].shape), tuple(theirs[other].shape)
        if here != there:
            raise ConfigError(
                f"distill.terms.{name}: the student's {mine} are {here}, the teacher's {other} {there}: rows are words "
                "that are learnt, columns the vocabulary. Take a student of the teacher's family that reads each pair "
                "alone (of a Flamingo, model.images_per_document: 1)."
            )


def _warn_of_size(student: nn.Module, teacher: Part) -> None:
    ours, theirs = (
        sum(value.numel() for value in model.parameters()) for model in (student, teacher.module)
    )
    if ours > theirs:
        logging.getLogger(__name__).warning(
            "The student has %.2f M parameters, its teacher %.2f M: it is made to be the smaller one.",
            ours / 1e6,
            theirs / 1e6,
        )
