"""Every row is written exactly once, whatever the key is and whatever happens to the sessions that write."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from fix_targets import Background, Open, Run, apply, fill, rows, run_sql, session, terminate, traffic, until, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.databases.postgresql import DATABASE
from segue.errors import LockNotGranted, SegueError, SqlSyntaxError, StepFailed, TargetUnreachable
from segue.ports import BACKWARD, Observed, Pace
from segue.steps.backfill import STEP, BackfillParams

ONCE = {"n": "n + 1"}


@dataclass(frozen=True)
class Shape:
    """A table and the keys that it holds, as SQL."""

    create: str
    keys: str  # a SELECT of the key's columns
    columns: str = "id"
    table: str = "t"
    more: tuple[str, ...] = ()


SHAPES = {
    "bigint": Shape("(id bigint PRIMARY KEY, n int DEFAULT 0)", "SELECT generate_series(1, 60)"),
    "negative": Shape("(id bigint PRIMARY KEY, n int DEFAULT 0)", "SELECT generate_series(-60, 20, 2)"),
    "the ends of bigint": Shape(
        "(id bigint PRIMARY KEY, n int DEFAULT 0)",
        "SELECT unnest(array[-9223372036854775808, -9223372036854775807, 0, 1, 9223372036854775807])",
    ),
    "gaps of billions": Shape(
        "(id bigint PRIMARY KEY, n int DEFAULT 0)",
        "SELECT n * n * 3000000000::bigint FROM generate_series(-30, 30) n WHERE n >= 0",
    ),
    "text": Shape(
        "(id text PRIMARY KEY, n int DEFAULT 0)",
        "SELECT DISTINCT chr(32 + (n * 7) % 900) || (n % 5) || "
        "CASE n % 3 WHEN 0 THEN 'É ' WHEN 1 THEN '''\\' ELSE '%s' END FROM generate_series(1, 80) n UNION SELECT ''",
    ),
    "text in C": Shape(
        '(id text COLLATE "C" PRIMARY KEY, n int DEFAULT 0)',
        "SELECT DISTINCT chr(33 + (n * 31) % 200) || n FROM generate_series(1, 80) n",
    ),
    "case-insensitive": Shape(
        "(id text COLLATE insensitive PRIMARY KEY, n int DEFAULT 0)",
        "SELECT CASE n % 2 WHEN 0 THEN upper(md5(n::text)) ELSE md5(n::text) END FROM generate_series(1, 60) n",
    ),
    "bpchar": Shape("(id char(8) PRIMARY KEY, n int DEFAULT 0)", "SELECT 'k' || n FROM generate_series(1, 60) n"),
    "uuid": Shape("(id uuid PRIMARY KEY, n int DEFAULT 0)", "SELECT gen_random_uuid() FROM generate_series(1, 60)"),
    "composite": Shape(
        "(id int, name text, n int DEFAULT 0, PRIMARY KEY (id, name))",
        "SELECT n % 4, 'x' || n FROM generate_series(1, 60) n",
        "id, name",
    ),
    "composite, one long run": Shape(
        "(id int, day date, n int DEFAULT 0, PRIMARY KEY (id, day))",
        "SELECT 7, DATE '2020-02-20' + n FROM generate_series(1, 60) n",
        "id, day",
    ),
    "timestamptz": Shape(
        "(id timestamptz PRIMARY KEY, n int DEFAULT 0)",
        "SELECT TIMESTAMPTZ '2026-03-29 00:30:00.123456+01' + n * interval '13 min 0.000001 s' "
        "FROM generate_series(1, 58) n "
        "UNION ALL SELECT unnest(array['infinity', '-infinity']::timestamptz[])",
    ),
    "numeric": Shape(
        "(id numeric PRIMARY KEY, n int DEFAULT 0)",
        "SELECT (n * 1.10)::numeric FROM generate_series(-30, 30) n "
        "UNION SELECT unnest(array['NaN', 'Infinity', 1e100]::numeric[])",
    ),
    "float": Shape(
        "(id float8 PRIMARY KEY, n int DEFAULT 0)",
        "SELECT n / 3.0 FROM generate_series(-30, 30) n "
        "UNION SELECT unnest(array['NaN', 'Infinity', 1e-300]::float8[])",
    ),
    "bytea": Shape(
        "(id bytea PRIMARY KEY, n int DEFAULT 0)", "SELECT decode(md5(n::text), 'hex') FROM generate_series(1, 60) n"
    ),
    "enum": Shape("(id mood PRIMARY KEY, n int DEFAULT 0)", "SELECT unnest(enum_range(NULL::mood))"),
    "interval": Shape(
        "(id interval PRIMARY KEY, n int DEFAULT 0)", "SELECT n * interval '1 day 3 h' FROM generate_series(-20, 20) n"
    ),
    "inet": Shape(
        "(id inet PRIMARY KEY, n int DEFAULT 0)", "SELECT inet '10.0.0.0/24' + n * 77 FROM generate_series(0, 40) n"
    ),
    "boolean": Shape("(id boolean PRIMARY KEY, n int DEFAULT 0)", "SELECT unnest(array[true, false])"),
    "quoted names": Shape(
        '("Der ""Schlüssel"" %s" int PRIMARY KEY, n int DEFAULT 0)',
        "SELECT generate_series(1, 40)",
        '"Der ""Schlüssel"" %s"',
        '"Tabelle ""mit"" %s; {} ."',
    ),
    "unique instead of primary": Shape(
        "(x int, id int NOT NULL UNIQUE, n int DEFAULT 0)", "SELECT generate_series(1, 40)"
    ),
    "descending unique": Shape(
        "(id int NOT NULL, n int DEFAULT 0)",
        "SELECT generate_series(1, 40)",
        more=("CREATE UNIQUE INDEX ON t (id DESC)",),
    ),
    "partitioned": Shape(
        "(id int, day int, n int DEFAULT 0, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "SELECT n, n % 5 FROM generate_series(1, 60) n",
        "id, day",
        more=(
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (3)",
            "CREATE TABLE t2 PARTITION OF t DEFAULT",
        ),
    ),
    "empty": Shape("(id int PRIMARY KEY, n int DEFAULT 0)", "SELECT 1 WHERE false"),
    "one row": Shape("(id int PRIMARY KEY, n int DEFAULT 0)", "SELECT 1"),
}


def make(url: str, shape: Shape) -> None:
    run_sql(
        url,
        "CREATE TYPE mood AS ENUM ('so', 'glad', 'and', 'sad', 'a', 'b', 'z', 'c')",
        f"CREATE TABLE {shape.table} {shape.create}",
        *shape.more,
        f"INSERT INTO {shape.table} ({shape.columns}) {shape.keys}",
    )


def counted(url: str, table: str = "t", column: str = "n") -> dict[Any, int]:
    """Return how many rows were written how often."""
    return dict(rows(url, f"SELECT {column}, count(*) FROM {table} GROUP BY 1"))


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "case-insensitive"])
def test_every_row_is_written_once_whatever_the_key(database: str, open_target: Open, name: str) -> None:
    shape = SHAPES[name]
    make(database, shape)
    total = value(database, f"SELECT count(*) FROM {shape.table}")
    target = open_target(database)
    run = fill(target, shape.table, set=ONCE, batch={"size": 7, "max": 7}, workers=3)
    assert counted(database, shape.table) == ({1: total} if total else {})
    assert run.record.rows == total


@pytest.mark.parametrize("name", ["bigint", "text", "composite", "uuid", "partitioned", "case-insensitive"])
def test_the_same_on_an_older_server(debian_database: str, open_target: Open, name: str) -> None:
    # The embedded server is built without ICU.
    run_sql(
        debian_database,
        "CREATE COLLATION insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    )
    make(debian_database, SHAPES[name])
    total = value(debian_database, "SELECT count(*) FROM t")
    fill(open_target(debian_database), "t", set=ONCE, batch={"size": 7, "max": 7}, workers=2)
    assert counted(debian_database) == {1: total}


class Storm:
    """Ends sessions of the workers at random moments."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def _go(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(self._random.uniform(0.002, 0.08)):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'segue:%' "
                    "AND datname = current_database() ORDER BY random() LIMIT 1"
                )

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def fill_in_a_storm(target: Any, url: str, seed: int, table: str, **fields: Any) -> int:
    """Run a backfill while sessions die, restarting it as the executor does; return how often."""
    storm = Storm(url, seed)
    try:
        for restarts in range(6):
            try:
                fill(target, table, **fields)
            except TargetUnreachable:
                _recover(target)
            else:
                return restarts
    finally:
        storm.stop()
    _recover(target)
    fill(target, table, **fields)
    return restarts


