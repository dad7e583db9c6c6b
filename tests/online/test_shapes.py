"""Changes of a table's whole shape, from the plan to the swap, written to, and taken back."""

from __future__ import annotations

import pytest
from fix_shops import Shops
from fix_targets import rows, run_sql

PLAN = """
plan: reshape
version: 1.0.0
description: Give a table another shape
steps:
  - name: reshape
    kind: online-change
    strategy: shadow-table
"""
#: What is there, the change, what is looked at, and what is written after the swap.
SHAPES = {
    "a key with its graph": (
        [
            "CREATE TABLE orders (id serial PRIMARY KEY, up int REFERENCES orders)",
            "CREATE TABLE items (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, o int NOT NULL REFERENCES orders)",
            "INSERT INTO orders SELECT g, nullif(g - 1, 0) FROM generate_series(1, 300) AS g",
            "INSERT INTO items (o) SELECT g FROM generate_series(1, 300) AS g",
        ],
        "    table: orders\n    alter: [ALTER id TYPE bigint]\n",
        "SELECT (SELECT sum(o) FROM items), (SELECT sum(up) FROM orders)",
        "UPDATE items SET o = 5 WHERE id = 7",
    ),
    "a key that partitions": (
        [
            "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
            "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (200)",
            "CREATE TABLE p2 PARTITION OF p DEFAULT",
            "INSERT INTO p SELECT g, 'v' || g FROM generate_series(1, 300) AS g",
        ],
        "    table: p\n    alter: [ALTER id TYPE bigint]\n",
        "SELECT count(*), sum(id), max(v) FROM p",
        "DELETE FROM p WHERE id IN (7, 250)",
    ),
    "partitions": (
        [
            "CREATE TABLE q (id int PRIMARY KEY, at date NOT NULL, v text UNIQUE)",
            "INSERT INTO q SELECT g, date '2024-01-01' + g, 'v' || g FROM generate_series(1, 500) AS g",
        ],
        "    table: q\n"
        "    alter: ['DROP CONSTRAINT q_pkey, ADD PRIMARY KEY (id, at), DROP CONSTRAINT q_v_key, ADD UNIQUE (v, at)']\n"
        "    partition_by: RANGE (at)\n"
        "    partitions: |\n"
        "      CREATE TABLE q24 PARTITION OF q FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');\n"
        "      CREATE TABLE rest PARTITION OF q DEFAULT;\n",
        "SELECT count(*), sum(id), count(DISTINCT at) FROM q",
        "UPDATE q SET at = at + 366 WHERE id = 7",
    ),
    "another key": (
        [
            "CREATE TABLE k (id int PRIMARY KEY, u uuid NOT NULL DEFAULT gen_random_uuid())",
            "INSERT INTO k SELECT g FROM generate_series(1, 300) AS g",
        ],
        "    table: k\n    alter: ['DROP CONSTRAINT k_pkey, ADD PRIMARY KEY (u)']\n",
        "SELECT count(*), sum(id), count(DISTINCT u) FROM k",
        "UPDATE k SET u = gen_random_uuid(), id = 1000 WHERE id = 7",
    ),
    "another order": (
        [
            "CREATE TABLE o (b text, a int PRIMARY KEY, c text DEFAULT 'c')",
            "INSERT INTO o SELECT 'b' || g, g FROM generate_series(1, 300) AS g",
        ],
        "    table: o\n    columns: [a, c, b]\n",
        "SELECT count(*), sum(a), max(b), max(c) FROM o",
        "INSERT INTO o VALUES (1000, 'cc', 'z')",
    ),
}
LEFT = "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'segue\\_%'"
SHAPE = """
    SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) AND attnum > 0
    ORDER BY attrelid::regclass::text, attnum
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_changes_and_changes_back_with_what_was_written(any_database: str, shops: Shops, shape: str) -> None:
    made, change, query, write = SHAPES[shape]
    run_sql(any_database, *made)
    shops.open("shop", any_database)
    before, looked = rows(any_database, SHAPE), rows(any_database, query)
    shops.run(shops.add(PLAN + change))
    assert rows(any_database, SHAPE) != before
    assert rows(any_database, query) == looked
    run_sql(any_database, write)
    written = rows(any_database, query)
    assert written != looked
    shops.rollback()
    assert (rows(any_database, SHAPE), rows(any_database, query)) == (before, written)
    assert rows(any_database, LEFT) == [(0,)]
