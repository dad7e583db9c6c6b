"""Rows that a new rule refuses are found, kept and listed, and what is offered for each mends it."""

from __future__ import annotations

import psycopg
import pytest
from fix_online import CHANGE, Assemble, HandMade
from fix_shops import Shops
from fix_targets import Background, rows, run_sql, until, value

from segue.databases.postgresql.online import conflicts, refusing
from segue.databases.postgresql.online.blueprint import Blueprint, Index, Member
from segue.databases.postgresql.online.conflicts import Reference
from segue.errors import StepFailed


def drawn(change: HandMade, *indexes: Index) -> Blueprint:
    """Return the blueprint of a change that is assembled by hand."""
    member = Member(
        number=change.member,
        oid=value(change.url, "SELECT %s::regclass::oid", change.source),
        table=change.flow.source,
        old=change.relations,
        new=change.relations,
        forward=change.flow,
        backward=change.flow,
        indexes=indexes,
    )
    return Blueprint(id=CHANGE, strategy="shadow-table", members=(member,))


def duplicates(change: HandMade, index: Index) -> int:
    return conflicts.duplicates(change.site, CHANGE, drawn(change, index).members[0], index)


PEOPLE = (
    "CREATE TABLE people (id int PRIMARY KEY, name text, team int, boss int)",
    "INSERT INTO people VALUES (1, 'ann', 1), (2, 'Ann', 1), (3, 'ann', 2), (4, NULL, 1), (5, NULL, 1), (6, 'bo', 1), "
    "(7, 'ann', 1), (8, 'bo', 3)",
)


@pytest.fixture
def people(database: str, assemble: Assemble) -> HandMade:
    """Give a settled change of a table with values that stand twice."""
    return settled(database, assemble)


def settled(url: str, assemble: Assemble) -> HandMade:
    run_sql(url, *PEOPLE)
    change = assemble(url, "people", "(id bigint, name text, team int, boss int)")
    change.settle()
    return change


TWICE: list[tuple[str, list[str]]] = [
    ("(name)", ["3", "7", "8"]),
    ("(name, team)", ["7"]),
    ("(lower(name))", ["2", "3", "7", "8"]),
    ("((lower(name) || team))", ["2", "7"]),
    ('(name COLLATE "C" DESC NULLS LAST, (team % 2))', ["7", "8"]),
    ("(name) WHERE team = 1 AND id <> 1", []),
    ("(name) WHERE team = 1", ["7"]),
    ("(name) INCLUDE (team)", ["3", "7", "8"]),
    ("(name) NULLS NOT DISTINCT", ["3", "5", "7", "8"]),
    ("(boss)", []),
]


@pytest.mark.parametrize(("columns", "moved"), TWICE)
def test_rows_that_a_unique_index_would_refuse_are_moved_and_the_first_stays(
    people: HandMade, columns: str, moved: list[str]
) -> None:
    moved_for(people, columns, moved)


def test_the_same_on_an_older_server(debian_database: str, assemble: Assemble) -> None:
    moved_for(settled(debian_database, assemble), *TWICE[4])


def moved_for(change: HandMade, columns: str, moved: list[str]) -> None:
    """Move what a unique index over these columns refuses, and build it."""
    index = Index(name="people_once", sql=f"CREATE UNIQUE INDEX people_once ON {change.into} USING btree {columns}")
    if moved:
        with pytest.raises(psycopg.errors.UniqueViolation):
            run_sql(change.url, index.sql)
    assert duplicates(change, index) == len(moved)
    assert change.conflicts() == [([key], "23505", "people_once") for key in moved]
    run_sql(change.url, index.sql)
    assert duplicates(change, index) == len(moved)
    assert change.drain(compare=True).refused == 0
    assert sorted(row[1] for row in change.differences()) == moved


def test_a_duplicate_is_over_when_the_first_is_mended(people: HandMade) -> None:
    index = Index(name="people_once", sql=f"CREATE UNIQUE INDEX people_once ON {people.into} (name, team)")
    assert duplicates(people, index) == 1
    run_sql(people.url, index.sql, "UPDATE people SET name = 'anna' WHERE id = 1")
    people.drain()
    assert (people.conflicts(), people.differences()) == ([], [])