def _recover(target: Any) -> None:
    for _ in range(50):
        try:
            return target.recover(10)
        except (SegueError, psycopg.Error):
            continue
    raise AssertionError("the target is not reached again")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["bigint", "text", "composite", "partitioned"])
def test_every_row_is_written_once_while_sessions_die(database: str, open_target: Open, name: str, seed: int) -> None:
    make(database, SHAPES[name])
    total = value(database, "SELECT count(*) FROM t")
    fields = {"set": ONCE, "batch": {"size": 2, "max": 3}, "workers": 3, "pause": 0.003}
    fill_in_a_storm(open_target(database), database, seed, "t", **fields)
    assert counted(database) == {1: total}


@pytest.mark.parametrize("seed", range(2))
def test_every_row_is_written_once_in_lanes_while_sessions_die(database: str, open_target: Open, seed: int) -> None:
    keys = (
        "SELECT 'k' || (n * 7919) % 2000 FROM generate_series(1, 1999) n" if seed else "SELECT generate_series(1, 2000)"
    )
    make(database, Shape(f"(id {'text' if seed else 'bigint'} PRIMARY KEY, n int DEFAULT 0)", keys))
    total = value(database, "SELECT count(*) FROM t")
    fields = {"set": ONCE, "batch": {"size": 16, "max": 24}, "workers": 3, "pause": 0.001}
    fill_in_a_storm(open_target(database), database, seed, "t", **fields)
    assert value(database, "SELECT max(lanes) FROM segue.chunk") > 1
    assert counted(database) == {1: total}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_larger_table_in_a_longer_storm(database: str, open_target: Open, seed: int) -> None:
    run_sql(
        database,
        "CREATE TABLE t (id bigint PRIMARY KEY, n int DEFAULT 0)",
        "INSERT INTO t SELECT generate_series(1, 20000)",
        "ANALYZE t",
    )
    fields = {"set": ONCE, "batch": {"size": 150, "max": 400}, "workers": 4, "pause": 0.002}
    restarts = fill_in_a_storm(open_target(database), database, seed, "t", **fields)
    assert restarts
    assert counted(database) == {1: 20000}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(
        st.tuples(
            st.integers(-3, 3) | st.integers(-(2**31), 2**31 - 1),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6),
        ),
        max_size=60,
    ),
    size=st.integers(1, 20),
    workers=st.integers(1, 4),
)
def test_every_key_is_written_once(
    database: str, open_target: Open, keys: set[tuple[int, str]], size: int, workers: int
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        # Once there is a schema "segue", it is where the superuser of that name makes tables.
        connection.execute("SET search_path = public")
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t (a int, b text, n int DEFAULT 0, PRIMARY KEY (a, b))")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO t (a, b) VALUES (%s, %s)", list(keys))
    target = open_target(database)
    try:
        fill(target, "t", set=ONCE, batch={"size": size, "max": size}, workers=workers)
    finally:
        target.close()
    assert counted(database, "public.t") == ({1: len(keys)} if keys else {})


