"""The parity certificate: how far this code is from the reference programmes, over the whole golden corpus.

Golden numbers were printed by the programmes themselves. A certificate says the largest deviation of each metric, of
any image and of the corpus, in every variant; it stands for one state of the code, of Python and of the
packages that compute.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from components.metrics.golden import Golden, deviations
from components.metrics.metric import MetricInputError
from components.metrics.scorecard import left_out

ID_LETTERS = 16
PACKAGES = ("numpy", "numba", "snowballstemmer")
"""What numbers that the corpus compares are computed by; numba and snowballstemmer may be absent."""
SOURCES = Path(__file__).parent


@dataclass(frozen=True)
class Parity:
    """What the corpus said of one metric."""

    deviation: float
    """Largest absolute difference from the reference; for tokens, the captions that differ."""
    tolerance: float
    compared: int
    """Numbers that were compared."""

    @property
    def passed(self) -> bool:
        """Whether it is within tolerance; a NaN is not."""
        return self.deviation <= self.tolerance


@dataclass(frozen=True)
class Certificate:
    """What `diptych metrics certify` found."""

    code: str
    """Digest of the metrics' sources, with the versions and the measures that ran."""
    corpus: str
    """Digest of the golden files."""
    metrics: Mapping[str, Parity]
    """Shown name -> parity."""
    left_out: Mapping[str, str]
    """What could not be computed here -> why."""

    @property
    def id(self) -> str:
        """Names this very finding: say it beside a score."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_LETTERS]

    @property
    def passed(self) -> bool:
        """Whether every metric is within its tolerance."""
        return all(each.passed for each in self.metrics.values())


def certify(golden: Path, cache: Path | None = None) -> Certificate:
    """Compute the golden corpus and compare. Raises GoldenMissing where the files are not."""
    corpus = Golden.read(golden)
    worst: dict[str, Parity] = {}
    for name, deviation, tolerance in deviations(corpus, cache):
        before = worst.get(name, Parity(0.0, tolerance, 0))
        # Not max(): it would let a NaN pass.
        larger = before.deviation if deviation <= before.deviation else deviation
        worst[name] = Parity(larger, tolerance, before.compared + 1)
    return Certificate(code_digest(cache), corpus.digest, worst, left_out(cache))


def code_digest(cache: Path | None = None) -> str:
    """Changes with every source of `components/metrics`, with Python and `PACKAGES`, and with what can be computed here."""
    digest = hashlib.sha256()
    for file in sorted(SOURCES.rglob("*.py")):
        name = file.relative_to(SOURCES).as_posix()
        digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    known = [platform.python_version(), *map(_version, PACKAGES), *sorted(left_out(cache))]
    digest.update("\n".join(known).encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def to_dict(certificate: Certificate) -> dict[str, Any]:
    """As JSON can hold it, with its id."""
    return {"id": certificate.id, **asdict(certificate)}


def from_dict(saved: Mapping[str, Any]) -> Certificate:
    """What `to_dict` gave. Raises MetricInputError if it is something else, or was changed since."""
    try:
        parity = {name: Parity(**each) for name, each in saved["metrics"].items()}
        found = Certificate(saved["code"], saved["corpus"], parity, saved["left_out"])
        same = found.id == saved["id"]
    except (LookupError, TypeError, AttributeError) as error:
        raise MetricInputError(f"This is no certificate ({error!r}).") from error
    if not same:
        raise MetricInputError(
            f"This certificate says {saved['id']} and is {found.id}: it was changed."
        )
    return found
