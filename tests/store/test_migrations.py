"""The store's own migrations: they give what the tables say, run once, and refuse what they do not know."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, text

from segue.errors import ConfigurationError, ExitCode, PrivilegeMissing
from segue.settings import Settings
from segue.store import Store, migrations, open_store
from segue.store.tables import SCHEMA, Row


def engine(url: str) -> Engine:
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))


def test_the_tables_and_the_migrated_schema_are_the_same(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options: dict[str, Any] = {
        "include_schemas": True,
        "include_name": lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
        "compare_type": True,
        "compare_server_default": True,
        "version_table_schema": SCHEMA,
    }
    own = engine(store.url)
    with own.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Row.metadata) == []
    own.dispose()


def test_tables_made_from_the_classes_equal_the_migrated_ones(store: Store, new_database: Callable[[], str]) -> None:
    """Alembic compares no CHECK constraints and no names of primary keys; the catalog has them all."""
    other = new_database()
    own = engine(other)
    with own.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        Row.metadata.create_all(connection)
    own.dispose()
    assert description(store.url) == description(other)


def description(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        connection.execute("SET search_path = pg_catalog")
        return connection.execute(
            """
            SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'segue_store'::regnamespace AND conrelid::regclass::text NOT LIKE '%alembic%'
                AND contype <> 'n'
            UNION ALL
            SELECT tablename, indexname, indexdef FROM pg_indexes
            WHERE schemaname = 'segue_store' AND tablename NOT LIKE 'alembic%'
            UNION ALL
            SELECT attrelid::regclass::text, attname, concat_ws(' ', attnum, format_type(atttypid, atttypmod),
                attnotnull, attidentity, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum))
            FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
            LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
            WHERE relnamespace = 'segue_store'::regnamespace AND relkind = 'r' AND attnum > 0
                AND relname NOT LIKE 'alembic%'
            ORDER BY 1, 2, 3
            """
        ).fetchall()


def test_head_is_the_newest_migration() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(migrations.FOLDER))
    assert script.get_heads() == [migrations.HEAD]
    files = {path.name.split("_")[0] for path in migrations.FOLDER.glob("versions/[0-9]*.py")}
    assert {each.revision for each in script.walk_revisions()} == files


def test_several_first_users_at_once(settings: Settings) -> None:
    def use(_: int) -> str:
        with open_store(settings) as store:
            return store.head()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(use, range(6))) == {migrations.HEAD}


def test_a_newer_store_is_refused(store: Store, settings: Settings) -> None:
    with psycopg.connect(store.url) as connection:
        connection.execute("UPDATE segue_store.alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match='schema "9999", which is newer') as refused, open_store(settings):
        pass
    assert refused.value.exit_code == ExitCode.CONFIGURATION
    assert "upgrade Segue" in refused.value.hint


def test_a_migration_that_fails_leaves_nothing(store_url: str, settings: Settings) -> None:
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA segue_store")
        connection.execute("CREATE TABLE segue_store.workers ()")
        with pytest.raises(Exception, match="workers"), open_store(settings):
            pass
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'segue_store'").fetchall()
    assert found == [("workers",)]


def test_a_role_that_may_not_create_the_schema_is_told(store_url: str, tmp_path: Path) -> None:
    with psycopg.connect(store_url, autocommit=True) as connection:
        name = connection.info.dbname.replace("test", "guest")
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'geheim'")
        try:
            url = urlsplit(store_url)
            guest = url._replace(netloc=f"{name}:geheim@{url.netloc.split('@')[1]}").geturl()
            settings = Settings(home=tmp_path, store=guest, key=None, user="ada")
            with pytest.raises(PrivilegeMissing, match="permission denied") as refused, open_store(settings):
                pass
        finally:
            connection.execute(f"DROP ROLE {name}")
    assert "geheim" not in str(refused.value.as_json())


def test_an_up_to_date_store_opens_without_alembic(store: Store, tmp_path: Path) -> None:
    script = (
        "import sys; from segue import settings; from segue.store import open_store\n"
        "with open_store(settings.load()) as store: store.head()\n"
        "sys.exit('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"SEGUE_STORE": store.url, "SEGUE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
