"""Tables that inherit from one another are changed together, each row staying in its own table."""

from __future__ import annotations

import psycopg
import pytest
from fix_shops import Shops
from fix_targets import rows, run_sql, traffic, value

from segue.errors import StepFailed

FAMILY = (
    "CREATE TABLE par (id serial PRIMARY KEY, x text DEFAULT 'p', n int NOT NULL, CHECK (n > -5))",
    "CREATE TABLE one (y int UNIQUE, PRIMARY KEY (id)) INHERITS (par)",
    "CREATE TABLE two (z text, x text DEFAULT 'two', PRIMARY KEY (id)) INHERITS (par)",
    # In two branches at once.
    "CREATE TABLE both_ (own int, x text DEFAULT 'b', PRIMARY KEY (id)) INHERITS (one, two)",
    "CREATE TABLE refers (id int PRIMARY KEY, o int REFERENCES one)",
    "CREATE VIEW all_ AS SELECT tableoid::regclass::text AS at, id, n FROM par",
    "CREATE PUBLICATION parts FOR TABLE ONLY par, ONLY two",
    # The same key in each table.
    "INSERT INTO par (id, n) SELECT g, g FROM generate_series(1, 200) AS g",
    "INSERT INTO one (id, n, y) SELECT g, g, g FROM generate_series(1, 200) AS g",
    "INSERT INTO two (id, n, z) SELECT g, g, 'z' FROM generate_series(1, 200) AS g",
    "INSERT INTO both_ (id, n, z, own) SELECT g, g, 'b', 7 FROM generate_series(1, 200) AS g",
    "SELECT setval('par_id_seq', 2000)",
    "INSERT INTO refers SELECT g, g FROM generate_series(1, 200) AS g",
)
PLAN = """
plan: family
version: 1.0.0
description: Widen what others inherit
steps:
  - name: widen
    kind: online-change
    strategy: shadow-table
    table: par
    alter: ["ALTER n TYPE bigint, ADD more int NOT NULL DEFAULT 3"]
    chunk: {max: 30}
"""
SEEN = "SELECT tableoid::regclass::text, id, x, n FROM par ORDER BY 1, 2"
TYPES = """
    SELECT attrelid::regclass::text, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attname = 'n' AND attrelid IN ('par'::regclass, 'one'::regclass, 'two'::regclass, 'both_'::regclass)
    ORDER BY 1
"""
FACTS = """
    SELECT (SELECT array_agg(i.inhrelid::regclass || ' ' || i.inhparent::regclass
                ORDER BY i.inhseqno, i.inhrelid::regclass::text)
            FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relkind = 'r'),
        (SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_publication_tables),
        (SELECT array_agg(conrelid::regclass || ' ' || conname ORDER BY conrelid::regclass::text, conname)
            FROM pg_constraint WHERE convalidated AND contype <> 'n' AND connamespace = 'public'::regnamespace)
"""
LEFT = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'segue\\_%'"
WRITES = (
    "UPDATE par SET n = n + 1 WHERE id = %s",
    "UPDATE ONLY par SET x = 'only' WHERE id = %s",
    "DELETE FROM two WHERE id = %s AND n % 3 = 0",
    "INSERT INTO both_ (n) VALUES (%s)",
    "UPDATE one SET id = 1000 + id WHERE id = %s AND id > 150 AND NOT EXISTS (SELECT FROM refers WHERE o = one.id)",
)


def write(connection: psycopg.Connection, number: int) -> None:
    words = WRITES[number % len(WRITES)]
    connection.execute(words.replace(" % 3", " %% 3").encode(), [1 + number * 7 % 200])


def test_a_family_is_changed_together_and_back(any_database: str, shops: Shops) -> None:
    run_sql(any_database, *FAMILY)
    before, types = rows(any_database, FACTS), rows(any_database, TYPES)
    shops.open("shop", any_database)
    plan = shops.add(PLAN)
    with traffic() as writers:
        for _ in range(3):
            writers.add(any_database, write)
        shops.run(plan)
    assert writers.errors == []
    assert rows(any_database, TYPES) == [(table, "bigint") for table, _ in types]
    assert value(any_database, "SELECT count(*) FROM pg_publication_tables") == 2
    assert value(any_database, "SELECT count(*) FROM all_") == value(any_database, "SELECT count(*) FROM par")
    run_sql(any_database, "UPDATE par SET n = n + 1", "INSERT INTO one (n, y) VALUES (3, 777)", "TRUNCATE ONLY two")
    written = rows(any_database, SEEN)
    shops.rollback()
    assert rows(any_database, SEEN) == written
    assert (rows(any_database, FACTS), rows(any_database, TYPES)) == (before, types)
    assert value(any_database, LEFT) == 0
    assert not [line for line in shops.noted() if "not as before" in line]


def test_a_table_that_inherits_without_a_key_is_named(database: str, shops: Shops) -> None:
    run_sql(database, *FAMILY, "CREATE TABLE keyless () INHERITS (both_)")
    shops.open("shop", database)
    with pytest.raises(StepFailed) as refused:
        shops.run(shops.add(PLAN))
    (line,) = refused.value.details
    assert "public.keyless has no primary key" in line
