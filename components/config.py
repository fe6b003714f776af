"""What every configuration record shares: frozen, typed, and a refusal that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from components.data.text import Tokenizer
    from components.records import Row


class ConfigError(ValueError):
    """A setting that cannot work; the message says what would."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of the families' configurations.

    A plain dataclass, so that a GPU box needs no pydantic; where pydantic reads YAML into it, the attribute below
    makes it refuse unknown keys.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    vocab_size: int = 512
    """Entries of the tokenizer, specials included; training sets it from the tokenizer it made."""

    @classmethod
    def tiny(cls) -> Self:
        """The smallest that still learns; what the tests build."""
        return cls()

    @classmethod
    def preset(cls, name: str) -> Self:
        """The configuration called `tiny`, `small` or `paper`."""
        known = [preset for preset in ("tiny", "small", "paper") if hasattr(cls, preset)]
        if name not in known:
            raise ConfigError(f'{cls.__name__} has no preset "{name}"; it has {", ".join(known)}.')
        made: Self = getattr(cls, name)()
        return made

    def fitted(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """This configuration with what follows from the training data; here the size of the vocabulary."""
        return replace(self, vocab_size=tokenizer.vocab_size)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; `Config(**saved)` makes it again."""
        return asdict(self)
