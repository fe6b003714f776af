"""How a row enters the ledger: once. The same fact again gives the row that is there; another fact is a conflict."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, Table, insert, select
from sqlalchemy.exc import IntegrityError


class LedgerConflict(RuntimeError):
    """The ledger already holds something else under this key; the message says what."""


def add_once(
    engine: Engine,
    table: Table,
    key: Collection[str],
    values: Mapping[str, Any],
    *,
    witnesses: Collection[str] = (),
) -> RowMapping:
    """Add a row, or give back the row with the same `key` columns if it says the same.

    witnesses: columns that say who delivered the fact and not what it is; they may differ in a second delivery.
    Raises LedgerConflict naming the columns that differ, or the row that took a unique place.
    """
    named = {column: values[column] for column in key}
    with engine.connect() as connection:
        found = connection.execute(select(table).filter_by(**named)).mappings().first()
    if found is not None:
        return _same(table, named, values, found, witnesses)
    try:
        with engine.execution_options(writes=True).begin() as connection:
            row = {**values, "recorded_at": datetime.now(UTC)}
            new = connection.execute(insert(table).values(row).returning(table)).mappings().one()
    except IntegrityError as refusal:
        return _after_refusal(engine, table, named, values, witnesses, refusal)
    return new


def _after_refusal(
    engine: Engine,
    table: Table,
    named: Mapping[str, Any],
    values: Mapping[str, Any],
    witnesses: Collection[str],
    refusal: IntegrityError,
) -> RowMapping:
    # Another process wrote between our look and our insert: the same fact is welcome, anything else is not.
    with engine.connect() as connection:
        found = connection.execute(select(table).filter_by(**named)).mappings().first()
    if found is None:
        raise LedgerConflict(
            f"The ledger refuses {table.name} {_words(named)}: {refusal.orig}. Look at `diptych ledger`."
        ) from refusal
    return _same(table, named, values, found, witnesses)


def _same(
    table: Table,
    named: Mapping[str, Any],
    values: Mapping[str, Any],
    found: RowMapping,
    witnesses: Collection[str],
) -> RowMapping:
    different = [
        column
        for column, value in values.items()
        if column not in witnesses and _plain(found[column]) != _plain(value)
    ]
    if different:
        was = _words({column: found[column] for column in different})
        now = _words({column: values[column] for column in different})
        raise LedgerConflict(
            f"The ledger already holds {table.name} {_words(named)} with {was}; it was told {now}. "
            "A fact is recorded once: a different one needs a new key."
        )
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{column}={str(value)[:80]}" for column, value in values.items())
