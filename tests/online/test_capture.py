"""Whatever touches a row, its key is in the log, in the transaction that touched it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from fix_hostile import administrator
from fix_online import CHANGE, PATIENCE, Assemble, HandMade, relations_of
from fix_standbys import Server
from fix_targets import Background, drop_role, make_role, rows, run_sql, session, until, value

from segue.databases.postgresql.online import capture
from segue.errors import FenceLost, LockNotGranted
from segue.ports import Patience

ITEMS = (
    "CREATE TABLE items (id int PRIMARY KEY, code text UNIQUE, n int, note text)",
    "INSERT INTO items SELECT g, 'c' || g, g FROM generate_series(1, 9) g",
)
SHAPE = "(id bigint, code text, n int, note text)"

TOUCHES: dict[str, tuple[list[str], set[int | None]]] = {
    "an insert of several rows": (["INSERT INTO items (id) VALUES (11), (12)"], {11, 12}),
    "an update": (["UPDATE items SET n = 0 WHERE id IN (2, 3)"], {2, 3}),
    "an update to what was there": (["UPDATE items SET n = n WHERE id = 2"], {2}),
    "an update of the key": (["UPDATE items SET id = 40 WHERE id = 4"], {4, 40}),
    "keys that change places": (["UPDATE items SET id = id + 100 WHERE id > 7"], {8, 9, 108, 109}),
    "a delete": (["DELETE FROM items WHERE id = 5"], {5}),
    "no row at all": (["DELETE FROM items WHERE id = 500", "UPDATE items SET n = 1 WHERE false"], set()),
    "a conflict that updates": (
        ["INSERT INTO items VALUES (11, 'c1', 0), (12, 'new', 0) ON CONFLICT (code) DO UPDATE SET n = -1"],
        {1, 12},
    ),
    "a conflict that does nothing": (["INSERT INTO items VALUES (1, 'x', 0) ON CONFLICT DO NOTHING"], set()),
    "a merge": (
        [
            "MERGE INTO items i USING (VALUES (1), (2), (30)) AS v (id) ON i.id = v.id "
            "WHEN MATCHED AND i.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET n = 0 "
            "WHEN NOT MATCHED THEN INSERT (id) VALUES (v.id)"
        ],
        {1, 2, 30},
    ),
    "writes in WITH": (
        ["WITH d AS (DELETE FROM items WHERE id = 1 RETURNING *), u AS (UPDATE items SET n = 0 WHERE id = 2) "
         "INSERT INTO items SELECT id + 60, code FROM d"],
        {1, 2, 61},
    ),
    "a copy": (["COPY items (id) FROM PROGRAM 'echo 77; echo 78'"], {77, 78}),
    "a prepared statement": (["PREPARE p AS UPDATE items SET n = 1 WHERE id = $1", "EXECUTE p (6)"], {6}),
    "a cursor's row": (
        ["DO $$ DECLARE c CURSOR FOR SELECT * FROM items WHERE id = 7 FOR UPDATE; r record; BEGIN OPEN c; "
         "FETCH c INTO r; UPDATE items SET n = 0 WHERE CURRENT OF c; END $$"],
        {7},
    ),
    "what was rolled back": (["BEGIN", "DELETE FROM items", "ROLLBACK"], set()),
    "what was rolled back in part": (
        ["BEGIN", "DELETE FROM items WHERE id = 1", "SAVEPOINT s", "DELETE FROM items WHERE id = 2", "ROLLBACK TO s",
         "DELETE FROM items WHERE id = 3", "COMMIT"],
        {1, 3},
    ),
    "what is emptied": (["TRUNCATE items"], {None}),
    "what is emptied and filled": (["BEGIN", "TRUNCATE items", "INSERT INTO items VALUES (1)", "COMMIT"], {None, 1}),
}  # fmt: skip


@pytest.fixture
def items(database: str, assemble: Assemble) -> HandMade:
    """Give a captured table of nine rows."""
    run_sql(database, *ITEMS)
    return assemble(database, "items", SHAPE)


def hand(url: str, commands: list[str]) -> str:
    """Return the URL of whoever may do this: a program beside the server is for its superuser alone."""
    return administrator(url) if any("PROGRAM" in command for command in commands) else url


def keys(change: HandMade) -> set[Any]:
    return {key for (key,) in change.touched()}


@pytest.mark.parametrize("name", TOUCHES)
def test_every_touched_key_is_logged(database: str, assemble: Assemble, name: str) -> None:
    run_sql(database, *ITEMS)
    change = assemble(database, "items", SHAPE)
    commands, wanted = TOUCHES[name]
    run_sql(hand(database, commands), *commands)
    assert keys(change) == wanted
    assert value(database, f"SELECT count(*) FROM {change.log} WHERE xid IS NULL") == 0


def test_the_same_on_an_older_server(debian_database: str, assemble: Assemble) -> None:
    run_sql(debian_database, *ITEMS)
    change = assemble(debian_database, "items", SHAPE)
    for commands, wanted in TOUCHES.values():
        run_sql(debian_database, "TRUNCATE items", *ITEMS[1:], f"TRUNCATE {change.log}")
        run_sql(hand(debian_database, commands), *commands)
        assert keys(change) == wanted


def test_cascades_of_foreign_keys_are_logged(database: str, assemble: Assemble) -> None:
    run_sql(
        database,
        *ITEMS,
        "CREATE TABLE orders (id int, item int REFERENCES items ON DELETE CASCADE ON UPDATE CASCADE, "
        "gift int REFERENCES items ON DELETE SET NULL ON UPDATE CASCADE, PRIMARY KEY (id, item))",
        "INSERT INTO orders SELECT g + 100, g, 10 - g FROM generate_series(1, 9) g",
    )
    change = assemble(database, "orders", "(id bigint, item bigint, gift bigint)")
    run_sql(database, "DELETE FROM items WHERE id = 1", "UPDATE items SET id = 20 WHERE id = 2")
    assert change.touched() == [(101, 1), (102, 2), (102, 20), (108, 8), (109, 9)]
    run_sql(database, "TRUNCATE items CASCADE")
    assert (None, None) in change.touched()


def test_triggers_of_the_application_that_write_more_rows_are_logged_too(items: HandMade) -> None:
    run_sql(
        items.url,
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF pg_trigger_depth() = 1 THEN "
        "UPDATE items SET n = -1 WHERE id = NEW.id + 1; END IF; RETURN NULL; END$$",
        "CREATE TRIGGER aaa AFTER UPDATE ON items FOR EACH ROW EXECUTE FUNCTION more()",
        "UPDATE items SET n = 0 WHERE id = 3",
    )
    assert keys(items) == {3, 4}


def test_names_of_columns_may_be_anything(database: str, assemble: Assemble) -> None:
    name = '"Der ""Schlüssel"" %s {}; -- new"'
    run_sql(
        database,
        f'CREATE TABLE "Wo ""?"" %s" ({name} int, "new" text, "tg_op" int, "xid" int, n int, '
        f'PRIMARY KEY ({name}, "new", "tg_op", "xid"))',
    )
    shape = f'({name} bigint, "new" text, "tg_op" int, "xid" int, n int)'
    change = assemble(database, '"Wo ""?"" %s"', shape)
    run_sql(
        database,
        'INSERT INTO "Wo ""?"" %s" VALUES (1, \'a\', 2, 3, 4), (2, \'b\', 3, 4, 5)',
        'UPDATE "Wo ""?"" %s" SET n = 0, "new" = \'c\' WHERE n = 4',
        'DELETE FROM "Wo ""?"" %s" WHERE n = 5',
    )
    assert change.touched() == [(1, "a", 2, 3), (1, "c", 2, 3), (2, "b", 3, 4)]
    change.copy()
    change.index()
    assert change.drain(compare=True).differing == 0
    assert change.differences() == []


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("generated stored", "id int GENERATED ALWAYS AS (n * 2) STORED PRIMARY KEY, n int"),
        ("identity", "n int, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
        ("serial", "n int, id serial PRIMARY KEY"),
        ("set by a trigger", "n int, id int PRIMARY KEY"),
    ],
)
def test_keys_that_the_server_makes_are_logged(database: str, assemble: Assemble, kind: str, column: str) -> None:
    run_sql(database, f"CREATE TABLE t ({column})")
    if kind == "set by a trigger":
        run_sql(
            database,
            "CREATE FUNCTION make() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.id := NEW.n; RETURN NEW; END$$",
            "CREATE TRIGGER make BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION make()",
        )
    change = assemble(database, "t", "(id bigint, n int)")
    run_sql(database, "INSERT INTO t (n) VALUES (1), (2)")
    assert keys(change) == {row[0] for row in rows(database, "SELECT id FROM t")}


@pytest.mark.parametrize("kind", ["int", "text", "mood", "uuid"])
@pytest.mark.parametrize("leaf", [False, True])
def test_an_update_that_leaves_the_key_is_one_entry(database: str, assemble: Assemble, kind: str, leaf: bool) -> None:
    key = {"int": "1", "text": "'a'", "mood": "'a'", "uuid": f"'{'0' * 32}'"}[kind]
    run_sql(
        database,
        "CREATE TYPE mood AS ENUM ('b', 'a')",
        f"CREATE TABLE t (id {kind} PRIMARY KEY, n int)" + (" PARTITION BY HASH (id)" if leaf else ""),
        *(["CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)"] if leaf else []),
        f"INSERT INTO t VALUES ({key})",
    )
    change = assemble(database, "t", f"(id {kind}, n int)")
    run_sql(database, "UPDATE t SET n = 1")
    assert change.left() == 1


def test_two_forms_of_a_key_that_are_equal_are_both_logged(debian_database: str, assemble: Assemble) -> None:
    # The other side may tell them apart: as text "1.0" is not "1.00", and in another collation "a" is not "A".
    run_sql(
        debian_database,
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE TABLE t (id numeric, name text COLLATE blind, PRIMARY KEY (id, name))",
        "INSERT INTO t VALUES (1.0, 'a')",
    )
    change = assemble(debian_database, "t", "(id text, name text)")
    change.copy()
    change.index()
    run_sql(debian_database, "UPDATE t SET id = 1.00, name = 'A'")
    logged = rows(debian_database, f"SELECT segue_k1::text, segue_k2::text FROM {change.log}")
    assert sorted(logged) == [("1.0", "a"), ("1.00", "A")]
    assert change.drain(compare=True).differing == 0
    assert rows(debian_database, f"SELECT * FROM {change.into}") == [("1.00", "A")]


def test_a_key_of_a_domain_does_not_keep_a_table_from_being_emptied(database: str, assemble: Assemble) -> None:
    run_sql(
        database,
        "CREATE DOMAIN code AS varchar(8) NOT NULL CHECK (value <> '')",
        "CREATE DOMAIN short AS code CHECK (length(value) < 5)",
        "CREATE TABLE t (id short PRIMARY KEY)",
        "INSERT INTO t VALUES ('a')",
    )
    change = assemble(database, "t", "(id text)")
    run_sql(database, "UPDATE t SET id = 'b'", "TRUNCATE t")
    assert keys(change) == {"a", "b", None}


# -- whose writes


def test_roles_need_no_right_on_anything_of_segues(items: HandMade) -> None:
    url = make_role(items.url, "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON items TO {role}")
    try:
        run_sql(url, "DELETE FROM items WHERE id = 1", "INSERT INTO items VALUES (20)", "UPDATE items SET n = 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_sql(url, f"DELETE FROM {items.log}")
        assert keys(items) == {*range(1, 10), 20}
        run_sql(url, "TRUNCATE items")
    finally:
        drop_role(items.url, url)


def test_nothing_along_a_search_path_gets_into_a_trigger(items: HandMade) -> None:
    lures = (
        "CREATE SCHEMA lure",
        "CREATE FUNCTION lure.wrong(int, int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE 'lure'; END$$",
        "CREATE OPERATOR lure.= (LEFTARG = int, RIGHTARG = int, FUNCTION = lure.wrong)",
        "CREATE TABLE lure.segue_old (id int)",
        "CREATE FUNCTION lure.pg_current_xact_id() RETURNS xid8 LANGUAGE plpgsql AS $$BEGIN RAISE 'lure'; END$$",
    )
    run_sql(items.url, *lures)
    run_sql(
        items.url,
        "SET search_path = lure, pg_catalog, public",
        "CREATE TEMP TABLE segue_new (id int)",
        "UPDATE public.items SET n = 3 WHERE n OPERATOR(pg_catalog.=) 3 OR code = 'c4'",
        "DELETE FROM public.items WHERE code = 'c5'",
    )
    assert keys(items) == {3, 4, 5}


def test_writes_that_skip_triggers_are_logged(items: HandMade) -> None:
    run_sql(administrator(items.url), "SET session_replication_role = replica", "DELETE FROM items WHERE id = 1")
    assert keys(items) == {1}
    # As they would be by triggers that are only there:
    run_sql(items.url, f"ALTER TABLE items ENABLE TRIGGER segue_{CHANGE}_delete")
    run_sql(
        administrator(items.url),
        "SET session_replication_role = replica",
        "DELETE FROM items WHERE id = 2",
        "TRUNCATE items",
    )
    assert keys(items) == {1, None}


def test_two_phase_commits_are_logged_when_they_are_committed(logical_server: Server, assemble: Assemble) -> None:
    url = logical_server.database()
    run_sql(url, *ITEMS)
    change = assemble(url, "items", SHAPE)
    for number, end in ((1, "COMMIT"), (2, "ROLLBACK")):
        run_sql(url, "BEGIN", f"DELETE FROM items WHERE id = {number}", f"PREPARE TRANSACTION 'capture {number}'")
        assert change.left() == number - 1
        run_sql(url, f"{end} PREPARED 'capture {number}'")
    assert keys(change) == {1}


def test_what_a_subscription_applies_is_logged(logical_server: Server, assemble: Assemble) -> None:
    source, url = logical_server.database(), logical_server.database()
    for each in (source, url):
        run_sql(each, ITEMS[0], "CREATE TABLE other (id int PRIMARY KEY)")
    run_sql(source, ITEMS[1], "CREATE PUBLICATION p FOR TABLE items")
    name = f"s_{value(url, 'SELECT current_database()')}"
    run_sql(source, f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    quoted = source.replace("'", "''")
    run_sql(url, f"CREATE SUBSCRIPTION {name} CONNECTION '{quoted}' PUBLICATION p WITH (create_slot = false)")
    try:
        until(lambda: value(url, "SELECT count(*) FROM items") == 9)
        change = assemble(url, "items", SHAPE)
        until(lambda: value(url, "SELECT srsubstate = 'r' FROM pg_subscription_rel"))
        run_sql(
            source,
            "DELETE FROM items WHERE id = 1",
            "UPDATE items SET id = 20 WHERE id = 2",
            "INSERT INTO items VALUES (30)",
        )
        until(lambda: keys(change) >= {30})
        assert keys(change) == {1, 2, 20, 30}
        run_sql(url, "UPDATE items SET n = 0 WHERE id = 5")
        assert keys(change) == {1, 2, 5, 20, 30}
        run_sql(source, "TRUNCATE items")
        until(lambda: None in keys(change))
    finally:
        run_sql(url, f"DROP SUBSCRIPTION {name}")


# -- partitions and children

PARTED = (
    "CREATE TABLE parted (id int, day int, n int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20) PARTITION BY HASH (id)",
    "CREATE TABLE parted_2a PARTITION OF parted_2 FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    "INSERT INTO parted SELECT g, g FROM generate_series(0, 19) g",
)


def test_writes_to_a_leaf_and_between_leaves_are_logged(any_database: str, assemble: Assemble) -> None:
    run_sql(any_database, *PARTED)
    change = assemble(any_database, "parted", "(id bigint, day int, n int)")
    run_sql(
        any_database,
        "DELETE FROM parted_1 WHERE id = 1",
        "UPDATE parted_2 SET n = 0 WHERE id = 12",
        "INSERT INTO parted_2a VALUES (50, 11)",
        "UPDATE parted SET day = 15 WHERE id = 3",
        "INSERT INTO parted VALUES (60, 6) ON CONFLICT DO NOTHING",
    )
    assert change.touched() == [(1, 1), (3, 3), (3, 15), (12, 12), (50, 11), (60, 6)]
    run_sql(any_database, "TRUNCATE parted_2a")
    assert (None, None) in change.touched()


def test_a_trigger_on_the_root_alone_would_miss_a_leaf(database: str, assemble: Assemble) -> None:
    run_sql(database, *PARTED)
    change = assemble(database, "parted", "(id bigint, day int, n int)", capture=False)
    capture.make_log(change.site, change.flow, change.log)
    capture.make_functions(change.site, change.flow, change.log)
    function = f'segue."{change.log.name}_delete"'
    run_sql(
        database,
        "CREATE TRIGGER naive AFTER DELETE ON parted REFERENCING OLD TABLE AS segue_old FOR EACH STATEMENT "
        f"EXECUTE FUNCTION {function}()",
        "DELETE FROM parted WHERE id = 4",
        "DELETE FROM parted_1 WHERE id = 5",
    )
    assert change.touched() == [(4, 4)]


def test_writes_to_children_of_a_plain_table_are_their_own(database: str, assemble: Assemble) -> None:
    run_sql(
        database,
        *ITEMS,
        "CREATE TABLE special (PRIMARY KEY (id)) INHERITS (items)",
        "INSERT INTO special SELECT g, 's' FROM generate_series(11, 13) g",
    )
    parent = assemble(database, "items", SHAPE, capture=False)
    parent.relations = relations_of(database, parent.flow.source)[:1]
    parent.capture()
    child = assemble(database, "special", SHAPE, member=2)
    run_sql(database, "UPDATE items SET n = 0 WHERE id IN (1, 11)", "DELETE FROM ONLY items WHERE id = 2")
    assert (keys(parent), keys(child)) == ({1, 2}, {11})
    assert parent.copy() == 8


# -- beginning and ending


def test_capture_waits_for_open_writes_and_holds_nobody_up(items: HandMade, database: str) -> None:
    run_sql(database, "CREATE TABLE late AS SELECT * FROM items", "ALTER TABLE late ADD PRIMARY KEY (id)")
    late = HandMade(
        database,
        items.target,
        items.flow.model_copy(update={"source": items.flow.source.model_copy(update={"name": "late"})}),
        items.log.model_copy(update={"name": f"{CHANGE}_log_9_forward"}),
        (items.relations[0].model_copy(update={"place": items.flow.source.model_copy(update={"name": "late"})}),),
    )
    with session(database, "DELETE FROM late WHERE id = 1") as writer:
        capturing = Background(late.capture)
        until(lambda: late.notes)
        # Each of these would queue behind a lock that is waited for, and is given up before this time-out.
        run_sql(database, "SET lock_timeout = '5s'", "UPDATE late SET n = 0 WHERE id = 2", "SELECT 1 FROM late")
        assert capturing.is_alive()
        writer.commit()
        capturing.result()
    assert late.left() == 0
    with psycopg.connect(database) as old:
        old.execute("SELECT 1 FROM late")
        run_sql(database, "DELETE FROM late WHERE id = 3")
        old.execute("DELETE FROM late WHERE id = 4")
    assert keys(late) == {3, 4}


def test_capture_gives_up_and_names_who_stands_in_the_way(database: str, assemble: Assemble) -> None:
    run_sql(database, *ITEMS)
    change = assemble(database, "items", SHAPE, capture=False)
    capture.make_log(change.site, change.flow, change.log)
    capture.make_functions(change.site, change.flow, change.log)
    patience = Patience(locks=0.5, work=5)
    stubborn = session(database, "SET application_name = 'stubborn'", "DELETE FROM items")
    with stubborn, pytest.raises(LockNotGranted) as caught:
        capture.install(change.site, change.relations, change.flow, change.log, CHANGE, patience, change.notes.append)
    assert "stubborn" in " ".join(caught.value.details)


def test_capture_begun_again_changes_nothing(items: HandMade) -> None:
    run_sql(items.url, "DELETE FROM items WHERE id = 1")
    triggers = rows(items.url, "SELECT oid FROM pg_trigger WHERE tgname LIKE 'segue%' ORDER BY 1")
    items.capture()
    assert rows(items.url, "SELECT oid FROM pg_trigger WHERE tgname LIKE 'segue%' ORDER BY 1") == triggers
    run_sql(items.url, f"DROP TRIGGER segue_{CHANGE}_update ON items")
    items.capture()
    run_sql(items.url, "UPDATE items SET n = 0 WHERE id = 2")
    assert keys(items) == {1, 2}


def test_triggers_made_beforehand_log_once_they_are_enabled(database: str, assemble: Assemble) -> None:
    run_sql(database, *ITEMS)
    change = assemble(database, "items", SHAPE, capture=False)
    change.capture(enabled=False)
    run_sql(
        administrator(database),
        "DELETE FROM items WHERE id = 1",
        "SET session_replication_role = replica",
        "TRUNCATE items",
    )
    assert change.left() == 0
    work = change.site.work
    work.execute(capture.enable_sql(change.relations, CHANGE))
    run_sql(administrator(database), "SET session_replication_role = replica", "INSERT INTO items VALUES (2)")
    assert keys(change) == {2}
    work.execute(capture.disable_sql(change.relations, CHANGE))
    run_sql(database, "DELETE FROM items")
    assert keys(change) == {2}


def test_triggers_move_with_their_table(database: str, assemble: Assemble) -> None:
    run_sql(database, *PARTED)
    change = assemble(database, "parted", "(id bigint, day int, n int)", capture=False)
    change.capture(enabled=False)
    schema = change.relations[0].goes_to
    run_sql(
        database,
        f"CREATE SCHEMA {schema}",
        *(f"ALTER TABLE {relation.place} SET SCHEMA {schema}" for relation in change.relations),
    )
    change.site.work.execute(capture.enable_sql(change.relations, CHANGE, moved=True))
    run_sql(database, f"DELETE FROM {schema}.parted WHERE id = 7")
    assert change.touched() == [(7, 7)]


@pytest.mark.parametrize("table", ["items", "parted"])
def test_nothing_is_left_of_a_capture_that_was_removed(database: str, assemble: Assemble, table: str) -> None:
    run_sql(database, *ITEMS, *PARTED)
    change = assemble(database, table, SHAPE if table == "items" else "(id bigint, day int, n int)")
    for _ in range(2):
        capture.remove(change.site, CHANGE, (), PATIENCE, change.notes.append)
        change.site.work.execute(capture.drop_log_sql(change.log))
    assert rows(database, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == []
    assert rows(database, "SELECT proname FROM pg_proc WHERE pronamespace = 'segue'::regnamespace") == []
    assert value(database, "SELECT to_regclass(%s)", str(change.log)) is None


def test_a_driver_that_lost_the_lease_captures_nothing(database: str, assemble: Assemble) -> None:
    run_sql(database, *ITEMS)
    change = assemble(database, "items", SHAPE, capture=False)
    capture.make_log(change.site, change.flow, change.log)
    capture.make_functions(change.site, change.flow, change.log)
    run_sql(database, "UPDATE segue.lease SET fence = fence + 1")
    with pytest.raises(FenceLost):
        change.capture()
    assert rows(database, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == []
