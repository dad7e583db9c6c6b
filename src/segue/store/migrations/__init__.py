"""The store's own migrations: they run by themselves when a newer Segue meets an older store.

A new one is a file `versions/NNNN_words.py` whose revision is its number; `HEAD` then names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

#: The newest revision. Kept here so that a store that is up to date costs one query and no import of Alembic.
HEAD = "0003"

FOLDER = Path(__file__).parent

# "Segue" in ASCII: whoever upgrades the store holds this advisory lock.
_LOCK = 0x5365677565


def revision(connection: Connection) -> str | None:
    """Return the store's revision, None when it has none yet."""
    from sqlalchemy import text

    if connection.scalar(text("SELECT to_regclass('segue_store.alembic_version')")) is None:
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM segue_store.alembic_version"))
    return found


def upgrade(engine: Engine) -> bool:
    """Bring the store up to `HEAD` and return whether there was anything to do.

    Safe when several processes begin at once: one upgrades, the others wait for it. Raises ConfigurationError when the
    store was made by a newer Segue, or when a part of it is missing.
    """
    import psycopg
    from sqlalchemy import text

    with engine.connect() as connection:
        if _is_current(revision(connection)):
            return False
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        # Somebody else may have upgraded while this process waited.
        if _is_current(revision(connection)):
            return False
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS segue_store"))
        try:
            _run(connection)
        except psycopg.errors.DuplicateTable as error:
            # Tables are there without the mark that says which: somebody restored or changed a part of them.
            raise ConfigurationError(
                f"the schema segue_store of the store is damaged: {error.diag.message_primary}",
                hint="restore the store from a backup, or point SEGUE_STORE at another database",
            ) from error
    return True


def _is_current(found: str | None) -> bool:
    if found is not None and found not in _known():
        raise ConfigurationError(
            f'the store has schema "{found}", which is newer than this Segue knows ("{HEAD}")',
            hint="upgrade Segue: pip install --upgrade segue",
        )
    return found == HEAD


def _known() -> set[str]:
    return {path.name.split("_")[0] for path in FOLDER.glob("versions/[0-9]*.py")}


def _run(connection: Connection) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(FOLDER))
    with EnvironmentContext(
        Config(), script, fn=lambda here, _context: script._upgrade_revs("head", here), destination_rev="head"
    ) as environment:
        environment.configure(connection=connection, version_table_schema="segue_store")
        environment.run_migrations()
