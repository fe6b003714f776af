"""YAML -> Experiment: the one place where text becomes typed records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from components.abilities import Captions, Embeds, Steers
from components.catalog import MODELS, SOURCES, STAGES
from components.config import Config, ConfigError
from components.evaluation.measure import measurable
from components.evaluation.plan import EvaluationPlan
from components.models.parts import Origin
from components.records import Checkpoint
from components.table import UnknownName, nearest
from components.training.plan import TrainingPlan
from components.training.sweeps.search import Search
from components.training.teachers.teaching import Distillation
from flows.sections.search import read_search
from flows.sections.slots import read_parts, read_scorer
from flows.sections.teachers import (
    VersionOf,
    no_versions,
    pinned,
    read_distillation,
    refuse_teacher,
)
from registry.gates import Rule, check_rules

FOLDER = Path(__file__).parent / "experiments"
KEYS: dict[str, type] = {
    "family": str,
    "source": str,
    "model": dict,
    "parts": dict,
    "training": dict,
    "evaluation": dict,
    "gate": list,
    "search": dict,
    "distill": dict,
}
"""What an experiment's file holds, and of which kind each is."""
SECTIONS = ("model", "training", "evaluation", "search", "distill")
"""What an override may change: who may say what passes the gate is the file alone."""
_KINDS = {str: "a name", dict: "a mapping", list: "a list"}
LONGEST_NAME = 60
"""Letters of an experiment's name, at most."""
_NAME = re.compile(rf"[a-z0-9][a-z0-9_]{{0,{LONGEST_NAME - 1}}}")
_DIGEST = re.compile(r"[0-9a-f]{12}")

ExperimentName = StrEnum(  # type: ignore[misc]
    "ExperimentName", {path.stem: path.stem for path in sorted(FOLDER.glob("*.yaml"))}
)
"""Every file of flows/experiments: the dropdown of the form."""

SourceName = StrEnum("SourceName", {name: name for name in SOURCES})  # type: ignore[misc]
"""Every source of the catalog: the dropdown of the form."""


class Launcher(StrEnum):
    """Where training runs: jobs, on the Ray head of `diptych up`; local, on a Ray of the run's own; inline, without Ray."""

    # The sentence above is what the form shows; it does not show those of the members.
    jobs = "jobs"
    local = "local"
    inline = "inline"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What to train, on what, how to measure it and what it must reach."""

    name: str
    """The file's stem; also the registered model's name, so that nights of one experiment share a champion."""
    family: str
    source: str
    model: Config
    training: TrainingPlan
    parts: Mapping[str, Origin] = field(default_factory=dict)
    """What the family's slots are handed; a stage's digest is filled in before anything is named by it."""
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    gate: tuple[Rule, ...] = ()
    distill: Distillation | None = None
    """Whom it learns from beside its data; the teacher's digest is filled in before anything is named by it."""
    search: Search | None = None
    """What `diptych sweep` tries; no training of the experiment itself depends on it."""
    file: str = ""
    """What it was read from, as `located` names it; with `overrides` it is read again when a run goes on."""
    overrides: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of what decides the weights; a changed gate or evaluation judges the same weights anew."""
        decides: tuple[Any, ...] = (
            self.name,
            self.family,
            self.source,
            self.model.to_dict(),
            self.training.decides(),
        )
        if self.parts:
            named = {slot: asdict(origin) for slot, origin in self.parts.items()}
            decides += ({slot: {**origin, "path": ""} for slot, origin in named.items()},)
        if self.distill is not None:
            decides += (self.distill.decides(),)
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def read_experiment(
    name: str, overrides: Sequence[str] = (), *, within: Sequence[str] = ()
) -> Experiment:
    """The experiment called `name`, or in the YAML file of that path, with `section.key=value` overrides.

    within: the experiments that ask for this one as a stage, outermost first.
    Raises UnknownName for an experiment, family, source or key nobody knows, with the nearest known one, and
    ConfigError for a value that cannot work and for stages that need each other; stages are read too.
    """
    path, text = read_text(name, overrides)
    if path.stem in within:
        raise ConfigError(f"{' needs '.join((*within, path.stem))}: stages cannot need themselves.")
    experiment = replace(_typed(text, path), file=located(name), overrides=tuple(overrides))
    for origin in experiment.parts.values():
        if origin.kind == "stage":
            read_experiment(origin.name, within=(*within, path.stem))
    if (taught := experiment.distill) is not None and taught.teacher.kind == "stage":
        teacher = read_experiment(taught.teacher.name, within=(*within, path.stem))
        refuse_teacher(taught, MODELS[teacher.family], f"{path}: distill")
    _refuse_scorer(experiment, (*within, path.stem), f"{path}: evaluation.scorer")
    return experiment


def read_text(name: str, overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """The file of an experiment and what it says, overrides put in; nothing but its keys is looked at.

    Raises as `read_experiment`.
    """
    path = Path(name) if _is_path(name) else FOLDER / f"{shipped(name)}.yaml"
    text = _load(path)
    for override in overrides:
        _override(text, override)
    return path, text


def check_name(path: Path) -> None:
    """Raise `ConfigError` for a file whose stem cannot name an experiment, and with it models."""
    if not _NAME.fullmatch(path.stem):
        raise ConfigError(
            f"{_short(path.name)} cannot name models: a file's stem is lower-case letters, digits and _, at most "
            f"{LONGEST_NAME}."
        )


def located(name: str) -> str:
    """One name for one experiment, from whatever folder it is asked for: a shipped one's own, else its file's absolute path."""
    if not _is_path(name):
        return name
    # Not the file itself: a link's own stem is the name of what it trains.
    path = Path(name).parent.resolve() / Path(name).name
    is_shipped = path.parent == FOLDER.resolve() and path.suffix == ".yaml"
    return path.stem if is_shipped and path.stem in ExperimentName.__members__ else str(path)


def read_competing(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment whose versions compete for champion; ConfigError for a stage, which is only ever a part."""
    experiment = read_experiment(name, overrides)
    if experiment.family in STAGES:
        raise ConfigError(
            f"{experiment.name} is a stage: it has no champion. `diptych train {experiment.name}` makes it alone; "
            "experiments that name it in their parts make it when they need it."
        )
    return experiment


