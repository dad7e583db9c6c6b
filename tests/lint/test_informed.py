"""`segue lint --env`: what a live schema proves is not found, and what is in its tables is said."""

from __future__ import annotations

from datetime import date

import psycopg
import pytest
from fix_process import Segue
from psycopg import sql

from segue.cli._linting import PostgreSQL
from segue.databases.postgresql.live_schema import look
from segue.lint.informed import names
from segue.lint.report import Report
from segue.lint.rule import Wanted
from segue.lint.rules import rules
from segue.lint.running import run
from segue.lint.sources import source
from segue.model.findings import Depth, Severity

WORLD = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id bigint CONSTRAINT of_customer REFERENCES customers, day date NOT NULL,
    amount int CONSTRAINT there CHECK (amount IS NOT NULL), note varchar(20), doubled int GENERATED ALWAYS AS (1) STORED
);
CREATE INDEX orders_by_day ON orders (day);
CREATE TABLE tiny (id bigint, code text);
CREATE TABLE nothing (id bigint, code text);
CREATE TABLE events (id bigint, day date) PARTITION BY RANGE (day);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE SCHEMA app;
CREATE TABLE app."Order" (id int);
INSERT INTO customers SELECT n, 'c' FROM generate_series(1, 20000) AS n;
INSERT INTO orders SELECT n, n, '2026-01-01', n, 'x' FROM generate_series(1, 20000) AS n;
INSERT INTO events VALUES (1, '2026-02-01');
INSERT INTO tiny VALUES (1, 'a'), (2, 'b');
VACUUM ANALYZE;
"""


@pytest.fixture
def world(database: str) -> str:
    """Give a database with tables that are large, tiny and empty."""
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in WORLD.split(";"):
            connection.execute(statement.encode())
    return database


def informed(url: str, text: str) -> Report:
    """Judge a text with what a database has."""
    grammar = PostgreSQL()
    live = look(url, names(grammar.read(text)))
    texts = [source("case.sql", text.encode())]
    known = rules()
    return run(texts, list(known.values()), set(known), grammar, Wanted(live.version, False, live), date(2026, 6, 1))


def found(url: str, text: str) -> set[str]:
    """Return the rules of what is found, beside lock_timeout."""
    return {item.rule for item in informed(url, text).findings} - {"lock-without-timeout"}


def test_what_the_schema_proves_is_not_found(world: str) -> None:
    assert not found(world, "ALTER TABLE orders ALTER COLUMN amount SET NOT NULL")
    assert not found(world, 'ALTER TABLE orders ALTER COLUMN note TYPE varchar(40), ALTER COLUMN "day" SET NOT NULL')


def test_what_hangs_on_a_table_is_found(world: str) -> None:
    assert "drop-constraint" in found(world, "ALTER TABLE orders DROP CONSTRAINT of_customer")
    assert "alter-type-of-key" in found(world, "ALTER TABLE customers ALTER COLUMN id TYPE numeric")
    assert found(world, "CREATE INDEX ON events (id)") == {"create-index-partitioned"}
    (item,) = [each for each in informed(world, "DROP INDEX orders_by_day").findings if each.rule == "drop-index"]
    assert item.tables == ("orders",)


def test_finding_says_how_much_is_in_the_table(world: str) -> None:
    (item,) = informed(world, "CREATE INDEX i ON orders (amount)").findings
    assert item.message.startswith("writes to orders wait until the index is built; orders has about 20,000 rows, 1.")
    assert (item.severity, item.depth) == (Severity.ERROR, Depth.INFORMED)


def test_tiny_table_lowers_and_empty_table_ends_a_finding(world: str) -> None:
    (item,) = informed(world, "CREATE INDEX i ON tiny (code)").findings
    assert (item.severity, "tiny has about 2 rows, 8" in item.message) == (Severity.INFO, True)
    assert not informed(world, "CREATE INDEX i ON nothing (code)").findings


def test_tables_that_are_not_there_are_told(world: str) -> None:
    report = informed(world, "ALTER TABLE lost ADD COLUMN x int;\nCREATE TABLE tiny (id int);\nSELECT 1;")
    assert report.files[0].unanalysed == [(1, 1, "there is no table lost"), (2, 1, "tiny is there already")]


def test_table_that_is_there_is_not_new_for_if_not_exists(world: str) -> None:
    text = "CREATE TABLE IF NOT EXISTS orders (id bigint);\nCREATE INDEX i ON orders (amount);"
    assert "create-index-not-concurrently" in found(world, text)


def test_setting_of_the_role_counts(world: str) -> None:
    with psycopg.connect(world, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET lock_timeout = '2s'").format(name))
    report = informed(world, "ALTER TABLE orders ADD COLUMN x int; CREATE INDEX CONCURRENTLY i ON orders (day);")
    assert [item.rule for item in report.findings] == ["concurrently-lock-timeout"]


def test_names_with_schemas_and_capitals_are_looked_up(world: str) -> None:
    live = look(world, ['app."Order"', "app.missing", "a b", "x.y.z.q"])
    assert live.sizes['app."Order"'].bytes == 0
    assert len(live.sizes) == 1


def test_command_looks_at_an_environment(segue: Segue, world: str) -> None:
    segue("env", "add", "shop", "--type", "test", "--url-stdin", text=world).expect(0)
    said = segue("lint", "--env", "shop", "-", "--json", text="CREATE INDEX i ON orders (amount);").expect(1)
    assert [item["depth"] for item in said.json["findings"]] == ["informed"]
    assert 'no environment "other"' in segue("lint", "--env", "other", "-", text="SELECT 1").expect(2).stderr
