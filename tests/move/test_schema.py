"""A move that makes its tables: as they are in the source, with all that hangs on them; gone on with after a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fix_crash import Crasher
from fix_process import Segue
from fix_standbys import Server
from fix_targets import rows, run_sql, value
from fix_wandering import PATIENCE, Moved, following

from segue.databases.postgresql.moving import archive
from segue.databases.postgresql.moving.mover import PostgresMover
from segue.databases.postgresql.moving.support import Pair, Side

SHOP = """
    CREATE SCHEMA shop; CREATE SCHEMA other;
    CREATE TYPE shop.state AS ENUM ('new', 'paid'); CREATE DOMAIN shop.amount AS numeric(10, 2) CHECK (VALUE >= 0);
    CREATE FUNCTION shop.twice(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN n * 2;
    CREATE FUNCTION shop.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        NEW.note := coalesce(NEW.note, 'stamped; so'); RETURN NEW; END $$;
    CREATE TABLE other.people (id int PRIMARY KEY, name text);
    CREATE SEQUENCE other.numbers;
    CREATE TABLE shop.orders (id bigserial PRIMARY KEY, number bigint DEFAULT nextval('other.numbers') UNIQUE,
        person int REFERENCES other.people, state shop.state DEFAULT 'new', total shop.amount,
        double numeric GENERATED ALWAYS AS (shop.twice(total)) STORED, note text, EXCLUDE (note WITH =));
    CREATE TABLE shop.lines (orders bigint REFERENCES shop.orders, no int CHECK (no > 0), PRIMARY KEY (orders, no));
    CREATE TABLE shop.days (day date, n int, id bigint GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (day, id))
        PARTITION BY RANGE (day);
    CREATE TABLE shop.days_old PARTITION OF shop.days FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
    CREATE TABLE shop.days_new PARTITION OF shop.days FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
    CREATE INDEX ON shop.days (n); CREATE INDEX orders_twice ON shop.orders (shop.twice(total)) WHERE state = 'paid';
    CREATE STATISTICS shop.both ON person, state FROM shop.orders;
    CREATE TRIGGER stamp BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.stamp();
    ALTER TABLE shop.lines ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON shop.lines USING (no < 100);
    COMMENT ON COLUMN shop.orders.total IS 'in euros; net'; GRANT SELECT ON shop.orders TO PUBLIC;
"""
ROWS = """
    INSERT INTO other.people SELECT g, 'p' || g FROM generate_series(1, 9) AS g;
    INSERT INTO shop.orders (person, state, total, note)
        SELECT 1 + g % 9, 'paid', g, 'n' || g FROM generate_series(1, 500) AS g;
    INSERT INTO shop.lines SELECT g, 1 FROM generate_series(1, 500) AS g;
    INSERT INTO shop.days SELECT date '2019-12-01' + g, g FROM generate_series(1, 100) AS g;
"""
TABLES = ("shop.orders", "shop.lines", "shop.days")


@pytest.fixture
def moved(moving_server: Server) -> Iterator[Moved]:
    """Give a move whose target is empty."""
    pair = Pair("shop", Side("source", moving_server.database()), Side("target", moving_server.database()))
    run_sql(pair.source.url, SHOP, ROWS)
    yield Moved(pair, TABLES)
    with pair.open(pair.source) as a, pair.open(pair.target) as b:
        following.unsubscribe(pair, pair.source, a, b)
        following.unsubscribe(pair, pair.target, b, a)


def start(moved: Moved) -> None:
    mover = PostgresMover(moved.pair.id, moved.pair.source.url, moved.pair.target.url)
    mover.start(TABLES, workers=2, patience=PATIENCE, note=moved.notes.append, make_tables=True)


def definition(moved: Moved, side: Side) -> set[str]:
    """Return the SQL of the moved tables on a side, and of what hangs on them."""
    pair = Pair(moved.pair.id, side, side)
    with moved.pair.open(side) as connection:
        oids = [
            r[0] for r in rows(side.url, "SELECT oid::bigint FROM pg_class WHERE relnamespace = 'shop'::regnamespace")
        ]
        return {entry.sql for entry in archive.chosen(archive.read(pair, connection, 20), oids)[0]}


def content(side: Side) -> list[list[tuple[object, ...]]]:
    return [rows(side.url, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]


def test_tables_are_made_as_they_are_with_all_that_hangs_on_them(moved: Moved) -> None:
    start(moved)
    source, target = moved.pair.source, moved.pair.target
    assert definition(moved, target) == definition(moved, source)
    assert content(source) == content(target)
    assert [note for note in moved.notes if "left out" in note] == [
        "left out, since it needs something that stays: fk constraint orders orders_person_fkey of shop"
    ]
    run_sql(source.url, "INSERT INTO shop.orders (total) VALUES (1.5)")
    moved.level()
    assert content(source) == content(target)
    assert value(target.url, "SELECT to_regclass('other.people')") is None


def test_a_start_killed_between_its_phases_goes_on(
    moved: Moved, segue: Segue, new_crasher: Callable[..., Crasher]
) -> None:
    for name, side in (("old", moved.pair.source), ("new", moved.pair.target)):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": side.url}).expect(0)
    words = [word for table in TABLES for word in ("-t", table)]
    segue("move", "create", "shop", "--from", "old", "--to", "new", *words).expect(0)
    assert "--schema` makes" in segue("move", "start", "shop").expect(2).stderr
    segue("move", "cancel", "shop", "--yes").expect(0)
    segue("move", "create", "shop", "--from", "old", "--to", "new", "--schema", *words).expect(0)
    crasher = new_crasher(**segue.env)
    for point in ("move-tables", "move-copied", "move-indexed", "move-checked"):
        killed = crasher("move", "start", "shop", kill=(point, 1))
        assert killed["status"] == -9, killed
        run_sql(moved.pair.source.url, "UPDATE shop.orders SET total = total + 1")
    assert "the copy is complete" in segue("move", "start", "shop").expect(0).stderr
    moved.level()
    assert content(moved.pair.source) == content(moved.pair.target)
    assert definition(moved, moved.pair.target) == definition(moved, moved.pair.source)


def test_what_is_there_stays_as_it_is(moved: Moved) -> None:
    run_sql(
        moved.pair.target.url,
        "CREATE SCHEMA shop; CREATE TYPE shop.state AS ENUM ('new', 'paid', 'sent')",
        "CREATE TABLE shop.lines (orders bigint, no int, PRIMARY KEY (orders, no))",
    )
    start(moved)
    target = moved.pair.target
    assert content(moved.pair.source) == content(target)
    assert value(target.url, "SELECT count(*) FROM pg_enum") == 3
    assert value(target.url, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'shop.lines'::regclass") >= 2