def shipped(name: str) -> str:
    """The name, if it is that of an experiment of the folder; else UnknownName with the nearest."""
    known = [experiment.value for experiment in ExperimentName]
    if name not in known:
        raise UnknownName(
            f"No experiment {_short(name)}.{nearest(Path(name).stem, known)} Known: {', '.join(known)}. "
            "A new experiment is one file in flows/experiments/."
        )
    return name


def filled(
    experiment: Experiment,
    checkpoint_of: Callable[[str], Checkpoint],
    version_of: VersionOf = no_versions,
) -> Experiment:
    """The experiment with each `stage:` slot and its teacher holding a checkpoint: its digest is part of what names a run.

    A stage that scores captions is filled in too; that is part of the evaluation and names no run.
    """
    parts = {slot: _found(origin, checkpoint_of) for slot, origin in experiment.parts.items()}
    plan = filled_scorer(experiment.evaluation, checkpoint_of)
    taught = experiment.distill and pinned(experiment.distill, checkpoint_of, version_of)
    return replace(experiment, parts=parts, evaluation=plan, distill=taught)


def filled_scorer(
    plan: EvaluationPlan, checkpoint_of: Callable[[str], Checkpoint]
) -> EvaluationPlan:
    """The plan with a `stage:` that scores captions holding a checkpoint."""
    return replace(plan, scorer=_found(plan.scorer, checkpoint_of)) if plan.scorer else plan


def _found(origin: Origin, checkpoint_of: Callable[[str], Checkpoint]) -> Origin:
    if origin.kind != "stage":
        return origin
    made = checkpoint_of(origin.name)
    return replace(origin, digest=made.digest, path=str(made.path))


def run_key(experiment: Experiment, shards_digest: str, attempt: int) -> str:
    """What names a run: settings, data and attempt; the same again is the same run, gone on with."""
    parts = f"{experiment.digest}\n{shards_digest}\n{attempt}"
    return f"{experiment.name}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def is_run_key(text: str) -> bool:
    """Whether `run_key` could have made this.

    >>> is_run_key("clip_tiny-0123456789ab"), is_run_key("home")
    (True, False)
    """
    name, _, digest = text.rpartition("-")
    return bool(_NAME.fullmatch(name) and _DIGEST.fullmatch(digest))


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _load(path: Path) -> dict[str, Any]:
    check_name(path)
    try:
        text = _yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UnknownName(f"There is no file {path} with an experiment in it.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}.") from error
    if not isinstance(text, dict):
        raise ConfigError(f"{path} holds no mapping; its keys are {', '.join(KEYS)}.")
    _refuse_unknown(text, KEYS, str(path))
    filled = {key: value for key, value in text.items() if value is not None}
    for key, value in filled.items():
        if not isinstance(value, KEYS[key]):
            raise ConfigError(f"{path}: {key} is {_short(value)}; {_KINDS[KEYS[key]]} is needed.")
    return filled


