"""What a shape may say: several sources, some of the rows, partitions, emptied tables, values that move."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from fix_targets import rows, run_sql, value
from fix_unlike import PATIENCE, Reshaped

from segue.errors import Blocked, StepFailed
from segue.planning.shapefile import InvalidShape

Make = Callable[..., Reshaped]

MERGED = """
tables:
  parties:
    - {from: people, columns: {kind: "'person'", label: s.name}}
    - {from: firms, columns: {kind: "'firm'", label: s.title}}
"""


def merged(reshape: Make) -> Reshaped:
    return reshape(
        "CREATE TABLE people (id int PRIMARY KEY, name text); CREATE TABLE firms (id int PRIMARY KEY, title text);"
        "INSERT INTO people SELECT g, 'p' || g FROM generate_series(1, 20) g;"
        "INSERT INTO firms SELECT g, 'f' || g FROM generate_series(1, 10) g",
        "CREATE TABLE parties (kind text, id bigint, label text, PRIMARY KEY (kind, id))",
        MERGED,
    )


def parties(move: Reshaped) -> list[tuple[object, ...]]:
    found = rows(move.source, "SELECT 'person', id, name FROM people UNION ALL SELECT 'firm', id, title FROM firms")
    there = rows(move.target, "SELECT kind, id, label FROM parties ORDER BY 1, 2")
    assert sorted(found) == there
    return there


def test_several_tables_become_one_and_each_row_finds_back(reshape: Make) -> None:
    move = merged(reshape)
    assert move.start() == {"public.parties": 30}
    run_sql(move.source, "UPDATE firms SET title = 'big' WHERE id = 3", "DELETE FROM people WHERE id = 3")
    move.level()
    assert ("firm", 3, "big") in parties(move)
    run_sql(move.source, "TRUNCATE firms", "INSERT INTO firms VALUES (77, 'new')")
    move.level()
    assert len(parties(move)) == 20
    move.turn("target")
    run_sql(move.target, "UPDATE parties SET kind = 'firm' WHERE id = 5", "DELETE FROM parties WHERE id = 77")
    move.level()
    assert ("firm", 5, "p5") in parties(move)
    run_sql(move.target, "INSERT INTO parties VALUES ('ghost', 1, 'of no source')")
    with pytest.raises(Blocked, match="have no place on the other side"):
        move.turn("source")
    run_sql(move.target, "TRUNCATE parties", "INSERT INTO parties VALUES ('person', 1, 'alone')")
    move.turn("source")
    assert parties(move) == [("person", 1, "alone")]


def test_several_sources_without_their_own_constant_are_refused(reshape: Make) -> None:
    with pytest.raises(InvalidShape, match="another constant"):
        reshape(
            "CREATE TABLE x (id int PRIMARY KEY); CREATE TABLE y (id int PRIMARY KEY)",
            "CREATE TABLE z (id bigint PRIMARY KEY)",
            "tables: {z: [{from: x}, {from: y}]}",
        ).start()


TENANTS = (
    "CREATE TABLE docs (id serial PRIMARY KEY, tenant int NOT NULL, body text);"
    "INSERT INTO docs (tenant, body) SELECT g % 4, 'd' || g FROM generate_series(1, 40) g",
    "CREATE TABLE papers (id serial PRIMARY KEY, body text)",
    "tables:\n  papers:\n    from: docs\n    where: s.tenant = 1\n    drop: [tenant]\n    reverse: {tenant: 1}\n",
)


def test_one_tenant_moves_while_the_others_stay(reshape: Make) -> None:
    move = reshape(*TENANTS)
    assert move.start() == {"public.papers": 10}
    run_sql(move.source, "UPDATE docs SET tenant = 1 WHERE id = 2", "UPDATE docs SET tenant = 3 WHERE id = 5")
    move.level()
    assert value(move.target, "SELECT array_agg(id ORDER BY id) FROM papers")[:3] == [1, 2, 9]
    move.turn("target", margin=50)
    run_sql(move.source, "INSERT INTO docs (tenant) VALUES (2)", "DELETE FROM docs WHERE id = 4")
    for query in ("INSERT INTO docs (tenant) VALUES (1)", "UPDATE docs SET tenant = 1", "DELETE FROM docs"):
        with pytest.raises(psycopg.errors.SerializationFailure):
            run_sql(move.source, query)
    new = value(move.target, "INSERT INTO papers (body) VALUES ('new') RETURNING id")
    run_sql(move.target, "DELETE FROM papers WHERE id = 1")
    move.turn("source")
    assert rows(move.source, "SELECT tenant, body FROM docs WHERE id IN (1, %s)", new) == [(1, "new")]
    assert value(move.source, "SELECT count(*) FROM docs WHERE tenant <> 1") == 30
    assert value(move.source, "INSERT INTO docs (tenant) VALUES (2) RETURNING id") > new
    move.mover.cancel(PATIENCE, move.notes.append)
    assert move.remains() == []


def test_a_row_that_takes_another_tenants_key_never_overwrites_it(reshape: Make) -> None:
    move = reshape(*TENANTS)
    move.start()
    move.turn("target")
    run_sql(move.target, "INSERT INTO papers VALUES (2, 'mine')")
    with pytest.raises(StepFailed):
        move.level()
    assert rows(move.source, "SELECT tenant, body FROM docs WHERE id = 2") == [(2, "d2")]


def test_partitions_and_emptied_partitions_arrive(reshape: Make) -> None:
    move = reshape(
        "CREATE TABLE m (day int, id int, v text, PRIMARY KEY (day, id)) PARTITION BY LIST (day);"
        "CREATE TABLE m1 PARTITION OF m FOR VALUES IN (1); CREATE TABLE m2 PARTITION OF m FOR VALUES IN (2);"
        "INSERT INTO m SELECT 1 + g % 2, g, 'v' || g FROM generate_series(1, 40) g",
        "CREATE TABLE n (id bigint, day int, v text, PRIMARY KEY (id, day))",
        "tables: {n: {from: m}}",
    )
    assert move.start() == {"public.n": 40}
    run_sql(move.source, "UPDATE m SET day = 3 - day WHERE id < 5", "INSERT INTO m1 VALUES (1, 99, 'leaf')")
    run_sql(move.source, "TRUNCATE m2", "INSERT INTO m VALUES (2, 100, 'after')")
    move.level()
    query = "SELECT day, id::int, v FROM {} ORDER BY 2, 1"
    assert rows(move.source, query.format("m")) == rows(move.target, query.format("n"))
    move.turn("target")
    run_sql(move.target, "UPDATE n SET day = 3 - day", "INSERT INTO n VALUES (7, 1, 'x'), (7, 2, 'y')")
    move.turn("source")
    assert rows(move.source, query.format("m")) == rows(move.target, query.format("n"))


def test_columns_that_are_not_carried_back_keep_what_they_have(reshape: Make) -> None:
    move = reshape(
        "CREATE TABLE a (id int PRIMARY KEY, x text, secret text DEFAULT 'none');INSERT INTO a VALUES (1, 'x', 'kept')",
        "CREATE TABLE b (id int PRIMARY KEY, x text, made timestamptz DEFAULT '2001-01-01')",
        "tables: {b: {from: a, drop: [secret]}}",
    )
    assert any("secret" in warning for warning in move.mover.check())
    move.start()
    run_sql(move.target, "SELECT 1")
    move.turn("target")
    run_sql(move.target, "UPDATE b SET x = 'y', made = '2002-01-01'", "INSERT INTO b VALUES (2, 'z')")
    move.turn("source")
    assert rows(move.source, "SELECT * FROM a ORDER BY id") == [(1, "y", "kept"), (2, "z", "none")]
    run_sql(move.source, "UPDATE a SET x = 'w' WHERE id = 1")
    move.level()
    assert value(move.target, "SELECT made::date::text FROM b WHERE id = 1 AND x = 'w'") == "2002-01-01"


def test_a_secondary_row_that_goes_away_takes_its_values_along(reshape: Make) -> None:
    move = reshape()
    move.start()
    move.turn("target")
    run_sql(move.target, "DELETE FROM profiles WHERE id = '3'", "TRUNCATE memos")
    move.level()
    assert rows(move.source, "SELECT first, bio, legacy_flag FROM users WHERE id = 3") == [("f3", None, False)]
    assert value(move.source, "SELECT array_agg(DISTINCT tenant) FROM notes") == [3]


def test_a_backlog_larger_than_a_turn_and_values_that_move_in_it(reshape: Make) -> None:
    move = reshape(
        "CREATE TABLE a (id int PRIMARY KEY, u int UNIQUE DEFERRABLE);"
        "INSERT INTO a SELECT g, g FROM generate_series(1, 12000) g",
        "CREATE TABLE b (id bigint PRIMARY KEY, u int UNIQUE)",
        "tables: {b: {from: a}}",
    )
    move.start()
    run_sql(move.source, "UPDATE a SET u = 12001 - u", "DELETE FROM a WHERE id > 11900")
    assert move.level() == 12100
    assert rows(move.source, "SELECT id, u FROM a ORDER BY 1") == rows(move.target, "SELECT id, u FROM b ORDER BY 1")
