"""What an experiment's `parts` say -> where each slot's part comes from; a mistake is told before any data is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from components.catalog import PACKAGES
from components.config import Config, ConfigError
from components.models.hub_snapshot import repository
from components.models.parts import Kind, Origin
from components.table import UnknownName, nearest
from components.training.building import slots, starts

SCORERS = ("stage", "folder", "hub")
"""Kinds of origin that can score captions."""


def read_parts(
    family: type, model: Config, text: Mapping[str, object], where: str
) -> dict[str, Origin]:
    """`{slot: "kind:name"}` as origins.

    A slot whose name is a setting of the model, as `vision`, is needed where that says "part"; weights to start from
    may be left out. Raises UnknownName for a slot, kind or package nobody knows, with the nearest, and ConfigError for
    a slot that is left empty, or filled where the settings say that nothing goes there.
    """
    known = {**slots(family), **starts(family)}
    for slot in text:
        if slot not in known:
            takes = f"its slots are {', '.join(known)}" if known else "it has no slots"
            raise UnknownName(f'{where}: no slot "{slot}".{nearest(str(slot), known)} {takes}.')
    for slot in known:
        _refuse_misfit(
            slot, slot in text, slot in slots(family), getattr(model, slot, "part"), where
        )
    return {slot: _origin(str(value), f"{where}.{slot}") for slot, value in text.items()}


def read_scorer(text: object, where: str) -> Origin | None:
    """`kind:name` of what scores captions, as an origin; None for null.

    Raises as `read_parts`, and ConfigError for a kind that holds no model of images and texts.
    """
    if text is None:
        return None
    origin = _origin(str(text), where)
    if origin.kind not in SCORERS:
        raise ConfigError(
            f"{where} is {origin.kind}:{origin.name}; a scorer embeds images and texts, so it is one of "
            "stage:EXPERIMENT, folder:PATH, hub:NAME."
        )
    return origin


def _refuse_misfit(slot: str, given: bool, needed: bool, wanted: object, where: str) -> None:
    # A slot that the config fills by itself (`vision: conv`) takes no part; others take one, or must.
    if given and wanted != "part":
        raise ConfigError(f"{where}.{slot} is given, and model.{slot} is {wanted}; set it to part.")
    if needed and not given and wanted == "part":
        raise ConfigError(
            f"{where} leaves {slot} empty; say what goes there, as `{slot}: stage:EXPERIMENT`, or "
            f"`{slot}: random` for a stand-in."
        )


def _origin(text: str, where: str) -> Origin:
    kind, _, name = text.partition(":")
    kinds: tuple[Kind, ...] = get_args(Kind)
    if kind not in kinds or kind == "version":
        raise UnknownName(
            f'{where}: "{text[:80]}" is none of stage:EXPERIMENT, package:NAME, folder:PATH, hub:NAME, hub:NAME@COMMIT, random.'
        )
    if not name and kind != "random":
        raise ConfigError(f"{where}: {kind}: names nothing; write {kind}:NAME.")
    if kind == "package":
        PACKAGES[name]
    if kind == "hub":
        repository(name)
    if kind == "folder":  # a worker has another working directory
        name = str(Path(name).expanduser().absolute())
    return Origin(kind=kind, name=name)  # type: ignore[arg-type]
