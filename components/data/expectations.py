"""The door to Great Expectations: what must hold of a manifest before anybody trains on it.

Its suites are code, its context lives in memory, and it sees counts and flags only (`facts.py`), never a caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from components import atomic
from components.data.expectations_page import Outcome, render
from components.data.facts import CaptionFacts, ImageFacts, caption_facts, image_facts
from components.data.rules import Limits, Rule, caption_rules, image_rules
from components.data.shards import read_manifest
from components.records import Expectations, Failure, Shards

EXAMPLES = 10
DEFAULT = Limits()


class ExpectationsBroken(RuntimeError):
    """An expectation could not be computed at all; nothing is known of the data."""


def check(shards: Shards, page: Path, limits: Limits = DEFAULT) -> Expectations:
    """Try every expectation on a manifest, and write the page and, beside it, the result as strict JSON.

    Raises `ShardsDamaged`, and `ExpectationsBroken` if one could not be computed; broken data is no exception.
    """
    rows = read_manifest(shards)
    # The columns are named apart from the rows, so that a manifest without images or captions has them too.
    frames = {
        "images": _frame(ImageFacts, image_facts(rows)),
        "captions": _frame(CaptionFacts, caption_facts(rows)),
    }
    suites = {
        "images": _images(shards, limits),
        "captions": [_between(rule) for rule in caption_rules(limits)],
    }
    results = _validate(frames, suites)
    outcomes = [
        _outcome(subject, result, len(frames[subject]))
        for subject, subject_results in results.items()
        for result in subject_results
    ]
    page = Path(page)
    atomic.write_json(
        page.with_suffix(".json"),
        {"shards_digest": shards.digest, "limits": asdict(limits), "results": results},
    )
    atomic.write_text(page, render(shards, outcomes))
    failures = [outcome for outcome in outcomes if outcome.state == "failed"]
    warnings = [outcome for outcome in outcomes if outcome.state == "warning"]
    return Expectations(
        shards_digest=shards.digest,
        passed=not failures,
        checked=len(outcomes),
        failures=tuple(map(_failure, failures)),
        warnings=tuple(map(_failure, warnings)),
        page=page,
    )


def _frame(kind: type[Any], facts: Sequence[Any]) -> Any:
    import pandas as pd

    return pd.DataFrame(list(map(vars, facts)), columns=[field.name for field in fields(kind)])


def _images(shards: Shards, limits: Limits) -> list[Any]:
    gxe = _kinds()
    total, needed = sum(shards.counts.values()), list(limits.needed_splits)
    counted = _named("every_image_listed", f"The manifest lists the {total} images once counted.")
    splits = _named("needed_splits", f"There are images in {' and '.join(needed)}.")
    given = {
        "label": _named("label_given", "An image says what it shows."),
        "license": _named("license_given", "An image names its licence."),
        "pixels_sha256": _named("image_readable", "An image can be decoded."),
    }
    return [
        gxe.ExpectTableRowCountToEqual(value=total, **counted),
        gxe.ExpectColumnDistinctValuesToContainSet(column="split", value_set=needed, **splits),
        gxe.ExpectColumnValuesToBeUnique(
            column="id", **_named("id_unique", "An id names one image.")
        ),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column, **is_) for column, is_ in given.items()),
        *map(_between, image_rules(limits)),
    ]


def _between(rule: Rule) -> Any:
    return _kinds().ExpectColumnValuesToBeBetween(
        column=rule.column,
        min_value=rule.at_least,
        max_value=rule.at_most,
        mostly=1 - rule.share,
        **_named(rule.name, rule.says, warns=rule.warns),
    )


def _named(name: str, says: str, *, warns: bool = False) -> dict[str, Any]:
    severity = "warning" if warns else "critical"
    return {"severity": severity, "meta": {"name": name, "says": says}}


def _kinds() -> Any:
    from great_expectations import expectations

    return expectations


def _validate(
    frames: Mapping[str, Any], suites: Mapping[str, Sequence[Any]]
) -> dict[str, list[dict[str, Any]]]:
    import great_expectations as gx

    context = _context()
    source = context.data_sources.add_pandas("manifest")
    results = {}
    for subject, suite in suites.items():
        batch = source.add_dataframe_asset(subject).add_batch_definition_whole_dataframe(subject)
        definition = gx.ValidationDefinition(
            name=subject,
            data=batch,
            suite=context.suites.add(gx.ExpectationSuite(name=subject, expectations=list(suite))),
        )
        result = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": frames[subject]},
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": ["id"],
                "partial_unexpected_count": EXAMPLES,
            },
        )
        results[subject] = result.to_json_dict()["results"]
    return results


def _context() -> Any:
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )


def _outcome(subject: str, result: Mapping[str, Any], total: int) -> Outcome:
    config, found = result["expectation_config"], result["result"]
    if not found:
        raise ExpectationsBroken(
            f"{config['meta']['name']} could not be computed: {result['exception_info']}"
        )
    # A row count or a set of splits is broken by the manifest, not by some of its rows.
    by_row = "unexpected_count" in found
    places = found.get("partial_unexpected_index_list") or ()
    return Outcome(
        name=config["meta"]["name"],
        says=config["meta"]["says"],
        subject=subject if by_row else "manifest",
        ends_night=config["severity"] == "critical",
        passed=result["success"],
        share=1 - config["kwargs"].get("mostly", 1),
        count=found["unexpected_count"] if by_row else int(not result["success"]),
        total=total if by_row else 1,
        examples=tuple(dict.fromkeys(str(place["id"]) for place in places)),
    )


def _failure(outcome: Outcome) -> Failure:
    return Failure(
        expectation=outcome.name,
        detail=f"{outcome.says} Broken by {outcome.count} of {outcome.total} {outcome.subject}; "
        f"{outcome.share:.1%} may.",
        count=outcome.count,
        examples=outcome.examples,
    )
