"""Where a row could be lost between two shapes: triggers that were off, keys of no source, sides that were set back."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from fix_targets import rows, run_sql, value
from fix_unlike import PATIENCE, Reshaped

from segue.errors import Blocked, DriftFound
from segue.planning.shapefile import InvalidShape

Make = Callable[..., Reshaped]

PLAIN = (
    "CREATE TABLE a (id int PRIMARY KEY, x text); INSERT INTO a SELECT g, 'x' || g FROM generate_series(1, 20) g",
    "CREATE TABLE b (id bigint PRIMARY KEY, y text)",
    "tables: {b: {from: a, columns: {y: s.x}}}",
)


def test_columns_that_nobody_carries_survive_an_emptied_table_beside_them(reshape: Make) -> None:
    move = reshape(
        "CREATE TABLE u (id int PRIMARY KEY, name text, bio text, secret text DEFAULT 'none');"
        "INSERT INTO u SELECT g, 'n' || g, 'b' || g, 'kept' FROM generate_series(1, 5) g",
        "CREATE TABLE c (id int PRIMARY KEY, name text); CREATE TABLE p (id int PRIMARY KEY, bio text)",
        "tables:\n  c: {from: u, drop: [secret]}\n  p: {from: u, drop: [secret]}\n",
    )
    move.start()
    move.turn("target")
    run_sql(move.target, "TRUNCATE p", "DELETE FROM c WHERE id = 5")
    move.turn("source")
    assert rows(move.source, "SELECT DISTINCT bio, secret FROM u WHERE id < 5") == [(None, "kept")]
    assert value(move.source, "SELECT count(*) FROM u") == 4


def test_what_was_written_while_the_triggers_were_off_is_never_switched_away(reshape: Make) -> None:
    move = reshape(*PLAIN)
    move.start()
    run_sql(
        move.source,
        "ALTER TABLE a DISABLE TRIGGER USER",
        "UPDATE a SET x = 'unseen' WHERE id = 1",
        "ALTER TABLE a ENABLE TRIGGER segue_move_shop_update",
        "UPDATE a SET x = 'seen' WHERE id = 2",
    )
    for go_on in (move.level, lambda: move.turn("target")):
        with pytest.raises(DriftFound, match="switched off"):
            go_on()
    move.mover.cancel(PATIENCE, move.notes.append)
    assert move.remains() == []


def test_ddl_is_found_by_who_follows(reshape: Make) -> None:
    move = reshape(
        "CREATE TABLE m (day int, id int, PRIMARY KEY (day, id)) PARTITION BY LIST (day);"
        "CREATE TABLE m1 PARTITION OF m FOR VALUES IN (1); INSERT INTO m VALUES (1, 1)",
        "CREATE TABLE n (day int, id int, PRIMARY KEY (day, id))",
        "tables: {n: {from: m}}",
    )
    move.start()
    run_sql(move.source, "CREATE TABLE m2 PARTITION OF m FOR VALUES IN (2)", "INSERT INTO m VALUES (1, 2), (2, 2)")
    with pytest.raises(DriftFound):
        move.level()
    run_sql(move.source, "DROP TABLE m2")
    assert move.level() == 1


TENANTS = (
    "CREATE SEQUENCE ids; CREATE TABLE docs (id int PRIMARY KEY DEFAULT nextval('ids'), tenant int, body text,"
    " owner int GENERATED ALWAYS AS (tenant) STORED); CREATE TABLE other (id int DEFAULT nextval('ids'));"
    "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.tenant := coalesce(NEW.tenant, 1);"
    " RETURN NEW; END';"
    "CREATE TRIGGER zz BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION late();"
    "INSERT INTO docs (tenant, body) SELECT g % 2, 'd' || g FROM generate_series(1, 10) g",
    "CREATE TABLE papers (id bigint PRIMARY KEY, body text)",
    "tables:\n  papers:\n    from: docs\n    where: s.owner = 1\n    drop: [tenant]\n    reverse: {tenant: 1}\n",
)


def test_rows_that_have_moved_cannot_be_emptied_or_made_by_a_trigger(reshape: Make) -> None:
    move = reshape(*TENANTS[:2], TENANTS[2].replace("s.owner = 1", "s.tenant = 1"))
    move.start()
    move.turn("target")
    for query in ("TRUNCATE docs", "INSERT INTO docs (body) VALUES ('by a trigger')"):
        with pytest.raises(psycopg.errors.SerializationFailure) as refused:
            run_sql(move.source, query)
        assert refused.value.diag.constraint_name == "segue_fence"
    # Of the other tenants, and of other tables, everything goes on; the sequence is theirs too.
    run_sql(
        move.source,
        "INSERT INTO docs (tenant) SELECT 0 FROM generate_series(1, 3000)",
        "INSERT INTO other DEFAULT VALUES",
    )
    move.turn("source")
    assert value(move.source, "SELECT count(*) FROM docs WHERE tenant = 1") == 5
    run_sql(move.source, "TRUNCATE docs", "INSERT INTO docs (body) VALUES ('again')")
    move.level()
    assert rows(move.target, "SELECT body FROM papers") == [("again",)]
    move.mover.cancel(PATIENCE, move.notes.append)
    assert move.remains() == [("trigger", "zz")]


def test_a_filter_by_a_generated_column_closes_its_rows(reshape: Make) -> None:
    move = reshape(*TENANTS)
    move.start()
    move.turn("target")
    for query in ("INSERT INTO docs (tenant) VALUES (1)", "UPDATE docs SET tenant = 1 WHERE id = 2"):
        with pytest.raises(psycopg.errors.SerializationFailure):
            run_sql(move.source, query)
    run_sql(move.source, "UPDATE docs SET tenant = 2 WHERE tenant = 0")


@pytest.mark.parametrize(
    ("key", "there", "good", "strays"),
    [
        ("int", "text", "'21'", ["'007'", "'abc'", "'-0'", "'99999999999'"]),
        ("int", "bigint", "21", ["99999999999"]),
        ("int", "numeric", "21", ["1.5", "1e30"]),
        (
            "uuid", "text", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
            ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12'", "'x'"],
        ),
    ],
)  # fmt: skip
def test_keys_that_the_source_could_not_have_are_named_and_never_taken_for_others(
    reshape: Make, key: str, there: str, good: str, strays: list[str]
) -> None:
    move = reshape(
        f"CREATE TABLE a (id {key} PRIMARY KEY, x text)",
        f"CREATE TABLE b (id {there} PRIMARY KEY, x text)",
        f"tables: {{b: {{from: a, columns: {{id: 's.id::{there}'}}}}}}",
    )
    move.start()
    move.turn("target")
    for stray in strays:
        run_sql(move.target, f"INSERT INTO b VALUES ({stray}, 'stray')")
    run_sql(move.target, f"INSERT INTO b VALUES ({good}, 'good')")
    move.level()
    assert rows(move.source, "SELECT x FROM a") == [("good",)]
    with pytest.raises(Blocked) as refused:
        move.turn("source")
    assert len(refused.value.details) == len(strays)
    run_sql(move.target, "TRUNCATE b", f"INSERT INTO b VALUES ({good}, 'new'), ({strays[0]}, 'stray')")
    run_sql(move.target, "DELETE FROM b WHERE x = 'stray'")
    move.turn("source")
    assert rows(move.source, "SELECT x FROM a") == [("new",)]


@pytest.mark.parametrize(
    "constraint",
    ["UNIQUE (u) DEFERRABLE INITIALLY DEFERRED", "EXCLUDE USING gist (int4range(u, u, '[]') WITH &&)", "UNIQUE (u)"],
)
def test_values_that_move_between_rows_of_two_turns_arrive(reshape: Make, constraint: str) -> None:
    move = reshape(
        "CREATE TABLE a (id int PRIMARY KEY, u int); INSERT INTO a SELECT g, g FROM generate_series(1, 5200) g",
        f"CREATE TABLE b (id int PRIMARY KEY, u int, {constraint})",
        "tables: {b: {from: a}}",
    )
    move.start()
    run_sql(move.source, "UPDATE a SET u = 5201 - u")
    move.level()
    assert rows(move.source, "SELECT * FROM a ORDER BY 1") == rows(move.target, "SELECT * FROM b ORDER BY 1")


def test_a_side_that_was_set_back_is_noticed(reshape: Make) -> None:
    move = reshape(*PLAIN)
    move.start()
    run_sql(move.source, "UPDATE a SET x = 'one' WHERE id = 1")
    move.level()
    # The acknowledgement of one turn may have been lost, so that it is taken once more.
    run_sql(move.source, "UPDATE segue_move_shop.position SET sent = sent - 1", "UPDATE a SET x = 'two' WHERE id = 1")
    move.level()
    assert value(move.target, "SELECT y FROM b WHERE id = 1") == "two"
    # What a standby that was behind would show: a turn is forgotten, and so are its rows.
    run_sql(move.target, "UPDATE segue_move_shop.position SET taken = taken - 1")
    run_sql(move.source, "UPDATE a SET x = 'three' WHERE id = 3")
    with pytest.raises(DriftFound, match="do not know of the same turns"):
        move.level()


def test_domains_that_refuse_null_take_rows_away_too(reshape: Make) -> None:
    move = reshape(
        PLAIN[0],
        "CREATE DOMAIN word AS text NOT NULL CHECK (value <> ''); CREATE TABLE b (id bigint PRIMARY KEY, y word)",
        PLAIN[2],
    )
    move.start()
    run_sql(move.source, "DELETE FROM a WHERE id = 1", "UPDATE a SET x = 'new' WHERE id = 2")
    move.level()
    assert rows(move.target, "SELECT id, y FROM b WHERE id < 4 ORDER BY 1") == [(2, "new"), (3, "x3")]


@pytest.mark.parametrize(
    ("given", "wanted", "words"),
    [
        ("numeric", "integer", "rounded"),
        ("numeric(10,4)", "numeric(10,2)", "rounded"),
        ("double precision", "real", "rounded"),
        ("bigint", "double precision", "rounded"),
        ("timestamptz", "date", "time of day"),
        ("timestamp", "timestamptz", "UTC"),
        ("timestamp", "timestamp(0)", "rounded"),
        ("text", "name", "cut"),
    ],
)
def test_a_type_that_would_change_values_is_refused_unless_it_is_said(
    reshape: Make, given: str, wanted: str, words: str
) -> None:
    tables = f"CREATE TABLE a (id int PRIMARY KEY, v {given})", f"CREATE TABLE b (id int PRIMARY KEY, v {wanted})"
    with pytest.raises(InvalidShape, match=words):
        reshape(*tables, "tables: {b: {from: a}}").mover.check()
    reshape(
        *tables, f"tables: {{b: {{from: a, columns: {{v: 's.v::{wanted}'}}, reverse: {{v: 't.v'}}}}}}"
    ).mover.check()


@pytest.mark.parametrize(
    "text", ["'now'::date::text", "age(s.d)::text", "now_ish(s.d)", "s.x) || (s.x", "s.x, s.x", "s.x); select (s.x"]
)
def test_an_expression_that_depends_on_more_than_its_row_is_refused(reshape: Make, text: str) -> None:
    source = (
        "CREATE TABLE a (id int PRIMARY KEY, x text, d timestamp);"
        "CREATE FUNCTION now_ish(timestamp) RETURNS text STABLE LANGUAGE sql AS 'SELECT $1::text'"
    )
    with pytest.raises(InvalidShape) as refused:
        reshape(source, PLAIN[1], f'tables: {{b: {{from: a, columns: {{y: "{text}"}}, drop: [x, d]}}}}').mover.check()
    assert "shape.yaml:1:" in refused.value.message
    with pytest.raises(InvalidShape):
        reshape(source, PLAIN[1], 'tables: {b: {from: a, where: "true); drop table a; select (1", drop: [d]}}').start()
