"""`segue move check`: all that stands in a move's way is said at once, and nothing is changed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from fix_process import Segue
from fix_standbys import Server
from fix_targets import run_sql
from fix_wandering import LATER, PATIENCE, TABLES, Moved, made
from psycopg import conninfo

from segue.databases.postgresql.moving.mover import PostgresMover
from segue.model.checks import Finding, Light

HAZARDS = """
    CREATE TABLE bare (id int);
    CREATE TABLE scratch (id int PRIMARY KEY);
    ALTER TABLE scratch SET UNLOGGED;
    CREATE TABLE blind (id int PRIMARY KEY);
    ALTER TABLE blind REPLICA IDENTITY NOTHING;
    CREATE TABLE stays (id int PRIMARY KEY, item bigint REFERENCES item, no bigint DEFAULT nextval('item_id_seq'));
    CREATE TABLE outward (id int PRIMARY KEY, stays int REFERENCES stays, picture oid);
    SELECT lo_create(0);
    CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER loud BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION noop();
    ALTER TABLE item ENABLE ALWAYS TRIGGER loud;
    CREATE RULE hush AS ON INSERT TO outward DO ALSO NOTHING;
    ALTER TABLE outward ENABLE ALWAYS RULE hush;
"""
MORE = ("bare", "scratch", "blind", "outward")


@pytest.fixture
def moved(moving_server: Server) -> Iterator[Moved]:
    """Give a move whose tables are there on both sides."""
    with made(moving_server, moving_server) as found:
        run_sql(found.pair.target.url, LATER)
        yield found


def look(moved: Moved, *more: str, make_tables: bool = False, once: bool = False) -> list[Finding]:
    mover = PostgresMover(moved.pair.id, moved.pair.source.url, moved.pair.target.url)
    return mover.preflight([*TABLES, *more], make_tables=make_tables, once=once)


def red(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.light is Light.RED]


def words(findings: list[Finding]) -> str:
    return "\n".join("\n".join((f"{f.light} {f.what}: {f.found}", *f.details, f.do)) for f in findings)


def test_what_can_move_is_told_what_to_see_to(moved: Moved) -> None:
    found = look(moved)
    assert {finding.what for finding in found if finding.light is not Light.GREEN} == {"room"}
    assert {"keys", "wal_level", "sequences"} <= {finding.what for finding in found}
    assert moved.remains() == []


def test_everything_that_stands_in_the_way_is_said_at_once(moved: Moved) -> None:
    run_sql(moved.pair.source.url, HAZARDS)
    run_sql(
        moved.pair.target.url, "INSERT INTO item (code) VALUES ('old')", "ALTER TABLE part DROP CONSTRAINT part_pkey"
    )
    found = look(moved, *MORE)
    said = words(red(found))
    for phrase in (
        "public.bare has no primary key",
        "public.scratch is not logged",
        "public.blind has REPLICA IDENTITY NOTHING",
        "public.outward is not there on the target",
        "public.item on the target has rows",
        "no primary key on the target",
        "outward.picture names large objects",
    ):
        assert phrase in said
    known = words([finding for finding in found if finding.light is Light.AMBER])
    for phrase in (
        "alter table stays drop constraint stays_item_fkey;",
        "outward_stays_fkey refers to stays",
        "trigger loud of public.item",
        "rule hush of public.outward",
        "item_id_seq, from which stays draws too",
    ):
        assert phrase in known
    # Made on the target, a table need not be there; copied once, it need not be followed.
    assert "not there" not in words(red(look(moved, *MORE, make_tables=True)))
    assert {finding.what for finding in red(look(moved, *MORE, once=True))} == {"large objects", "the target's tables"}
    assert [finding.what for finding in look(moved, "nosuch")] == ["tables"]
    assert moved.remains() == [("trigger", "loud")]


def test_another_moves_slot_is_in_the_way(moved: Moved, moving_server: Server) -> None:
    slot = f"segue_move_{moved.pair.id}_source"
    make = "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')"
    with psycopg.connect(moving_server.cluster.url("postgres"), autocommit=True) as connection:
        connection.execute(make, [slot])
        assert [(finding.what, slot in finding.found) for finding in red(look(moved))] == [("slots", True)]
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    assert red(look(moved)) == []


def test_a_role_is_told_what_it_lacks_and_moves_tables_with_it(moved: Moved, moving_server: Server) -> None:
    owner, role = (f"{word}_{secrets.token_hex(4)}" for word in ("app", "mover"))
    run_sql(
        moving_server.cluster.url("postgres"), f"CREATE ROLE {owner}", f"CREATE ROLE {role} LOGIN PASSWORD 'secret'"
    )
    sides = (moved.pair.source, moved.pair.target)
    for side in sides:
        run_sql(side.url, *(f"ALTER TABLE {table} OWNER TO {owner}" for table in (*TABLES, "part_a", "part_b")))
    urls = [conninfo.make_conninfo(side.url, user=role, password="secret") for side in sides]
    mover = PostgresMover(moved.pair.id, *urls)

    def missing() -> list[tuple[str, str]]:
        found = red(mover.preflight(TABLES, make_tables=False, once=False))
        assert {finding.what for finding in found} <= {"rights"}, words(found)
        return [(finding.found, finding.do) for finding in found]

    first = missing()
    assert len(first) > 4
    for said, advice in first:
        run_sql((sides[1] if "the target" in said else sides[0]).url, advice)
    assert missing() == []
    mover.start(TABLES, workers=2, patience=PATIENCE, note=moved.notes.append)
    for number, to in enumerate(("target", "source", "target")):
        mover.turn(to, budget=10, margin=100, patience=PATIENCE, note=moved.notes.append)
        run_sql(sides[to == "target"].url, f"INSERT INTO item (code) VALUES ('turn {number}')")
    mover.turn("source", budget=10, margin=100, patience=PATIENCE, note=moved.notes.append)
    assert moved.content(sides[0]) == moved.content(sides[1])
    mover.cancel(PATIENCE, moved.notes.append)
    assert moved.remains() == []


def test_a_start_that_cannot_work_is_refused_with_all_reasons(segue: Segue, moved: Moved) -> None:
    for name, side in (("old", moved.pair.source), ("new", moved.pair.target)):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": side.url}).expect(0)
    run_sql(moved.pair.source.url, HAZARDS)
    tables = [word for table in (*TABLES, *MORE) for word in ("-t", table)]
    segue("move", "create", "shop", "--from", "old", "--to", "new", *tables).expect(0)
    checked = segue("move", "check", "shop", "--json").expect(1).json
    assert (checked["ok"], checked["light"]) == (False, "red")
    assert "red" in segue("move", "check", "shop").expect(1).stdout
    refused = segue("move", "start", "shop").expect(2).stderr
    for finding in checked["findings"]:
        assert (finding["found"] in " ".join(refused.split())) == (finding["light"] == "red")
    assert moved.remains() == [("trigger", "loud")]