def test_a_duplicate_that_is_gone_or_changed_meanwhile_is_no_conflict(people: HandMade) -> None:
    index = Index(name="people_once", sql=f"CREATE UNIQUE INDEX people_once ON {people.into} (name)")
    run_sql(people.url, "DELETE FROM people WHERE id = 3", "UPDATE people SET name = 'other' || id WHERE id IN (7, 8)")
    assert duplicates(people, index) == 2
    run_sql(people.url, index.sql)
    people.drain(compare=True)
    assert (people.conflicts(), people.differences()) == ([], [])


BOOKED = (
    "CREATE TABLE booked (id int PRIMARY KEY, room int NOT NULL, at int4range)",
    "INSERT INTO booked SELECT g, g, int4range(g * 10, g * 10 + 10) FROM generate_series(1, 100) AS g",
    # Of three that follow upon each other only the middle one is too much.
    "INSERT INTO booked VALUES (201, 1, '[2000, 2010)'), (202, 1, '[2005, 2020)'), (203, 1, '[2015, 2030)'), "
    "(204, 1, NULL), (205, 1, 'empty')",
)
APART = """
plan: apart
version: 1.0.0
description: Let nothing overlap
steps:
  - name: apart
    kind: online-change
    strategy: shadow-table
    table: booked
    alter: [ADD CONSTRAINT apart EXCLUDE USING gist (at WITH &&) WHERE (room > 0) DEFERRABLE INITIALLY DEFERRED]
"""


def test_rows_that_exclude_each_other_wait_for_a_repair_and_no_longer(any_database: str, shops: Shops) -> None:
    run_sql(any_database, *BOOKED)
    shops.open("shop", any_database)
    plan = shops.add(APART)
    running = Background(lambda: shops.run(plan))
    until(lambda: value(any_database, "SELECT to_regclass('segue.conflict') IS NOT NULL"))
    (found,) = until(lambda: rows(any_database, "SELECT key, sqlstate, rule FROM segue.conflict"))
    assert found == (["202"], "23P01", "apart")
    # Meanwhile the application goes on, and is not told.
    run_sql(any_database, "INSERT INTO booked VALUES (206, 1, '[2028, 2040)'), (207, 1, '[2029, 2030)')")
    until(lambda: value(any_database, "SELECT count(*) FROM segue.conflict") == 3)
    with psycopg.connect(any_database, autocommit=True) as connection:
        (found,) = connection.execute("SELECT blueprint FROM segue.change").fetchone() or ()
        blueprint = Blueprint.model_validate(found)
        for number, one in enumerate(conflicts.listed(connection, blueprint)):
            offered = conflicts.repairs(one, blueprint)
            assert [text.split(" where ")[0] for text in offered] == [
                'update "public"."booked" set "at" = \'empty\'',
                'update "public"."booked" set "at" = NULL',
                'delete from "public"."booked"',
            ]
            connection.execute(offered[number].encode())
    running.result()
    assert value(any_database, "SELECT count(*) FROM booked") == 106
    with pytest.raises(psycopg.errors.ExclusionViolation):
        run_sql(any_database, "INSERT INTO booked VALUES (300, 1, '[2000, 2001)')")


def test_rows_that_a_unique_constraint_of_partitions_would_refuse_are_moved(database: str, assemble: Assemble) -> None:
    run_sql(database, *PEOPLE)
    change = assemble(database, "people", "(id bigint, name text, team int, boss int) PARTITION BY LIST (team)")
    run_sql(database, f"CREATE TABLE {change.flow.into.schema_name}.teams PARTITION OF {change.into} DEFAULT")
    change.copy()
    index = Index(name="once", sql="", constraint="once", definition="UNIQUE (name, team)")
    moved = conflicts.excluded(change.site, CHANGE, drawn(change, index).members[0], index)
    assert (moved, change.conflicts()) == (1, [(["7"], "23505", "once")])
    run_sql(database, f"ALTER TABLE {change.into} ADD CONSTRAINT once {index.definition}")


def test_more_duplicates_than_anybody_would_mend_stop_the_work(
    people: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "MOST_CONFLICTS", 2)
    monkeypatch.setattr(refusing, "MOST_CONFLICTS", 2)
    with pytest.raises(StepFailed, match="refuses more than 2 rows"):
        duplicates(people, Index(name="once", sql=f"CREATE UNIQUE INDEX once ON {people.into} (name)"))
    assert (people.conflicts(), people.differences()) == ([], [])


