"""`diptych score`: two files of captions in, every caption metric out, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.atomic import write_bytes, write_json
from components.data.caption_files import read_candidates, read_references
from components.data.caption_pairs import Pairs, pair
from components.metrics import bootstrap, scoring
from components.metrics.frequencies import DocumentFrequencies, document_frequencies
from components.metrics.material import Texts
from components.metrics.metric import MetricInputError
from components.metrics.processes import in_processes
from components.metrics.scorecard import Choice, choose
from components.metrics.scoring import Scores
from components.metrics.tokenise import tokenise
from flows.output_files import refuse_unwritable
from flows.runs.certifying import certificate_here, compiled_tables, tables, tell_of_compiling
from flows.scoring.scored import Request, Scored
from flows.scoring.shown import show, show_images, to_dict
from flows.using.shown import progress
from infra.settings import Settings


def score_files(
    settings: Settings, request: Request, *, per_image: bool, json_out: Path | None
) -> None:
    """Score, write JSON if asked, print. Raises what a bad file or an unknown metric raises, and OutputRefused."""
    read = [request.candidates, request.references]
    if request.frequencies is not None:
        read.append(request.frequencies)
    written = {"--json": json_out, "--save-frequencies": request.save_frequencies}
    refuse_unwritable(written, read)
    scored = score(settings, request)
    if json_out is not None:  # first, as whoever reads the table may stop early
        write_json(json_out, to_dict(scored))
    show(scored)
    if per_image:
        show_images(scored)


def score(settings: Settings, request: Request) -> Scored:
    """Read, compute, draw again. The metrics' names are looked at before any file."""
    choice = choose(request.metrics, tables(settings))
    record = _saved(request.frequencies)
    pairs = pair(
        read_candidates(request.candidates),
        read_references(request.references),
        allow_missing=request.allow_missing,
    )
    if request.save_frequencies is not None:
        write_bytes(request.save_frequencies, _counted(pairs).to_bytes())
    scores = _computed(settings, request, choice, pairs, record)
    intervals = {}
    if request.resamples:
        intervals = bootstrap.intervals(
            scores.corpus, scores.images, resamples=request.resamples, seed=request.seed
        )
    return Scored(
        request=request,
        pairs=pairs,
        choice=choice,
        scores=scores,
        corpus=scores.corpus(),
        intervals=intervals,
        certificate=certificate_here(settings, compiled_tables(settings)),
    )


def _computed(
    settings: Settings,
    request: Request,
    choice: Choice,
    pairs: Pairs,
    record: DocumentFrequencies | None,
) -> Scores:
    tell_of_compiling(settings, choice.measures)
    with (
        _runner(request.processes) as runner,
        progress("scoring", len(pairs.ids), as_json=False) as advance,
    ):
        return scoring.score(
            Texts(pairs.candidates, pairs.references),
            choice.measures,
            frequencies=record,
            cache=tables(settings),
            advance=advance,
            **runner,
        )


@contextmanager
def _runner(processes: int) -> Iterator[dict[str, Any]]:
    if processes == 1:
        yield {}
        return
    with in_processes(processes) as (run, shared):
        yield {"run": run, "shared": shared}


def _saved(path: Path | None) -> DocumentFrequencies | None:
    if path is None:
        return None
    try:
        record = DocumentFrequencies.from_bytes(path.read_bytes())
    except OSError as error:
        raise MetricInputError(f"--frequencies {path} cannot be read: {error.strerror}.") from error
    except MetricInputError as error:
        raise MetricInputError(
            f"--frequencies {path}: {error} `diptych score --save-frequencies` writes such files."
        ) from error
    return record


def _counted(pairs: Pairs) -> DocumentFrequencies:
    return document_frequencies(
        [[tokenise(text) for text in several] for several in pairs.references]
    )
