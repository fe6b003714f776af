"""What a person calls a version -> its model in memory: read from the registry's own files, so no server is started."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.abilities import Steers
from components.catalog import FAMILIES
from components.data.text import Tokenizer
from components.evaluation.plan import EvaluationPlan
from components.records import Checkpoint
from components.table import nearest
from components.training.checkpoints.checkpoint import load_model
from components.training.checkpoints.marker import MARKER
from flows.experiment import is_run_key
from infra.settings import Settings
from registry.versions import Versions

_REGISTERED = re.compile(r"([\w.-]{1,200})(?:@([\w.-]{1,60})|/(\d{1,9}))?", re.ASCII)
WORDED = "EXPERIMENT, EXPERIMENT@champion, EXPERIMENT/3, or the folder of a checkpoint"


class UnknownVersion(LookupError):
    """A version that there is not; the message offers those there are."""


class CannotDo(ValueError):
    """A family was asked for what it cannot do."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A loaded version."""

    title: str
    """What people and the files made of it call it; no path of this machine."""
    family: str
    model: Any
    tokenizer: Tokenizer
    path: Path
    """Its checkpoint."""
    own: EvaluationPlan | None = None
    """How it was measured, so far as it is told to write and to name; None for a folder, which nobody kept that with."""

    def plan(self, decoder: str | None = None, max_tokens: int | None = None) -> EvaluationPlan:
        """How it writes and names: as it was measured, or by a decoder and a longest text that a person names.

        Another decoder goes by its own options. Raises CannotDo, UnknownName for a decoder that there is not.
        """
        longest = max(2, self.model.batch_spec().max_tokens - 1)
        plan = self.own or EvaluationPlan(
            decoder="magic" if isinstance(self.model, Steers) else "beam",
            max_tokens=min(20, longest),
        )
        if decoder not in (None, plan.decoder):
            plan = self._by_another(plan, decoder)
        return plan if max_tokens is None else replace(plan, max_tokens=min(max_tokens, longest))

    def _by_another(self, plan: EvaluationPlan, decoder: str) -> EvaluationPlan:
        if "magic" in (plan.decoder, decoder):
            raise CannotDo(
                f"{self.title} cannot write by {decoder}: the decoder magic is for families that steer, and these have "
                f"no other. Leave --decoder out."
            )
        kept = {name: getattr(plan, name) for name in ("max_tokens", "prompt", "end", "prompts")}
        return EvaluationPlan(decoder=decoder, **kept)

    def require(self, verb: str, *abilities: type) -> None:
        """Raise CannotDo, naming the families that can, unless the model has one of the abilities."""
        if isinstance(self.model, abilities):
            return
        able = [name for name, each in FAMILIES.items() if issubclass(each, abilities)]
        raise CannotDo(
            f"{self.title} is of the family {self.family}, which cannot {verb}. "
            f"Families that can: {', '.join(able) or 'none yet'}."
        )


def choose(version: str, settings: Settings) -> Chosen:
    """Load the version that was asked for.

    Raises UnknownVersion with the nearest name, and what a damaged version or checkpoint raises.
    """
    named, own = None, None
    if _is_folder(version):
        path = Path(version)
    else:
        named, path, own = _from_registry(version, settings)
    model, tokenizer, checkpoint = load_model(path)
    return Chosen(
        title=named or _title(checkpoint), family=checkpoint.family, model=model,
        tokenizer=tokenizer, path=path, own=own,
    )  # fmt: skip


def _title(checkpoint: Checkpoint) -> str:
    """What a checkpoint's folder is called: its family, step and, where it lies in a run's folder, the run.

    Never the path that was typed: a title goes into files that others are given.
    """
    within = [folder.name for folder in checkpoint.path.resolve().parents[:2]]
    of = "".join(f" of run {name}" for name in within if is_run_key(name))
    return f"{checkpoint.family}{of}, step {checkpoint.step}"


def _from_registry(version: str, settings: Settings) -> tuple[str, Path, EvaluationPlan]:
    """Its name for a person, its checkpoint, and how it was measured."""
    found = _REGISTERED.fullmatch(version)
    if found is None:
        raise UnknownVersion(f"No version is called {_short(version)}. Give {WORDED}.")
    store = settings.home / "mlflow.db"
    if not store.is_file():
        raise UnknownVersion(
            f"No version {_short(version)}: nothing is registered in {settings.home} yet. "
            "`diptych train EXPERIMENT` makes a version; a checkpoint's folder works too."
        )
    versions = Versions(f"sqlite:///{store}", artifacts=settings.artifacts)
    model, number = found[1], _number(versions, *found.groups())
    path = versions.checkpoint(model, number, settings.home / "versions")
    manner = versions.manner(model, number)
    own = EvaluationPlan(**manner["decoding"], prompts=tuple(manner["prompts"]))
    return f"{model} version {number}", path, own


def _number(versions: Versions, model: str, alias: str | None, number: str | None) -> int:
    """The asked number; the alias's; or the champion, and the newest where there is none."""
    models = versions.models()
    if model not in models:
        raise UnknownVersion(
            f"No model {_short(model)} is registered.{nearest(model, tuple(models))} "
            f"Known: {', '.join(models) or 'none'}. Give {WORDED}."
        )
    there = versions.numbers(model)
    if not there:
        raise UnknownVersion(f"{model} has no version yet: `diptych train {model}` makes one.")
    if number is not None:
        return _known(int(number), there, model)
    at = versions.alias(model, alias or "champion")
    if alias is None:
        return at or there[-1]
    if at is None:
        guess = "" if alias == "champion" else nearest(alias, ("champion",))
        raise UnknownVersion(
            f"{model} has no {_short(alias)}.{guess} Its versions: {_listed(model, there)}; "
            f"`diptych promote {model} {there[-1]}` asks for champion."
        )
    return at


def _known(number: int, there: Iterable[int], model: str) -> int:
    if number not in there:
        near = min(there, key=lambda each: abs(each - number))
        raise UnknownVersion(
            f"{model} has no version {number}. Did you mean {model}/{near}? "
            f"Its versions: {_listed(model, there)}."
        )
    return number


def _listed(model: str, numbers: Iterable[int]) -> str:
    return ", ".join(f"{model}/{number}" for number in list(numbers)[-10:])


def _is_folder(text: str) -> bool:
    # A folder that only has the name of a model, where one happens to stand, is none.
    named = "/" in text or text.startswith(".")
    try:
        return Path(text).is_dir() if named else Path(text, MARKER).is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _short(text: str) -> str:
    """What a person typed, short and without what steers a terminal."""
    plain = "".join(letter if letter.isprintable() else "�" for letter in text)
    return f'"{plain[:60]}{"…" if len(plain) > 60 else ""}"'
