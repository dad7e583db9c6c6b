"""Whoever subscribes to a table gets every row of it once, whatever way it is published, through a change and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import rows, run_sql, traffic, until, value

from segue.errors import StepFailed

TABLE = (
    "CREATE SCHEMA shop",
    "CREATE TABLE shop.t (id int PRIMARY KEY, n int, secret text DEFAULT 's')",
    "INSERT INTO shop.t SELECT g, g FROM generate_series(1, 200) AS g",
)
PLAN = """
plan: publish
version: 1.0.0
description: Change what is published
steps:
  - {name: widen, kind: online-change, strategy: shadow-table, table: shop.t, alter: [ALTER n TYPE bigint]}
"""
PUBLISHED = {
    "by name": ("FOR TABLE shop.t (id, n) WHERE (id < 1000)", "id < 1000"),
    "by schema": ("FOR TABLES IN SCHEMA shop", "true"),
}
DEFINED = "SELECT pubname, schemaname, tablename, attnames, rowfilter FROM pg_publication_tables"


@contextmanager
def subscribed(url: str, other: str, words: str) -> Iterator[None]:
    """Have another database of the same server subscribe to a publication."""
    run_sql(
        url, f"CREATE PUBLICATION some_rows {words}", "SELECT pg_create_logical_replication_slot('seen', 'pgoutput')"
    )
    run_sql(other, "CREATE SCHEMA shop", "CREATE TABLE shop.t (id int PRIMARY KEY, n bigint)")
    if "TABLE shop.t" not in words:
        run_sql(other, "ALTER TABLE shop.t ADD secret text")
    source = psycopg.conninfo.make_conninfo(url)
    run_sql(
        other,
        f"CREATE SUBSCRIPTION seeing CONNECTION '{source}' PUBLICATION some_rows "
        "WITH (create_slot = false, slot_name = 'seen', copy_data = true)",
    )
    until(lambda: value(other, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"))
    try:
        yield
    finally:
        run_sql(other, "ALTER SUBSCRIPTION seeing DISABLE", "ALTER SUBSCRIPTION seeing SET (slot_name = NONE)",
                "DROP SUBSCRIPTION seeing")  # fmt: skip
        until(lambda: not value(url, "SELECT bool_or(active) FROM pg_replication_slots WHERE slot_name = 'seen'"))
        run_sql(url, "SELECT pg_drop_replication_slot('seen')")


def write(connection: psycopg.Connection, number: int) -> None:
    connection.execute("UPDATE shop.t SET n = n + 1 WHERE id = %s", [1 + number % 150])
    connection.execute("INSERT INTO shop.t VALUES (%s, 7) ON CONFLICT DO NOTHING", [500 + number % 1000])
    connection.execute("DELETE FROM shop.t WHERE id = %s", [160 + number % 40])


@pytest.mark.parametrize("how", PUBLISHED)
def test_subscribers_get_every_row_once(any_logical: Server, shops: Shops, how: str) -> None:
    words, which = PUBLISHED[how]
    url, other = any_logical.database(), any_logical.database()
    run_sql(url, *TABLE)
    shops.open("shop", url)
    plan = shops.add(PLAN)
    with subscribed(url, other, words):
        defined = rows(url, DEFINED)
        with traffic() as writers:
            writers.add(url, write)
            shops.run(plan)
        assert writers.errors == []
        assert rows(url, DEFINED) == defined
        run_sql(url, "UPDATE shop.t SET n = -1 WHERE id = 3", "INSERT INTO shop.t VALUES (-1, 1), (50000, 2)")
        same(url, other, which)
        shops.rollback()
        assert rows(url, DEFINED) == defined
        run_sql(url, "DELETE FROM shop.t WHERE id = 4", "INSERT INTO shop.t VALUES (-2, 1), (50001, 2)")
        same(url, other, which)


def same(url: str, other: str, which: str) -> None:
    wanted = rows(url, f"SELECT id, n FROM shop.t WHERE {which} ORDER BY id")
    until(lambda: rows(other, "SELECT id, n FROM shop.t ORDER BY id") == wanted)


def test_a_publication_of_all_tables_that_is_subscribed_to_is_refused(logical_server: Server, shops: Shops) -> None:
    url, other = logical_server.database(), logical_server.database()
    run_sql(url, *TABLE)
    shops.open("shop", url)
    with subscribed(url, other, "FOR ALL TABLES"), pytest.raises(StepFailed) as refused:
        shops.run(shops.add(PLAN))
    (line,) = refused.value.details
    assert 'publication "some_rows" is FOR ALL TABLES, so that the subscriber at slot "seen"' in line


def test_a_publication_of_all_tables_without_subscribers_is_in_nobodys_way(any_database: str, shops: Shops) -> None:
    run_sql(
        any_database,
        *TABLE,
        "CREATE PUBLICATION everything FOR ALL TABLES",
        "ALTER TABLE shop.t ADD u int NOT NULL UNIQUE GENERATED ALWAYS AS IDENTITY",
    )
    shops.open("shop", any_database)
    plan = PLAN.replace("ALTER n TYPE bigint", "'DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (u)'")
    with traffic() as writers:
        writers.add(any_database, write)
        shops.run(shops.add(plan))
    assert writers.errors == []
    run_sql(any_database, "DELETE FROM shop.t WHERE id < 10")
    shops.rollback()
    assert value(any_database, "SELECT count(*) FROM shop.t WHERE id < 10") == 0