def _override(text: dict[str, Any], override: str) -> None:
    keys, equals, value = override.partition("=")
    section, dot, key = keys.strip().partition(".")
    if not equals or not dot or not key:
        raise ConfigError(
            f"{_short(override)} is no override; write section.key=value, as training.lr=1e-4."
        )
    if section not in SECTIONS:
        raise UnknownName(
            f'The override {_short(override)} names section "{section}".{nearest(section, SECTIONS)} '
            f"Those that can be overridden: {', '.join(SECTIONS)}."
        )
    text.setdefault(section, {})[key] = _yaml(value, f"The override {_short(override)}")


def _yaml(text: str, where: str) -> Any:
    # PyYAML hands on what Python says of a date like 2025-02-30, and of a list 10,000 deep.
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{where} is not YAML: {said[:300]}.") from error


def _typed(text: Mapping[str, Any], path: Path) -> Experiment:
    missing = [key for key in ("family", "source") if key not in text]
    if missing:
        raise ConfigError(f"{path} names no {' and no '.join(missing)}.")
    family = MODELS[text["family"]]
    SOURCES[text["source"]]
    settings = dict(text.get("model", {}))
    preset = family.Config.preset(settings.pop("preset", "tiny"))
    model = _validate(family.Config, preset.to_dict() | settings, f"{path}: model")
    plan = dict(text.get("evaluation", {}))
    plan["scorer"] = read_scorer(plan.get("scorer"), f"{path}: evaluation.scorer")
    experiment = Experiment(
        name=path.stem,
        family=text["family"],
        source=text["source"],
        model=model,
        parts=read_parts(family, model, text.get("parts", {}), f"{path}: parts"),
        training=_validate(TrainingPlan, text.get("training", {}), f"{path}: training"),
        evaluation=_validate(EvaluationPlan, plan, f"{path}: evaluation"),
        distill=read_distillation(text.get("distill"), family, _validate, f"{path}: distill"),
        gate=tuple(_validate(Rule, rule, f"{path}: gate") for rule in text.get("gate", ())),
    )
    if "search" in text:
        known = measurable(family, scored=experiment.evaluation.scorer is not None)
        search = read_search(text["search"], model, experiment.training, known, _validate, path)
        experiment = replace(experiment, search=search)
    try:
        if text["family"] not in STAGES:
            scored = experiment.evaluation.scorer is not None
            check_rules(experiment.gate, measurable(family, scored=scored))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if issubclass(family, Captions):
        _refuse_decoding(family, experiment, path)
    return experiment


def _refuse_scorer(experiment: Experiment, within: Sequence[str], where: str) -> None:
    scorer = experiment.evaluation.scorer
    if scorer is None:
        return
    if not issubclass(MODELS[experiment.family], Captions):
        raise ConfigError(f"{where}: {experiment.family} writes no captions; leave it out.")
    if scorer.kind == "stage":
        scoring = read_experiment(scorer.name, within=within)
        if not issubclass(MODELS[scoring.family], Embeds):
            raise ConfigError(
                f"{where} is stage:{scorer.name}, a {scoring.family}, which does not embed images and texts; name one "
                "that does, as stage:clip_emoji_mini."
            )


def _refuse_decoding(family: type, experiment: Experiment, path: Path) -> None:
    longest, plan = getattr(experiment.model, "max_tokens", 0), experiment.evaluation
    if plan.max_tokens > longest:
        raise ConfigError(
            f"{path}: evaluation.max_tokens is {plan.max_tokens}; the model writes at most model.max_tokens, which is "
            f"{longest}."
        )
    if issubclass(family, Steers) != (plan.decoder == "magic"):
        raise ConfigError(
            f"{path}: evaluation.decoder is {plan.decoder}. A family that steers sees its images through the decoder "
            f"magic alone, and no other family is asked by it; {experiment.family} "
            + ("needs it." if issubclass(family, Steers) else "takes any other.")
        )


def _validate(record: type, values: Mapping[str, Any], where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {_short(values)}; a mapping is needed.")
    _refuse_unknown(values, [each.name for each in fields(record)], where)
    try:
        return TypeAdapter(record).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), Exception):
            raise ConfigError(f"{where}: {cause}") from error
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}.{key} is {_short(first['input'])}: {first['msg']}.") from error


def _refuse_unknown(values: Mapping[str, Any], known: Any, where: str) -> None:
    for key in values:
        if key not in known:
            raise UnknownName(
                f'{where} has no key "{key}".{nearest(str(key), known)} Known: {", ".join(known)}.'
            )


def _short(value: Any) -> str:
    # As Python writes it, so that what would steer the terminal is shown and does nothing.
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
