"""How a checkpoint is measured: on which splits, with which decoder, with which prompts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from components.catalog import DECODERS, FEW_SHOTS
from components.config import ConfigError
from components.decoding.options import RANGES, BadOption, check, defaults, read_by
from components.models.parts import Origin
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
    max_tokens: int = 20
    """Longest caption, in tokens."""
    prompt: str = ""
    """Words that each caption is to continue; they are no part of what is written."""
    end: str = ""
    """Where a caption is cut off, for language models that go on: a comma in a list, a full stop."""
    beams: int | None = None
    """Beam search: texts kept alive. This and the next seven: left out, the decoder's own default."""
    length_penalty: float | None = None
    """Beam search: the power of its length that a text's log probability is divided by."""
    top_k: int | None = None
    """Nucleus, contrastive, MAGIC: how many of the likeliest words are looked at."""
    top_p: float | None = None
    """Nucleus, MAGIC: the share of probability that is drawn from, or looked at; in (0, 1]."""
    temperature: float | None = None
    """Nucleus: what logits are divided by, above 0."""
    alpha: float | None = None
    """Contrastive, MAGIC: how much likeness to what was written counts against a word, in [0, 1]."""
    beta: float | None = None
    """MAGIC: how much the image counts, at least 0."""
    seed: int | None = None
    """Nucleus: what the draws follow from."""
    prompts: tuple[str, ...] = PROMPTS
    """Templates whose embeddings are averaged to one per class; `{}` is the class's label."""
    classes: Literal["split", "all"] = "split"
    """Which concepts zero-shot classification chooses among: those of the split, or of the whole source."""
    blind_seed: int = 0
    """Seed of the shuffle that makes the image-blind control."""
    questions: int = 1000
    """Most questions an answering family is asked; more are drawn by `blind_seed`."""
    match_lists: int | None = None
    """Lists of 32 images and texts whose pairs a matching family scores, 1,024 passes each; 0 leaves them out. Not said,
    it is 4, and 0 for a family that writes captions: a pass of a large language model for each pair is dear."""
    shots: tuple[int, ...] = (0, 1, 4)
    """Demonstrations in front of a query, for families that learn in context."""
    episodes: int = 64
    """Queries of one few-shot trial; all images of the split if it has fewer."""
    trials: int = 3
    """Few-shot trials, each with queries and demonstrations of its own seed."""
    demonstrations: Literal["random", "similar"] = "random"
    """Which training images are shown: any, or the nearest by the frozen tower's features (RICES). 0 shots: any."""
    scorer: Origin | None = None
    """What gives written captions their CLIPScore, as `stage:clip_emoji_mini` or `folder:PATH`; without it they have none."""
    scorer_prefix: str = "A photo depicts "
    """What the scorer reads in front of every caption."""

    def __post_init__(self) -> None:
        """Refuse a plan that could not be carried out, before anything is trained."""
        for split in (self.split, *self.also):
            if split not in SPLITS:
                raise ConfigError(f'No split "{split}"; the splits are {", ".join(SPLITS)}.')
        self._check_decoding()
        if not self.prompts or any("{}" not in prompt for prompt in self.prompts):
            raise ConfigError('Each of `prompts` holds "{}" where the class\'s label goes.')
        if self.questions < 1:
            raise ConfigError(f"questions={self.questions}: at least 1 is needed.")
        self._check_few_shots()

    def _check_decoding(self) -> None:
        DECODERS[self.decoder]
        given = {name: getattr(self, name) for name in RANGES}
        given = {name: value for name, value in given.items() if value is not None}
        try:
            check(**given)
        except BadOption as wrong:
            raise ConfigError(str(wrong)) from wrong
        read = defaults(DECODERS[self.decoder])
        if unread := sorted(given.keys() - read.keys()):
            raise ConfigError(
                f'The decoder "{self.decoder}" reads no {", ".join(unread)}; '
                f"it reads {', '.join(read) or 'no option'}. Leave it out, or take another decoder."
            )
        if self.max_tokens < 2:
            raise ConfigError(f"max_tokens={self.max_tokens}: at least 2 are needed.")

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
        """As JSON can hold it; without a scorer nothing is said of one, as before there were any."""
        held = asdict(self)
        del held["scorer"]
        prefix = held.pop("scorer_prefix")
        if self.scorer is not None:
            held |= {"scorer": self.scorer.identity, "scorer_prefix": prefix}
        return held

    def decoding(self) -> dict[str, Any]:
        """What decides which words are written: the decoder, and each option that it reads."""
        return {
            "decoder": self.decoder,
            "max_tokens": self.max_tokens,
            "prompt": self.prompt,
            "end": self.end,
            **read_by(DECODERS[self.decoder], vars(self)),
        }
