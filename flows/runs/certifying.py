"""The parity certificate of the code that is running: made once, kept by the code's digest, named beside every score."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from components.atomic import write_json
from components.metrics.certificate import (
    Certificate,
    certify,
    code_digest,
    from_dict,
    to_dict,
)
from components.metrics.golden import Golden, GoldenMissing
from components.metrics.scorecard import MEASURES, reported
from components.metrics.with_data import compiled, load
from infra.settings import Settings


def golden_folder(settings: Settings) -> Path:
    """Where a checkout has the corpus."""
    return settings.repo / "tests" / "components" / "metrics" / "golden"


def tables(settings: Settings) -> Path:
    """Folder of the tables that metrics compile once."""
    return settings.home / "metrics"


def compiled_tables(settings: Settings) -> Path | None:
    """The same if something lies there: a night compiles nothing, and has METEOR from when `diptych score` or `diptych
    metrics certify` did."""
    return tables(settings) if compiled(tables(settings)) else None


def tell_of_compiling(settings: Settings, measures: Iterable[str]) -> None:
    """Say on stderr that some of these measures compile their data now: nothing else is printed for half a minute."""
    needed = any(MEASURES[name].prepare is load for name in measures)
    if needed and compiled_tables(settings) is None:
        said = f"compiling METEOR's data into {tables(settings)}, once, for half a minute …"
        print(said, file=sys.stderr, flush=True)


def make(
    settings: Settings, cache: Path | None, golden: Path | None = None
) -> tuple[Certificate, Path]:
    """Run the golden corpus and keep what came of it. Raises GoldenMissing."""
    tell_of_compiling(settings, reported(cache))
    certificate = certify(golden or golden_folder(settings), cache)
    path = _path(settings, certificate.code)
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(path, to_dict(certificate))
    return certificate, path


def certificate_here(settings: Settings, cache: Path | None) -> Certificate | None:
    """The certificate of this code, made where there is none yet; None where there is no golden corpus.

    cache: folder of compiled tables; without one it does not speak of METEOR.
    """
    try:
        corpus = Golden.read(golden_folder(settings))
    except GoldenMissing:
        return None
    found = _read(_path(settings, code_digest(cache)))
    return found if found and found.corpus == corpus.digest else make(settings, cache)[0]


def _path(settings: Settings, code: str) -> Path:
    return settings.home / "certificates" / f"{code}.json"


def _read(path: Path) -> Certificate | None:
    """None for what is not there or is damaged: it is made again."""
    try:
        return from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None


def show(certificate: Certificate, path: Path) -> None:
    """A line a metric, and what the certificate stands for."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "compared", "largest deviation", "tolerance", "", box=box.SIMPLE_HEAD)
    for name, parity in certificate.metrics.items():
        said = "equal" if parity.passed else "DIFFERS"
        numbers = (str(parity.compared), f"{parity.deviation:.2e}", f"{parity.tolerance:.0e}")
        table.add_row(name, *numbers, said)
    console = Console(highlight=False)
    console.print(table)
    for name, why in certificate.left_out.items():
        console.print(f"left out: {name}: {why}", markup=False, soft_wrap=True)
    console.print(
        f"certificate {certificate.id} · corpus {certificate.corpus[:12]} · code {certificate.code[:12]}\n{path}",
        markup=False,
        soft_wrap=True,
    )