def test_rows_that_a_foreign_key_would_refuse_are_found_until_they_are_mended(people: HandMade) -> None:
    run_sql(people.url, "UPDATE people SET boss = 1 WHERE id IN (2, 3)", "UPDATE people SET boss = 99 WHERE id > 6")
    people.drain()
    reference = Reference(name="people_boss", columns=("boss",), table=people.flow.into, referenced=("id",))
    (member,) = drawn(people).members
    assert conflicts.orphans(people.site, CHANGE, member, reference) == 2
    assert people.conflicts() == [(["7"], "23503", "people_boss"), (["8"], "23503", "people_boss")]
    # No drain brings them back by itself: the shadow has no foreign key before the swap.
    people.drain()
    assert len(people.conflicts()) == 2
    run_sql(people.url, "UPDATE people SET boss = 1 WHERE id = 7", "INSERT INTO people VALUES (99)")
    people.drain()
    assert conflicts.orphans(people.site, CHANGE, member, reference) == 0
    assert (people.conflicts(), people.differences()) == ([], [])


# -- listed, and mended


@pytest.mark.parametrize(
    ("shadow", "spoil"),
    [
        ("name text NOT NULL, team int", "UPDATE people SET name = NULL WHERE id = 6"),
        ("name varchar(3), team int", "UPDATE people SET name = 'much too long' WHERE id = 6"),
        ("name text, team smallint", "UPDATE people SET team = 70000 WHERE id = 6"),
        ("name text, team int, CONSTRAINT fine CHECK (team < 100)", "UPDATE people SET team = 100 WHERE id = 6"),
        ("name text, team int, CONSTRAINT once UNIQUE (name)", "UPDATE people SET name = 'cy' WHERE id IN (5, 6)"),
    ],
)
def test_each_repair_that_is_offered_mends_its_row(database: str, assemble: Assemble, shadow: str, spoil: str) -> None:
    run_sql(database, PEOPLE[0], "INSERT INTO people SELECT g, 'n' || g, 1 FROM generate_series(1, 6) g")
    change = assemble(database, "people", f"(id bigint, {shadow}, boss int)")
    change.settle()
    index = Index(name="once", sql=f"CREATE UNIQUE INDEX once ON {change.into} (name)", constraint="once", unique=True)
    blueprint = drawn(change, index)
    offered = 0
    while True:
        run_sql(database, "UPDATE people SET name = 'n' || id, team = 1")
        change.drain()
        run_sql(database, spoil)
        assert change.drain().refused == 1
        (conflict,) = conflicts.listed(change.site.look, blueprint)
        assert (conflict.table, conflict.key) == ('"public"."people"', {"id": "6"})
        assert conflicts.count(change.site.look, blueprint, direction="forward") == 1
        assert conflicts.count(change.site.look, blueprint, direction="backward") == 0
        repairs = conflicts.repairs(conflict, blueprint)
        if offered == len(repairs):
            break
        run_sql(database, repairs[offered])
        change.drain(compare=True)
        assert (change.conflicts(), change.differences()) == ([], [])
        run_sql(database, "INSERT INTO people VALUES (6) ON CONFLICT DO NOTHING")
        offered += 1
    assert repairs[-1].startswith('delete from "public"."people" where "id" = ')
    assert offered >= (1 if "fine" in shadow else 2)


def test_conflicts_are_listed_with_their_rows_up_to_a_limit(people: HandMade) -> None:
    run_sql(
        people.url,
        f"ALTER TABLE {people.into} ADD CONSTRAINT fine CHECK (team < 1) NOT VALID",
        "UPDATE people SET team = 1",
    )
    people.drain()
    found = conflicts.listed(people.site.look, drawn(people), 3)
    assert [conflict.key["id"] for conflict in found] == ["1", "2", "3"]
    assert found[0].row == {"id": 1, "name": "ann", "team": 1, "boss": None}
    assert (found[0].rule, found[0].direction, found[0].sqlstate) == ("fine", "forward", "23514")
    assert conflicts.listed(people.site.look, drawn(people), direction="backward") == []
    assert conflicts.count(people.site.look, drawn(people)) == 8
    assert rows(people.url, f"SELECT * FROM {people.into}") == []
