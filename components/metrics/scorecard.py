"""Every caption metric by its name: how it is computed, what it needs, and how near its reference it must stay.

The one table that `diptych score`, the certificate, the benchmark and a model's report read. Not for the arithmetic,
which each metric has in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.metrics import bleu, cider, exact_match, rouge, rouge_n, spice, with_data
from components.metrics.material import Counted, Frequencies, Material
from components.metrics.meteor import meteor
from components.metrics.metric import MetricInputError
from components.metrics.ngrams import Floats
from components.table import Table, UnknownName, nearest

Weights = NDArray[np.generic] | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of a measure."""

    name: str
    """As reports, gates and MLflow have it: `bleu_4`."""
    shown: str
    """As papers write it: `BLEU-4`."""
    golden: str | None = None
    """Its key in the golden corpus; None where no reference programme has it."""
    tolerance: float = 1e-9
    """Largest deviation from the reference, per image and over the corpus."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One computation, which may give several columns."""

    columns: tuple[Column, ...]
    statistics: Callable[[Material], Any] | None = None
    """A frozen record of arrays, one row an image; this or `weighed`."""
    weighed: Callable[[Counted, Frequencies | None], Any] | None = None
    """The same for what weighs words by document frequencies, so that every image has to be seen before."""
    score: Callable[[Any, Weights], Sequence[float]]
    """The corpus' number in each column; weights say how often each image counts."""
    per_image: Callable[[Any], Floats]
    """(N, columns)."""
    missing: Callable[[Path | None], str | None] = lambda _: None
    """Why it cannot be computed here, given the cache folder; None where it can."""
    prepare: Callable[[Path | None], object] = lambda _: None
    """What is done once before any block, and lies in the cache folder from then on."""
    reads_texts: bool = False
    """Reads captions as written, and not their tokens."""
    reported: bool = True
    """Stands in a model's report."""


def _of_words(statistics: Callable[..., Any]) -> Callable[[Material], Any]:
    return lambda block: statistics(block.words.candidates, block.words.references)


def _of_grams(statistics: Callable[..., Any]) -> Callable[[Material], Any]:
    return lambda block: statistics(block.counted.sentences, block.counted.grams)


def _one(score: Callable[..., float]) -> Callable[[Any, Weights], Sequence[float]]:
    return lambda stats, weights: (score(stats, weights),)


def _column(per_image: Callable[[Any], Floats]) -> Callable[[Any], Floats]:
    return lambda stats: per_image(stats)[:, None]


def _cider_scores(stats: cider.CiderStatistics, weights: Weights) -> Sequence[float]:
    return [cider.score(stats, weights, variant=variant) for variant in ("cider", "cider_d")]


def _cider_rows(stats: cider.CiderStatistics) -> Floats:
    return np.stack([stats.cider_N, stats.cider_d_N], axis=1)


def _cider(counted: Counted, given: Frequencies | None) -> cider.CiderStatistics:
    record, source = (given.record, given.source) if given else (None, None)
    return cider.statistics_from(counted.sentences, counted.grams, record, source=source)


