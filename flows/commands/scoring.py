"""The commands about numbers themselves. Like all of `cli.py`: each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Debug

scoring = typer.Typer()
metrics = typer.Typer(no_args_is_help=True, help="How near our metrics are to the references.")
scoring.add_typer(metrics, name="metrics")


@scoring.command()
def score(
    candidates: Annotated[
        Path, typer.Option(help="One caption an image: COCO results, JSON lines or CSV.")
    ],
    references: Annotated[
        Path, typer.Option(help="Captions by people: COCO annotations, JSON lines or CSV.")
    ],
    metrics: Annotated[
        str, typer.Option(help="all, or names between commas, as bleu,rouge-l,cider-d.")
    ] = "all",
    per_image: Annotated[
        bool, typer.Option("--per-image", help="Print each image's numbers too.")
    ] = False,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write everything to this file.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="More for millions of captions; the numbers are the same.")
    ] = 1,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Score the images that have both sides, if not all."),
    ] = False,
    frequencies: Annotated[
        Path | None,
        typer.Option(help="Document frequencies for CIDEr; of these references if left out."),
    ] = None,
    save_frequencies: Annotated[
        Path | None,
        typer.Option(help="Write these references' document frequencies, for --frequencies."),
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Bootstrap draws behind the 95 % intervals; 0 for none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="What the draws follow from.")] = 0,
    debug: Debug = False,
) -> None:
    """Score captions by every caption metric, with 95 % intervals. Exit code 2 on bad input."""
    from flows.terminal import command

    with command(debug) as settings:
        from flows.scoring.files import Request, score_files

        score_files(
            settings,
            Request(
                candidates=candidates,
                references=references,
                metrics=metrics,
                processes=processes,
                allow_missing=allow_missing,
                frequencies=frequencies,
                save_frequencies=save_frequencies,
                resamples=resamples,
                seed=seed,
            ),
            per_image=per_image,
            json_out=json_out,
        )


@metrics.command()
def certify(
    golden: Annotated[
        Path | None, typer.Option(help="Folder of the golden corpus; the checkout's if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    debug: Debug = False,
) -> None:
    """Hold every metric against the reference programmes' numbers. Exit code 1 if one differs."""
    from flows.terminal import command

    with command(debug) as settings:
        import json

        from components.metrics.certificate import to_dict
        from flows.runs import certifying

        certificate, path = certifying.make(settings, certifying.tables(settings), golden)
        if as_json:
            print(json.dumps(to_dict(certificate), indent=1, sort_keys=True))
        else:
            certifying.show(certificate, path)
    raise typer.Exit(0 if certificate.passed else 1)