# -- what the expressions may say


@pytest.fixture
def people(database: str) -> str:
    """Give a database with a hundred people."""
    run_sql(
        database,
        "CREATE TABLE people (id int PRIMARY KEY, name text, said text, n int DEFAULT 0)",
        "INSERT INTO people SELECT g, 'p' || g FROM generate_series(1, 100) g",
    )
    return database


SMALL = {"size": 10, "max": 10}


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("'100 %s %% ' || name", "100 %s %% p7"),
        ("'a;b' || name -- the end", "a;bp7"),
        ("name /* ; */ || '--'", "p7--"),
        ("people.name || 'x'", "p7x"),
        ("(SELECT p.name FROM people p WHERE p.id = people.id)", "p7"),
        ("$$it's$$ || name", "it'sp7"),
        ("E'\\\\' || name", "\\p7"),
        ("DEFAULT", None),
        ("CASE WHEN id = 7 THEN '{}' END", "{}"),
    ],
)
def test_an_expression_is_taken_as_it_is(people: str, open_target: Open, expression: str, wanted: str | None) -> None:
    fill(open_target(people), "people", set={"said": expression, "n": "n + 1"}, where="id <> 8", batch=SMALL)
    assert value(people, "SELECT said FROM people WHERE id = 7") == wanted
    assert rows(people, "SELECT n, count(*) FROM people GROUP BY n ORDER BY n") == [(0, 1), (1, 99)]


