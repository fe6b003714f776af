"""The page a person reads about a manifest: static, without scripts, every value escaped.

Great Expectations' own pages write data values into their HTML as they are, so a caption can run a script there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.records import Shards


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One expectation and what became of it."""

    name: str
    says: str
    """What is expected, as a sentence."""
    subject: str
    """What is counted: "images" or "captions"."""
    ends_night: bool
    """Whether it is an error not to hold, or a warning."""
    passed: bool
    share: float
    """The part of the subjects that may break it, in [0, 1]."""
    count: int
    """Subjects that break it."""
    total: int
    examples: tuple[str, ...]
    """Ids of at most ten images."""

    @property
    def state(self) -> str:
        """In one word: "holds", "failed" or "warning"."""
        if self.passed:
            return "holds"
        return "failed" if self.ends_night else "warning"


def render(shards: Shards, outcomes: Sequence[Outcome]) -> str:
    """The page as HTML: what failed first, then warnings, then what holds."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    states = ("failed", "warning", "holds")
    return environment.get_template("expectations_page.html.j2").render(
        shards=shards,
        outcomes=sorted(outcomes, key=lambda outcome: states.index(outcome.state)),
        counts={state: sum(outcome.state == state for outcome in outcomes) for state in states},
    )
