"""What the engine needs to wait, to hand over and to share work, as the SQL file beside this one says."""

from pathlib import Path
from typing import Any

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, the limits, and the word for a step that waits."""
    # SQLAlchemy would take the % of a message for a parameter; the driver, given no parameters, does not.
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
