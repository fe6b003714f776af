"""What a run took, beside the run: none for runs recorded before this was kept.

Revision 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, kind in (
        ("device", sa.String(100)),
        ("device_seconds", sa.Float()),
        ("wasted_seconds", sa.Float()),
        ("samples", sa.BigInteger()),
        ("tokens", sa.BigInteger()),
        ("energy_joules", sa.Float()),
        ("training_attempts", sa.Integer()),
    ):
        op.add_column("run", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    raise RuntimeError("The ledger only grows: restore a copy of the file instead.")