@pytest.mark.parametrize(
    "where", ["id > 50 -- half", "id > 50 OR id = 1 /* % ; */", "people.id > 50", "name LIKE 'p%' AND id > 50"]
)
def test_a_filter_never_swallows_the_range(people: str, open_target: Open, where: str) -> None:
    fill(open_target(people), "people", set=ONCE, where=where, batch=SMALL)
    assert set(counted(people, "people")) == {0, 1}
    assert counted(people, "people")[1] in (50, 51)


@pytest.mark.parametrize(
    "fields",
    [
        {"set": {"n": "n + 1, said = 'x'"}},
        {"set": {"n": "1), said = ('x'"}},
        {"set": {"n": "n + 1 WHERE true --"}},
        {"set": {"n": "n + 1; DELETE FROM people; SELECT 1"}},
        {"set": {"n": "n + 1 /* "}},
        {"set": ONCE, "where": "true) OR (true"},
        {"set": ONCE, "where": "true; DELETE FROM people"},
        {"set": ONCE, "where": ""},
    ],
)
def test_what_is_more_than_an_expression_is_refused(people: str, open_target: Open, fields: dict[str, Any]) -> None:
    params = BackfillParams(name="fill", table="people", batch=SMALL, **fields)
    try:
        refused = bool(STEP.problems(params, DATABASE))
    except SqlSyntaxError:
        refused = True
    assert refused
    assert counted(people, "people") == {0: 100}


def test_a_column_that_is_written_twice_or_not_there_is_refused(people: str, open_target: Open) -> None:
    target = open_target(people)
    for column, said in (("nick", "no column"), ("id", "part of the key")):
        with pytest.raises(StepFailed, match=said):
            fill(target, "people", f"s-{column}", set={column: "1"})
    with pytest.raises(StepFailed, match=r"of type integer"):
        fill(target, "people", "wrong", set={"n": "name || 1"})


def test_rows_that_the_expression_cannot_take_stop_the_work_there(people: str, open_target: Open) -> None:
    run_sql(people, "UPDATE people SET name = 'zero' WHERE id = 55")
    target = open_target(people)
    with pytest.raises(StepFailed, match="invalid input syntax"):
        fill(target, "people", set={"n": "substr(name, 2)::int"}, batch=SMALL)
    assert value(people, "SELECT count(*) FROM people WHERE n > 0") in range(40, 56)
    run_sql(people, "UPDATE people SET name = 'p55' WHERE id = 55")
    fill(target, "people", set={"n": "substr(name, 2)::int"}, batch=SMALL)
    assert value(people, "SELECT bool_and(n = id) FROM people")


def test_a_table_without_a_key_is_refused(database: str, open_target: Open) -> None:
    run_sql(
        database,
        "CREATE TABLE t (id int UNIQUE, n int, m int NOT NULL)",
        "CREATE UNIQUE INDEX ON t (m) WHERE n > 0",
        "CREATE UNIQUE INDEX ON t ((m + 1))",
        "CREATE VIEW v AS SELECT * FROM t",
    )
    target = open_target(database)
    with pytest.raises(StepFailed, match="no primary key"):
        fill(target, "t", set=ONCE)
    for number, name in enumerate(("v", "nowhere", "wrong name", '"')):
        with pytest.raises((StepFailed, SqlSyntaxError)):
            fill(target, name, f"s{number}", set=ONCE)


def test_a_key_that_was_changed_meanwhile_is_noticed(people: str, open_target: Open) -> None:
    target = open_target(people)
    run = _stopped_after(target, 3, BackfillParams(name="fill", table="people", set=ONCE, batch=SMALL))
    assert sum(batch.state == "done" for batch in run.record.batches.values()) >= 3
    run_sql(people, "ALTER TABLE people DROP CONSTRAINT people_pkey", "ALTER TABLE people ADD PRIMARY KEY (name)")
    with pytest.raises(StepFailed, match="key"):
        fill(target, "people", set=ONCE, batch=SMALL)


