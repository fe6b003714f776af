"""How a checkpoint is measured: on which splits, with which decoder, with which prompts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from components.catalog import DECODERS, FEW_SHOTS
from components.config import ConfigError
from components.records import SPLITS

PROMPTS = ("{}", "a {}", "the {}")
"""Short, as captions are: a template training never saw moves a class away from its images."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What `measure` needs beside a checkpoint and shards."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    split: str = "test"
    """The split the gate reads."""
    also: tuple[str, ...] = ()
    """Splits measured beside it; each has a report of its own."""
    decoder: str = "beam"
    """How captions are written."""
    beams: int = 5
    """Beams of the beam decoder."""
    max_tokens: int = 20
    """Longest caption, in tokens."""
    prompts: tuple[str, ...] = PROMPTS
    """Templates whose embeddings are averaged to one per class; `{}` is the class's label."""
    blind_seed: int = 0
    """Seed of the shuffle that makes the image-blind control."""
    match_lists: int = 4
    """Lists of 32 images and texts whose pairs a matching family scores, 1,024 passes each; 0 leaves them out."""
    shots: tuple[int, ...] = (0, 1, 4)
    """Demonstrations in front of a query, for families that learn in context."""
    episodes: int = 64
    """Queries of one few-shot trial; all images of the split if it has fewer."""
    trials: int = 3
    """Few-shot trials, each with queries and demonstrations of its own seed."""
    demonstrations: Literal["random", "similar"] = "random"
    """Which training images are shown: any, or the nearest by the frozen tower's features (RICES)."""

    def __post_init__(self) -> None:
        """Refuse a plan that could not be carried out, before anything is trained."""
        for split in (self.split, *self.also):
            if split not in SPLITS:
                raise ConfigError(f'No split "{split}"; the splits are {", ".join(SPLITS)}.')
        DECODERS[self.decoder]
        if self.beams < 1 or self.max_tokens < 2:
            raise ConfigError(
                f"beams={self.beams} and max_tokens={self.max_tokens}: at least 1 and 2 are needed."
            )
        if not self.prompts or any("{}" not in prompt for prompt in self.prompts):
            raise ConfigError('Each of `prompts` holds "{}" where the class\'s label goes.')

        self._check_few_shots()

    def _check_few_shots(self) -> None:
        if not self.shots or not set(self.shots) <= set(FEW_SHOTS):
            raise ConfigError(
                f"shots={list(self.shots)}: some of {', '.join(map(str, FEW_SHOTS))} can be measured."
            )
        if len(set(self.shots)) < len(self.shots):
            raise ConfigError(f"shots={list(self.shots)} names a number twice.")
        if self.episodes < 2 or self.trials < 1:
            raise ConfigError(
                f"episodes={self.episodes} and trials={self.trials}: at least 2 and 1 are needed."
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    def decoding(self) -> dict[str, Any]:
        """What decides which words are written: the part of the plan that names stored captions."""
        beams = self.beams if self.decoder == "beam" else 1
        return {"decoder": self.decoder, "beams": beams, "max_tokens": self.max_tokens}
