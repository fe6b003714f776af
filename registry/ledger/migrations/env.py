"""How Alembic reaches the ledger: the address comes from the caller, or from DIPTYCH_LEDGER_URL."""

from __future__ import annotations

import os

from alembic import context

from registry.ledger.engine import make_engine
from registry.ledger.tables import metadata


def run() -> None:
    """Bring the schema up in one transaction, so that a killed migration leaves nothing behind."""
    url = context.config.attributes.get("url") or os.environ.get("DIPTYCH_LEDGER_URL")
    if not url:
        raise RuntimeError(
            "No ledger address: set DIPTYCH_LEDGER_URL, for example sqlite:///.diptych/ledger.db."
        )
    engine = make_engine(url)
    with engine.execution_options(writes=True).connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            render_as_batch=True,
            compare_type=True,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