def _stopped_after(target: Any, chunks: int, params: BackfillParams, direction: str = "forward") -> Run:
    """Run a backfill and stop it at a boundary once it has written some chunks."""

    class Stop(Exception):
        pass

    run = Run(target, params.model_copy(update={"pause": 0.05}), direction=direction)

    def boundary() -> None:
        if sum(batch.state == "done" for batch in run.record.batches.values()) >= chunks:
            raise Stop

    run.boundaries = boundary
    with pytest.raises(Stop):
        STEP.run(run) if direction == "forward" else STEP.undo(run)
    return run


def test_rows_that_come_behind_the_end_are_left_to_the_application(people: str, open_target: Open) -> None:
    target = open_target(people)
    _stopped_after(target, 2, BackfillParams(name="fill", table="people", set=ONCE, batch=SMALL))
    run_sql(
        people,
        "INSERT INTO people SELECT g, 'late' FROM generate_series(101, 200) g",
        "DELETE FROM people WHERE id IN (15, 100)",
    )
    fill(target, "people", set=ONCE, batch=SMALL)
    assert counted(people, "people") == {1: 98, 0: 100}


def test_an_undo_goes_where_the_work_has_been(people: str, open_target: Open) -> None:
    target = open_target(people)
    params = BackfillParams(
        name="fill", table="people", set=ONCE, batch=SMALL, reverse={"set": {"n": "n - 1"}}, workers=2
    )
    _stopped_after(target, 4, params)
    assert set(counted(people, "people")) == {0, 1}
    _stopped_after(target, 1, params, BACKWARD)
    undo = Run(target, params, direction=BACKWARD)
    STEP.undo(undo)
    assert counted(people, "people") == {0: 100}
    STEP.undo(undo)
    assert counted(people, "people") == {0: 100}


def test_the_walk_follows_the_partitions_of_another_schema(database: str, open_target: Open) -> None:
    run_sql(
        database,
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.t (id int PRIMARY KEY, n int DEFAULT 0) PARTITION BY HASH (id)",
        *(f"CREATE TABLE shop.t{r} PARTITION OF shop.t FOR VALUES WITH (MODULUS 3, REMAINDER {r})" for r in range(3)),
        "INSERT INTO shop.t SELECT generate_series(1, 100)",
    )
    fill(open_target(database, schema="shop"), "t", set=ONCE, batch=SMALL)
    assert counted(database, "shop.t") == {1: 100}


# -- the application beside it


def test_transactions_in_conflicting_order_meet_no_deadlock(database: str, open_target: Open) -> None:
    run_sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, m int DEFAULT 0)",
        "INSERT INTO t SELECT generate_series(1, 30000)",
    )
    target = open_target(database)

    def backwards(connection: psycopg.Connection[Any], number: int) -> None:
        # Against the order of the walk, with time to think between the rows. Each session has rows of its own.
        mine = connection.info.backend_pid % 4
        with connection.transaction():
            for row in range(30000 - mine, 0, -3000):
                connection.execute("UPDATE t SET m = m + 1 WHERE id = %s", [row])

    with traffic() as application:
        for _ in range(3):
            application.add(database, backwards)
        fill(target, "t", set=ONCE, batch={"size": 20000, "target": 0.6, "max": 50000}, workers=2)
    deadlocks = [error for error in application.errors if isinstance(error, psycopg.errors.DeadlockDetected)]
    # Sessions of the application may share rows, but take them in one order.
    assert deadlocks == []
    assert application.errors == []
    assert counted(database) == {1: 30000}


