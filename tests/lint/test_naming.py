"""Unnamed constraints are called as the server calls them."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from segue.databases.postgresql.changes import read
from segue.model.changes import AddConstraint

LONG = "a_table_with_a_name_that_is_nearly_as_long_as_names_may_be"


@pytest.mark.parametrize("table", ["t", '"T.x"', LONG])
@pytest.mark.parametrize(
    "words",
    [
        "CHECK (a > 0)",
        "CHECK (a > b)",
        "CHECK (true)",
        "CHECK (t.a > 0 AND a < 9)",
        "UNIQUE (a, b)",
        "PRIMARY KEY (a)",
        "FOREIGN KEY (a, b) REFERENCES other",
        'UNIQUE ("Größe")',
        "EXCLUDE USING btree (a WITH =, (b + 1) WITH =)",
    ],
)
def test_name_is_the_one_that_the_server_gives(database: str, table: str, words: str) -> None:
    words = words.replace("t.a", f"{table}.a")
    (change,) = read(f"ALTER TABLE {table} ADD {words}")[0].changes
    assert isinstance(change, AddConstraint)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE other (a int, b int, PRIMARY KEY (a, b))")
        connection.execute(sql.SQL(f'CREATE TABLE {table} (a int, b int, "Größe" int)'))  # type: ignore[arg-type]
        connection.execute(sql.SQL(f"ALTER TABLE {table} ADD {words}"))  # type: ignore[arg-type]
        given = connection.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype <> 'n'", (table,)
        ).fetchall()
    assert given == [(change.constraint.default_name,)]
