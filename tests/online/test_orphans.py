"""A row that a foreign key would refuse is found before the swap, whenever it came about."""

from __future__ import annotations

import time

import psycopg
import pytest
from fix_hostile import administrator
from fix_shops import Shops
from fix_targets import Background, rows, run_sql, session, until, value

from segue.errors import StepFailed, WouldLose

TABLES = (
    "CREATE TABLE far (id int PRIMARY KEY)",
    "CREATE TABLE t (id int PRIMARY KEY, f int, up int, c int REFERENCES far)",
    "INSERT INTO far SELECT g FROM generate_series(1, 100) AS g",
    "INSERT INTO t SELECT g, g, nullif(g - 1, 0), g FROM generate_series(1, 99) AS g",
)
PLAN = """
plan: refer
version: 1.0.0
description: Let rows refer to others
steps:
  - name: refer
    kind: online-change
    strategy: shadow-table
    table: t
    alter: ["{}"]
    back: {{c: c}}
"""
KEYS = "SELECT bool_and(convalidated), count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 't'::regclass"
REFUSED = "SELECT rule, key FROM segue.conflict ORDER BY rule, key"
WAITS = """
    SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation = 't'::regclass
    AND EXISTS (SELECT FROM segue.change WHERE phase = 'swapping')
"""


def prepared(url: str, shops: Shops, alter: str, *more: str) -> str:
    run_sql(url, *TABLES, *more)
    shops.open("shop", url)
    return shops.add(PLAN.format(alter))


def begun(url: str) -> None:
    until(lambda: value(url, "SELECT to_regclass('segue.verified') IS NOT NULL"))


def test_what_comes_right_before_the_swap_is_found_under_its_locks(any_database: str, shops: Shops) -> None:
    alter = "ADD CONSTRAINT other FOREIGN KEY (f) REFERENCES far, ADD CONSTRAINT upper FOREIGN KEY (up) REFERENCES t"
    plan = prepared(any_database, shops, alter)
    with session(any_database, "LOCK TABLE t IN ACCESS SHARE MODE") as blocker:
        running = Background(lambda: shops.run(plan))
        begun(any_database)
        until(lambda: rows(any_database, WAITS))
        time.sleep(1)  # beyond the rehearsal, within the swap's own tries
        blocker.execute("INSERT INTO t (id, f) VALUES (200, 200); INSERT INTO t (id, up) VALUES (201, 300)")
        blocker.execute("DELETE FROM t WHERE id = 7; DELETE FROM far WHERE id = 7; COMMIT")
    found = until(lambda: len(now := rows(any_database, REFUSED)) == 3 and now)
    assert found == [("other", ["200"]), ("upper", ["201"]), ("upper", ["8"])]
    # What is missing comes, the row itself is mended, or goes.
    run_sql(
        any_database,
        "INSERT INTO far VALUES (200)",
        "UPDATE t SET up = NULL WHERE id = 8",
        "DELETE FROM t WHERE id = 201",
    )
    running.result()
    assert rows(any_database, KEYS) == [(True, 3)]
    assert value(any_database, "SELECT f FROM t WHERE id = 200") == 200


def test_values_that_a_kept_foreign_key_refuses_are_found(database: str, shops: Shops) -> None:
    plan = prepared(database, shops, "ALTER c TYPE bigint USING c + 2")
    running = Background(lambda: shops.run(plan))
    begun(database)
    assert until(lambda: rows(database, REFUSED)) == [("t_c_fkey", ["99"])]
    run_sql(database, "UPDATE t SET c = 98 WHERE id = 99")
    running.result()
    assert rows(database, KEYS) == [(True, 1)]
    assert value(database, "SELECT c FROM t WHERE id = 99") == 100


def test_rows_that_were_written_past_a_foreign_key_are_found(database: str, shops: Shops) -> None:
    past = "BEGIN; SET LOCAL session_replication_role = replica; INSERT INTO t (id, c) VALUES (500, 500); COMMIT"
    plan = prepared(database, shops, "ALTER id TYPE bigint")
    run_sql(administrator(database), past)
    running = Background(lambda: shops.run(plan))
    begun(database)
    assert until(lambda: rows(database, REFUSED)) == [("t_c_fkey", ["500"])]
    run_sql(database, "INSERT INTO far VALUES (500)")
    running.result()
    assert rows(database, KEYS) == [(True, 1)]


def test_columns_of_another_collation_are_compared_as_the_foreign_key_does(debian_database: str, shops: Shops) -> None:
    more = (
        "CREATE TABLE named (name text PRIMARY KEY)",
        "INSERT INTO named VALUES ('a')",
        "ALTER TABLE t ADD name text",
    )
    alter = 'ALTER name TYPE text COLLATE \\"C\\", ADD FOREIGN KEY (name) REFERENCES named, ALTER id TYPE bigint'
    plan = prepared(debian_database, shops, alter, *more, "UPDATE t SET name = 'a' WHERE id < 50")
    shops.run(plan)
    assert rows(debian_database, KEYS) == [(True, 2)]


def test_rows_that_a_dropped_foreign_key_would_refuse_are_told_on_the_way_back(any_database: str, shops: Shops) -> None:
    plan = prepared(any_database, shops, "DROP CONSTRAINT t_c_fkey, ALTER f TYPE bigint")
    shops.run(plan)
    run_sql(any_database, "INSERT INTO t (id, c) VALUES (300, 300)", "DELETE FROM far WHERE id = 9")
    with pytest.raises(WouldLose) as refused:
        shops.rollback()
    assert len(refused.value.details) == 2
    run_sql(any_database, "INSERT INTO far VALUES (300), (9)")
    shops.rollback()
    assert rows(any_database, KEYS) == [(True, 1)]
    assert value(any_database, "SELECT count(*) FROM t WHERE c IN (300, 9)") == 2
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run_sql(any_database, "INSERT INTO t (id, c) VALUES (301, 301)")


def test_values_that_others_refer_to_are_not_changed_behind_their_back(database: str, shops: Shops) -> None:
    more = ("ALTER TABLE t ADD UNIQUE (f)", "CREATE TABLE near (f int REFERENCES t (f))")
    run_sql(database, *TABLES, *more)
    shops.open("shop", database)
    text = PLAN.format("ALTER f TYPE bigint USING f + 1").replace("back: {c: c}", "keys: false\n    back: {f: f - 1}")
    with pytest.raises(StepFailed, match=r'near"? refers to "f"'):
        shops.run(shops.add(text))


def test_a_table_whose_rows_are_hidden_is_left_to_the_server(ordinary: str, administered: str, shops: Shops) -> None:
    role = psycopg.conninfo.conninfo_to_dict(ordinary)["user"]
    run_sql(
        administered,
        "CREATE SCHEMA theirs",
        "CREATE TABLE theirs.far AS SELECT g AS id FROM generate_series(1, 5) AS g",
        "ALTER TABLE theirs.far ADD PRIMARY KEY (id), ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY seen ON theirs.far USING (id < 3)",
        f"GRANT USAGE ON SCHEMA theirs TO {role}",
        f"GRANT REFERENCES, SELECT, DELETE ON theirs.far TO {role}",
    )
    run_sql(ordinary, "CREATE TABLE t (id int PRIMARY KEY, c int REFERENCES theirs.far)", "INSERT INTO t VALUES (1, 5)")
    shops.open("shop", ordinary)
    shops.run(shops.add(PLAN.format("ALTER id TYPE bigint")))
    assert rows(ordinary, KEYS) == [(True, 1)]
