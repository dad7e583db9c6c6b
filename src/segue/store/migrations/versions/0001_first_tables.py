"""The first tables, as the SQL file beside this one says."""

from pathlib import Path
from typing import Any

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables, functions and triggers."""
    # SQLAlchemy would take the % of a message for a parameter; the driver, given no parameters, does not.
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
