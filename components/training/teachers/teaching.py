"""What a student is to learn from a teacher: the record that an experiment's `distill` section becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from components.config import ConfigError
from components.models.parts import Origin
from components.table import UnknownName, nearest
from components.training.teachers.terms import TERMS

SEQ = "seq"
"""The term that is no function of outputs: the share of training texts that the teacher wrote."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A teacher, what is taken over from it, and how much each counts. Raises ConfigError for what cannot work."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    teacher: Origin
    """A checkpoint of ours: of an experiment (stage), of a registered version, or in a folder."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Weight of each term of `training/teachers/terms.py`, 0 or above. `seq` is a share in [0, 1] of the texts: those that the
    teacher wrote take the place of an image's own."""
    task: float = 1.0
    """Weight of the student's own loss; 0 learns from the teacher alone."""
    temperature: float = 1.0
    """Of both softmaxes, in `logit_kl`, `token_kl` and `context`."""
    inherit: bool = False
    """Start from the teacher's weights, as far as they fit (`training/teachers/inheritance.py`)."""
    icl_scale: Literal["exp", "raw"] = "exp"
    """`raw` multiplies by the logarithm of the scale, as the released CLIP-KD does; for comparison."""
    distance: Literal["mse", "l1"] = "mse"
    """Of `feature`."""
    shots: int = 4
    """Demonstrations that the teacher is shown before each pair in `context`: other pairs of the batch. The student sees none."""
    queue: int = 1024
    """The teacher's states of earlier tokens that `token_nce` tells apart."""
    teacher_scale: float = 20.0
    """What cosines of a teacher are multiplied by in `affinity` that learnt no scale of its own (ASIF)."""
    remember: bool = False
    """Ask the teacher once about each image and text, and keep its answers beside the run (`training/teachers/remembering.py`)."""
    writing: Mapping[str, Any] = field(default_factory=dict)
    """How the teacher writes the texts of `seq`: `decoder` and its options, as an experiment's evaluation has them."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The texts it wrote: `path` of a file of JSON lines, and `key`, its identity; made before training, named by nobody."""

    def __post_init__(self) -> None:
        # In one order, however they were written or read again: sums of floats depend on it, and so do all weights.
        object.__setattr__(self, "terms", dict(sorted(self.terms.items())))
        for name, weight in self.terms.items():
            if name not in TERMS and name != SEQ:
                known = [*TERMS, SEQ]
                raise UnknownName(
                    f'No term of distillation "{name}".{nearest(name, known)} Known: {", ".join(known)}.'
                )
            if not (math.isfinite(weight) and weight >= 0) or (name == SEQ and weight > 1):
                most = "a share in [0, 1]" if name == SEQ else "a weight of 0 or above"
                raise ConfigError(f"terms.{name} is {weight}; {most} is needed.")
        if self.written and not self.writing:
            raise ConfigError(
                "terms.seq lets the teacher write; say how, as writing: {decoder: beam, beams: 5, max_tokens: 16}."
            )
        if not self.task >= 0 or not self.temperature > 0 or min(self.queue, self.shots) < 1:
            raise ConfigError(
                f"task={self.task}, temperature={self.temperature}, queue={self.queue}, shots={self.shots}: task is at "
                "least 0, temperature above 0, queue and shots at least 1."
            )
        if not (self.task or self.compared):
            raise ConfigError("task is 0 and so is every term: there is nothing to learn.")

        if self.remember and (
            lost := [name for name in self.compared if not TERMS[name].remembered]
        ):
            kept = [name for name, term in TERMS.items() if term.remembered]
            raise ConfigError(
                f"remember keeps no teacher's answers for {', '.join(lost)}, only for {', '.join(kept)}; set remember: "
                "false, or leave those terms out."
            )

    @property
    def compared(self) -> dict[str, float]:
        """The terms that count and compare outputs."""
        return {name: weight for name, weight in self.terms.items() if weight and name != SEQ}

    @property
    def written(self) -> float:
        """Share of training texts that the teacher writes."""
        return self.terms.get(SEQ, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        saved = asdict(self)
        # So that runs that were named before these could be asked for keep their names.
        if not self.remember:
            del saved["remember"]
        if "context" not in self.compared:
            del saved["shots"]
        return saved

    def decides(self) -> dict[str, Any]:
        """As `to_dict`, without where the teacher and its texts lie: their digests say what they are."""
        saved = self.to_dict()
        texts = {name: value for name, value in saved["texts"].items() if name != "path"}
        return {**saved, "teacher": {**saved["teacher"], "path": ""}, "texts": texts}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Distillation:
        """What `to_dict` gave."""
        return cls(**{**saved, "teacher": Origin(**saved["teacher"])})