@pytest.mark.parametrize("patient", [False, True])
def test_of_two_that_wait_for_each_other_the_chunk_gives_way(
    people: str, open_target: Open, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    """The application holds row 90 and wants row 1, the chunk holds row 1 and wants row 90.

    A chunk that waited as long as it likes would make the application the victim: this test would notice.
    """
    if patient:
        monkeypatch.setattr("segue.databases.postgresql.rows.CHUNK_OF_DEADLOCK_TIMEOUT", 10)
        monkeypatch.setattr("segue.databases.postgresql.rows.ROW_WAIT_SECONDS", 5)
    run_sql(
        people,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE UPDATE OF n ON people FOR EACH ROW WHEN (new.id = 50) EXECUTE FUNCTION slow()",
    )
    target = open_target(people)
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    with psycopg.connect(people) as application:
        application.execute("UPDATE people SET said = 'mine' WHERE id = 90")
        running = Background(lambda: fill(target, "people", set=ONCE, batch={"size": 1000}))
        until(lambda: value(people, asleep))
        wants = "UPDATE people SET said = 'mine' WHERE id = 1"
        if patient:
            with pytest.raises(psycopg.errors.DeadlockDetected):
                application.execute(wants)
        else:
            application.execute(wants)
        application.rollback() if patient else application.commit()
        running.result()
    assert counted(people, "people") == {1: 100}


def test_a_row_that_the_application_holds_is_waited_for_politely(people: str, open_target: Open) -> None:
    target = open_target(people)
    with session(people, "UPDATE people SET said = 'held' WHERE id = 42") as application:
        running = Background(lambda: fill(target, "people", set=ONCE, batch=SMALL, workers=2))
        until(lambda: value(people, "SELECT count(*) FROM people WHERE n = 1") >= 90)
        # The application takes a row that a chunk may hold, and does not wait for it as long as a deadlock check.
        application.execute("SET lock_timeout = '900ms'")
        for row in (41, 43, 1, 100):
            application.execute("UPDATE people SET said = 'held' WHERE id = %s", [row])
        application.commit()
        running.result()
    assert counted(people, "people") == {1: 100}
    assert value(people, "SELECT count(*) FROM people WHERE said = 'held'") == 5


def test_who_waits_for_a_row_keeps_no_other_batch(
    people: str, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.rows.labour.Labourer._most", lambda self: 8)
    run = Run(open_target(people), BackfillParams(name="fill", table="people", set=ONCE, batch=SMALL, workers=2))
    # Several lie ready when the work begins, so that who comes first claims more than the one that it waits in.
    run.paced = lambda: Pace(duty=0)
    with session(people, "UPDATE people SET said = 'held' WHERE id = 1"):
        running = Background(lambda: STEP.run(run))
        until(lambda: len(run.record.batches) > 1)
        run.paced = Pace
        until(lambda: value(people, "SELECT count(*) FROM people WHERE n = 1") >= 90)
    running.result()
    assert counted(people, "people") == {1: 100}


def test_a_row_that_stays_held_is_given_up_at_the_steps_time(people: str, open_target: Open) -> None:
    target = open_target(people)
    with session(people, "UPDATE people SET said = 'held' WHERE id = 42"), pytest.raises(LockNotGranted):
        fill(target, "people", set=ONCE, batch=SMALL, work=1.0)
    fill(target, "people", set=ONCE, batch=SMALL)
    assert counted(people, "people") == {1: 100}


def test_chunks_that_take_too_long_are_made_smaller(people: str, open_target: Open) -> None:
    run_sql(
        people,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    run = fill(open_target(people), "people", set=ONCE, batch={"size": 1000})
    assert counted(people, "people") == {1: 100}
    assert max(batch.slowest for batch in run.record.batches.values()) < 1000


def test_a_row_that_can_never_be_written_in_time_is_said(people: str, open_target: Open) -> None:
    run_sql(
        people,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(5); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE UPDATE ON people FOR EACH ROW WHEN (new.id = 3) EXECUTE FUNCTION slow()",
    )
    with pytest.raises((StepFailed, LockNotGranted)):
        fill(open_target(people), "people", set=ONCE, batch=SMALL, work=4)


def test_row_security_is_never_silently_obeyed(ordinary: str, open_target: Open) -> None:
    run_sql(
        ordinary,
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)",
        "INSERT INTO t SELECT generate_series(1, 10)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON t USING (id < 3)",
    )
    target = open_target(ordinary)
    fill(target, "t", set=ONCE)
    assert counted(ordinary) == {1: 10}
    apply(target, "ALTER TABLE t FORCE ROW LEVEL SECURITY")
    with pytest.raises(SegueError, match="row-level security"):
        fill(target, "t", "again", set=ONCE)


def test_the_progress_stands_in_the_target(people: str, open_target: Open) -> None:
    target = open_target(people)
    fill(target, "people", set=ONCE, batch=SMALL, workers=2)
    assert value(people, "SELECT sum(rows) FROM segue.chunk") == 100
    assert terminate(people)
    target.recover(10)
    assert STEP.observe(Run(target, BackfillParams(name="fill", table="people", set=ONCE))) is Observed.DONE