MEASURES: Table[Measure] = Table(
    "caption metric",
    {
        "bleu": Measure(
            columns=tuple(
                Column(name=f"bleu_{order}", shown=f"BLEU-{order}", golden=f"Bleu_{order}")
                for order in (1, 2, 3, 4)
            ),
            statistics=_of_grams(bleu.statistics_from),
            score=bleu.score,
            per_image=bleu.per_image,
        ),
        "rouge_l": Measure(
            columns=(Column(name="rouge_l", shown="ROUGE-L", golden="ROUGE_L"),),
            statistics=lambda block: rouge.statistics_from(block.sentences),
            score=_one(rouge.score),
            per_image=_column(rouge.per_image),
        ),
        "rouge_n": Measure(
            columns=tuple(Column(name=f"rouge_{n}", shown=f"ROUGE-{n}") for n in (1, 2)),
            statistics=_of_grams(rouge_n.statistics_from),
            score=rouge_n.score,
            per_image=rouge_n.per_image,
        ),
        "cider": Measure(
            columns=(
                Column(name="cider", shown="CIDEr", golden="CIDEr"),
                Column(name="cider_d", shown="CIDEr-D", golden="CIDEr_D"),
            ),
            weighed=_cider,
            score=_cider_scores,
            per_image=_cider_rows,
        ),
        "meteor": Measure(
            columns=(Column(name="meteor", shown="METEOR", golden="METEOR", tolerance=1e-6),),
            statistics=with_data.meteor_statistics,
            score=_one(meteor.score),
            per_image=_column(meteor.per_image),
            missing=with_data.meteor_missing,
            prepare=with_data.load,
        ),
        "spice": Measure(
            columns=(Column(name="spice_spacy", shown="SPICE-spacy"),),
            statistics=with_data.spice_statistics,
            score=_one(spice.score),
            per_image=_column(spice.per_image),
            missing=with_data.spice_missing,
            prepare=with_data.load,
            reads_texts=True,
            reported=False,
        ),
        "exact_match": Measure(
            columns=(Column(name="exact_match", shown="exact match"),),
            statistics=_of_words(exact_match.statistics),
            score=_one(exact_match.score),
            per_image=_column(exact_match.per_image),
        ),
    },
)

ALL = "all"


def reported(cache: Path | None) -> tuple[str, ...]:
    """The measures that a model's report has, so far as they can be computed here."""
    return tuple(
        name
        for name, measure in MEASURES.items()
        if measure.reported and measure.missing(cache) is None
    )


def left_out(cache: Path | None) -> dict[str, str]:
    """Shown name of each measure that cannot be computed here -> why."""
    reasons = {title(name): measure.missing(cache) for name, measure in MEASURES.items()}
    return {name: why for name, why in reasons.items() if why is not None}


def title(measure: str) -> str:
    """A measure as papers write it: its columns' names."""
    return "/".join(column.shown for column in MEASURES[measure].columns)


def columns(measures: Iterable[str]) -> list[Column]:
    """The columns of these measures, in their order."""
    return [column for name in measures for column in MEASURES[name].columns]


@dataclass(frozen=True)
class Choice:
    """What was asked for."""

    measures: tuple[str, ...]
    columns: tuple[Column, ...]
    left_out: dict[str, str]
    """With `all`: shown name of a measure that cannot be computed here -> why."""


def choose(asked: str, cache: Path | None = None) -> Choice:
    """What `--metrics` names: `all`, or measures and columns between commas, as `bleu,cider-d`; case is no matter.

    `all` leaves out what cannot be computed here and says why.
    Raises UnknownName with the nearest name, and MetricInputError where a metric that was asked for cannot be computed
    here.
    """
    if asked.strip().lower() == ALL:
        reasons = left_out(cache)
        ready = tuple(name for name in MEASURES if title(name) not in reasons)
        return Choice(ready, tuple(columns(ready)), reasons)
    named = [_found(name) for name in asked.split(",") if name.strip()]
    if not named:
        raise MetricInputError(f"No metric was named. What works: {ALL}, or {_known()}.")
    wanted = {column.name for _, some in named for column in some}
    measures = tuple(name for name in MEASURES if name in {each for each, _ in named})
    for name in measures:
        if why := MEASURES[name].missing(cache):
            raise MetricInputError(f"{title(name)} cannot be computed here: {why}")
    chosen = tuple(column for column in columns(measures) if column.name in wanted)
    return Choice(measures, chosen, {})


def _found(asked: str) -> tuple[str, tuple[Column, ...]]:
    plain = asked.strip().lower().replace("-", "_")
    if plain == ALL:
        raise MetricInputError(f'"{ALL}" names every metric; give it alone, without others.')
    if plain in MEASURES:
        return plain, MEASURES[plain].columns
    for name, measure in MEASURES.items():
        for column in measure.columns:
            if plain == column.name:
                return name, (column,)
    known = [*MEASURES, *(column.name for column in columns(MEASURES))]
    raise UnknownName(
        f'No caption metric "{asked.strip()}".{nearest(plain, known)} Known: {ALL}, {_known()}.'
    )


def _known() -> str:
    return ", ".join(dict.fromkeys([*MEASURES, *(each.name for each in columns(MEASURES))]))
