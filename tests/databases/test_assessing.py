"""What a plan is said to meet on a target is what it meets there: tables, locks, rows, sessions, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from fix_servers import fresh_databases
from fix_standbys import Server
from fix_targets import make_role, run_sql, session, traffic, value
from psycopg.conninfo import conninfo_to_dict

from segue.databases.postgresql import DATABASE, assessing, costing
from segue.embedded import Cluster
from segue.model.facts import StatementFacts, TargetFacts
from segue.model.impact import Duration, Lock

SHOP = (
    "CREATE DOMAIN mail AS text CHECK (value LIKE '%@%')",
    "CREATE TABLE customers (id bigint PRIMARY KEY, email mail, name text NOT NULL, note varchar(20), "
    "price numeric(10,2), CONSTRAINT has_note CHECK (note IS NOT NULL AND note <> ''))",
    "CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint CONSTRAINT of_customer REFERENCES customers, "
    "placed timestamp)",
    "CREATE INDEX by_time ON orders (placed)",
    "CREATE TABLE days (at date, n int) PARTITION BY RANGE (at)",
    "CREATE TABLE day_one PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')",
    "CREATE TABLE day_rest PARTITION OF days DEFAULT",
    "CREATE VIEW names AS SELECT id, name FROM customers",
    "CREATE VIEW named AS SELECT id FROM names",
    "CREATE MATERIALIZED VIEW tally AS SELECT customer, count(*) FROM orders GROUP BY 1",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER on_name BEFORE UPDATE OF name ON customers FOR EACH ROW EXECUTE FUNCTION f()",
    "INSERT INTO customers SELECT g, 'a@b', 'n', 'x', 1 FROM generate_series(1, 1000) g",
    "INSERT INTO orders SELECT g, g, now() FROM generate_series(1, 1000) g",
    "INSERT INTO days SELECT date '2026-01-01' + g % 2, g FROM generate_series(1, 1000) g",
    "ANALYZE",
)


MOST = "ACCESS EXCLUSIVE"
NEW_DAY = "CREATE TABLE day_two PARTITION OF days FOR VALUES FROM ('2026-02-01') TO ('2026-02-02')"


def look(url: str, *sqls: str, schema: str = "public") -> TargetFacts:
    """Assess statements, each as a step of one plan."""
    judged = iter(DATABASE.statements(";\n".join(sqls)))
    return DATABASE.assess(url, schema=schema, steps=[[next(judged)] for _ in sqls])


def one(url: str, sql: str) -> StatementFacts:
    """Assess a plan of one statement."""
    (((found,),)) = look(url, sql).steps
    return found


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for a moment only: what most tests ask about does not depend on it."""
    monkeypatch.setattr(costing, "HALF", 0.01)
    monkeypatch.setattr(assessing, "RATES_SECONDS", 0.0)


def make_shop(server: Cluster) -> Iterator[str]:
    for make in fresh_databases(server):
        url = make()
        run_sql(url, *SHOP[:-1])
        run_sql(url, SHOP[-1])
        yield url


@pytest.fixture(scope="module")
def shop(server: Cluster) -> Iterator[str]:
    """Give a shop that the tests of this module leave as it is."""
    yield from make_shop(server)


@pytest.fixture(scope="module", params=["server", "debian_server"])
def any_shop(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give such a shop on each server in turn."""
    yield from make_shop(request.getfixturevalue(request.param))


@pytest.mark.parametrize(
    ("sql", "touched"),
    [
        ("ALTER TABLE customers ADD COLUMN x int", {}),
        ("ALTER TABLE days ADD COLUMN x int", {"day_one": MOST, "day_rest": MOST}),
        ("ALTER TABLE orders DROP CONSTRAINT of_customer", {"customers": MOST}),
        ("ALTER TABLE orders DROP COLUMN customer CASCADE", {"customers": MOST, "tally": MOST}),
        ("ALTER TABLE customers ALTER id TYPE numeric", {"orders": MOST}),
        ("ALTER TABLE orders VALIDATE CONSTRAINT of_customer", {}),
        ("DROP TABLE orders CASCADE", {"customers": MOST, "tally": MOST}),
        ("DROP TABLE day_one", {"days": MOST, "day_rest": MOST}),
        ("TRUNCATE customers CASCADE", {"orders": MOST}),
        (NEW_DAY, {"day_rest": MOST}),
        ("ALTER TABLE days DETACH PARTITION day_one", {"day_rest": MOST}),
        ("CREATE INDEX ON days (n)", {"day_one": "SHARE", "day_rest": "SHARE"}),
        ("ALTER DOMAIN mail ADD CHECK (length(value) > 2)", {"customers": "SHARE"}),
        ("REFRESH MATERIALIZED VIEW tally", {"orders": "ACCESS SHARE"}),
        ("DROP INDEX by_time", {"orders": MOST}),
        ("DROP VIEW names CASCADE", {"named": MOST}),
        ("DELETE FROM customers", {"orders": "ROW SHARE"}),
        ("UPDATE orders SET customer = 1", {"customers": "ROW SHARE"}),
        ("UPDATE orders SET placed = now()", {}),
    ],
)
def test_tables_that_hang_on_a_named_one_are_found_with_their_locks(
    shop: str, sql: str, touched: dict[str, str]
) -> None:
    found = {each.table: each.lock.value for each in one(shop, sql).touched if each.why}
    assert found == touched


@contextmanager
def as_role(url: str) -> Iterator[str]:
    """Give the URL of a role that may do nothing but connect."""
    plain = make_role(url)
    yield plain
    run_sql(url, f"DROP ROLE {conninfo_to_dict(plain)['user']}")


def held(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the strongest lock that a transaction holds on each table and view."""
    rows = connection.execute(
        "SELECT relation::regclass::text, mode FROM pg_locks l JOIN pg_class c ON c.oid = relation "
        "WHERE pid = pg_backend_pid() AND relkind IN ('r', 'p', 'm', 'v') AND relnamespace = 'public'::regnamespace"
    ).fetchall()
    ranks = {"".join(word.capitalize() for word in lock.value.lower().split()) + "Lock": lock for lock in Lock}
    found: dict[str, Lock] = {}
    for table, mode in rows:
        found[table] = max(found.get(table, Lock.NONE), ranks[mode], key=lambda lock: lock.rank)
    return {table: lock.value for table, lock in found.items()}


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE days ADD COLUMN x int",
        "ALTER TABLE orders DROP CONSTRAINT of_customer",
        "DROP TABLE orders CASCADE",
        "DROP TABLE day_one",
        "TRUNCATE customers CASCADE",
        NEW_DAY,
        "ALTER TABLE days DETACH PARTITION day_one",
        "CREATE INDEX ON days (n)",
        "ALTER DOMAIN mail ADD CHECK (length(value) > 2)",
        "DROP INDEX by_time",
        "ALTER TABLE customers DROP COLUMN note",
    ],
)
def test_the_strong_locks_that_are_said_are_those_that_the_server_takes(any_shop: str, sql: str) -> None:
    strong = {lock.value for lock in Lock if lock.rank >= Lock.SHARE.rank}
    said = {each.table: each.lock.value for each in one(any_shop, sql).touched if each.lock.value in strong}
    with psycopg.connect(any_shop, autocommit=False) as connection:
        connection.execute(b"SET search_path = public")
        connection.execute(sql.encode())
        # What is dropped has no name any more.
        taken = {name: lock for name, lock in held(connection).items() if lock in strong and not name.isdigit()}
        connection.rollback()
    assert {name: lock for name, lock in taken.items() if name != "day_two"}.items() <= said.items()


@pytest.mark.parametrize(
    ("sql", "duration", "note"),
    [
        ("ALTER TABLE customers ALTER name SET NOT NULL", Duration.INSTANT, "is NOT NULL already"),
        ("ALTER TABLE customers ALTER note SET NOT NULL", Duration.INSTANT, "proves that"),
        ("ALTER TABLE customers ALTER price SET NOT NULL", Duration.SCAN, ""),
        ("ALTER TABLE customers ALTER note TYPE varchar(30)", Duration.INSTANT, "only wider"),
        ("ALTER TABLE customers ALTER note TYPE text", Duration.INSTANT, "the same form"),
        ("ALTER TABLE customers ALTER note TYPE varchar(10)", Duration.REWRITE, "fitted to the new length or scale"),
        ("ALTER TABLE customers ALTER price TYPE numeric(12,2)", Duration.INSTANT, "only wider"),
        ("ALTER TABLE customers ALTER price TYPE numeric(12,3)", Duration.REWRITE, "fitted to the new length or scale"),
        ("ALTER TABLE orders ALTER placed TYPE timestamptz", Duration.INDEX_BUILD, "UTC"),
        ("ALTER TABLE orders ALTER customer TYPE numeric", Duration.REWRITE, "another form"),
        ("ALTER TABLE orders ALTER placed TYPE text USING placed::text", Duration.REWRITE, ""),
        ("ALTER TABLE orders ADD COLUMN contact mail", Duration.REWRITE, "domain"),
        ("ALTER TABLE orders VALIDATE CONSTRAINT of_customer", Duration.INSTANT, "valid already"),
    ],
)
def test_the_catalogue_tells_whether_a_table_is_scanned_or_rewritten(
    shop: str, sql: str, duration: Duration, note: str
) -> None:
    found = one(shop, sql)
    assert found.statement.duration is duration
    assert note in " ".join(found.statement.notes)
    assert "the text does not" not in " ".join(found.statement.notes)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE customers ALTER note TYPE varchar(30)",
        "ALTER TABLE customers ALTER note TYPE text",
        "ALTER TABLE customers ALTER note TYPE varchar(10)",
        "ALTER TABLE customers ALTER price TYPE numeric(12,2)",
        "ALTER TABLE customers ALTER price TYPE numeric(12,3)",
        "ALTER TABLE orders ALTER placed TYPE timestamptz",
        "ALTER TABLE orders ADD COLUMN contact mail",
    ],
)
def test_a_rewrite_is_said_where_the_server_rewrites(any_shop: str, sql: str) -> None:
    said = one(any_shop, sql).statement.duration is Duration.REWRITE
    table = sql.split()[2]
    with psycopg.connect(any_shop) as connection:
        connection.execute(b"SET search_path = public; SET TimeZone = 'UTC'")
        before = connection.execute("SELECT pg_relation_filenode(%s)", [table]).fetchone()
        connection.execute(sql.encode())
        after = connection.execute("SELECT pg_relation_filenode(%s)", [table]).fetchone()
        connection.rollback()
    assert (before != after) is said


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("ALTER TABLE customers DROP COLUMN name", "used by view names"),
        ("ALTER TABLE customers ALTER name TYPE varchar(5)", "used by view names"),
        ("DROP TABLE customers", '"of_customer" of orders'),
        ("TRUNCATE customers", "orders refers to customers"),
        ("ALTER TABLE customers ADD COLUMN must int NOT NULL", "has rows (about 1,000)"),
    ],
)
def test_what_the_server_would_refuse_is_said_beforehand(shop: str, sql: str, why: str) -> None:
    assert why in " ".join(one(shop, sql).fails)
    with pytest.raises(psycopg.Error):
        run_sql(shop, sql)


def test_rows_and_bytes_are_those_of_the_table(any_database: str) -> None:
    run_sql(any_database, "CREATE TABLE t (id int PRIMARY KEY, n int)")
    run_sql(any_database, "INSERT INTO t SELECT g, 1 FROM generate_series(1, 30000) g")
    run_sql(any_database, "VACUUM ANALYZE t")
    facts = look(any_database, "ALTER TABLE t ALTER n SET NOT NULL")
    table = facts.tables["t"]
    assert table.rows == 30_000
    assert table.heap_bytes == value(any_database, "SELECT pg_relation_size('t')")
    assert table.index_bytes == value(any_database, "SELECT pg_indexes_size('t')")
    assert (facts.steps[0][0].rows, facts.steps[0][0].bytes) == (30_000, table.heap_bytes)
    assert table.stale is None


def test_numbers_that_are_old_are_scaled_and_said_to_be_old(any_database: str) -> None:
    run_sql(
        any_database,
        "CREATE TABLE t (n int)",
        "ALTER TABLE t SET (autovacuum_enabled = off)",
        "INSERT INTO t SELECT generate_series(1, 20000)",
        "ANALYZE t",
        "INSERT INTO t SELECT generate_series(1, 180000)",
    )
    table = look(any_database, "ALTER TABLE t ADD COLUMN m int").tables["t"]
    assert table.rows == pytest.approx(200_000, rel=0.02)
    run_sql(any_database, "CREATE TABLE u AS SELECT g FROM generate_series(1, 50000) g")
    table = look(any_database, "ALTER TABLE u ADD COLUMN m int").tables["u"]
    assert "never analysed" in str(table.stale)


def test_partitions_count_together(shop: str) -> None:
    facts = look(shop, "ALTER TABLE days ALTER n SET NOT NULL")
    assert (facts.tables["days"].rows, facts.tables["days"].partitions) == (1000, 2)
    assert facts.steps[0][0].rows == 1000


def test_a_table_that_the_plan_makes_is_empty(shop: str) -> None:
    facts = look(
        shop,
        "CREATE TABLE fresh (id int PRIMARY KEY, a int)",
        "CREATE INDEX fresh_a ON fresh (a)",
        "UPDATE fresh SET a = 1",
        "ALTER TABLE orders RENAME TO bought",
        "ALTER TABLE bought ALTER placed SET NOT NULL",
        "ALTER TABLE nowhere ADD COLUMN x int",
    )
    _, index, update, _, renamed, nowhere = (step[0] for step in facts.steps)
    assert (index.rows, index.seconds is not None, update.rows) == (0, True, 0)
    assert renamed.rows == 1000
    assert nowhere.seconds is None
    assert any("nowhere: there is no such table" in words for words in facts.unknown)


def test_triggers_that_fire_are_named(shop: str) -> None:
    assert one(shop, "UPDATE customers SET name = 'x'").triggers == ("on_name on customers",)
    assert one(shop, "UPDATE customers SET price = 1").triggers == ()


def test_sessions_in_the_way_are_named(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assessing, "PASSING", 0.0)
    with session(shop, "SET application_name = 'report'", "SELECT 'by the month' FROM orders") as reader:
        change = one(shop, "ALTER TABLE orders ADD COLUMN x int")
        index = one(shop, "CREATE INDEX CONCURRENTLY i ON customers (price)")
        plain = one(shop, "CREATE INDEX i ON orders (placed)")
        assert [holder.pid for holder in change.waits_for] == [reader.info.backend_pid]
        (holder,) = change.waits_for
        assert (holder.application, holder.state) == ("report", "idle in transaction")
        assert (holder.lock, holder.table) == ("ACCESS SHARE", "orders")
        assert "by the month" in holder.query
        # A concurrent build waits for every transaction that is open, whatever it reads.
        assert [holder.pid for holder in index.waits_for] == [reader.info.backend_pid]
        assert plain.waits_for == ()
    assert one(shop, "ALTER TABLE orders ADD COLUMN x int").waits_for == ()


def test_what_belongs_to_another_role_is_named_by_its_process(shop: str) -> None:
    with as_role(shop) as ordinary, session(shop, "SELECT 1 FROM orders") as reader:
        (holder,) = one(ordinary, "ALTER TABLE orders ADD COLUMN x int").waits_for
        assert (holder.pid, holder.seconds, holder.query) == (reader.info.backend_pid, None, "")


def test_a_locked_table_is_not_waited_for(shop: str) -> None:
    # It would never end, were the lock waited for.
    with session(shop, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"):
        facts = look(shop, "ALTER TABLE orders ALTER placed SET NOT NULL", "UPDATE orders SET placed = now()")
    assert facts.tables["orders"].rows == 1000
    assert "reading" in facts.speeds.assumed
    assert any("present sizes" in words for words in facts.unknown)


def test_nothing_is_left_behind_and_nothing_needed(shop: str) -> None:
    with as_role(shop) as plain:
        before = value(shop, "SELECT count(*) FROM pg_class")
        facts = look(plain, "ALTER TABLE orders ADD COLUMN x int")
        assert facts.tables["orders"].rows == 1000
        assert facts.speeds.assumed == ("reading",)  # it may not read the table
        assert value(shop, "SELECT count(*) FROM pg_class") == before


def test_names_are_looked_up_in_the_plans_schema(any_database: str) -> None:
    run_sql(
        any_database,
        'CREATE SCHEMA "My Shop"',
        'CREATE TABLE "My Shop"."Order" (id int)',
        'INSERT INTO "My Shop"."Order" SELECT generate_series(1, 50)',
        'ANALYZE "My Shop"."Order"',
    )
    facts = look(any_database, 'ALTER TABLE "Order" ALTER id SET NOT NULL', schema="My Shop")
    assert facts.tables['"Order"'].rows == 50


# -- how long


def test_estimates_grow_with_the_table(any_database: str) -> None:
    run_sql(
        any_database,
        "CREATE TABLE a (id int, s text)",
        "CREATE TABLE b (id int, s text)",
        "INSERT INTO a SELECT g, repeat('x', 60) FROM generate_series(1, 15000) g",
        "INSERT INTO b SELECT g, repeat('x', 60) FROM generate_series(1, 150000) g",
        "ANALYZE",
    )
    # In one look, so that both are told with the same measured speed.
    works = ("ALTER TABLE {} ALTER s SET NOT NULL", "CREATE INDEX ON {} (id)", "ALTER TABLE {} ALTER id TYPE bigint")
    facts = look(any_database, *(work.format(table) for work in works for table in ("a", "b")))
    seconds = [(step[0].seconds or 0.0) - facts.speeds.round_trip for step in facts.steps]
    for small, large in list(pairwise(seconds))[::2]:
        assert large / small == pytest.approx(10, rel=0.1)


def test_estimates_are_of_the_right_magnitude(debian_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    run_sql(
        debian_database,
        "CREATE TABLE t (id int PRIMARY KEY, n int, s text)",
        "INSERT INTO t SELECT g, (g::bigint * 7919 % 100000), md5(g::text) FROM generate_series(1, 150000) g",
        "ALTER TABLE t ADD CONSTRAINT positive CHECK (n >= 0) NOT VALID",
        "ANALYZE t",
    )
    works = (
        "ALTER TABLE t VALIDATE CONSTRAINT positive",
        "CREATE INDEX t_n ON t (n)",
        "CREATE INDEX t_s ON t (s)",
        "ALTER TABLE t ALTER n TYPE bigint",
    )
    # The machine does other things too: the best of three tries counts.
    said = [[step[0].seconds or 0.0 for step in look(debian_database, *works).steps] for _ in range(3)]
    for place, work in enumerate(works):
        took = [timed(debian_database, work) for _ in range(3)]
        off = [max(one[place] / real, real / one[place]) for one in said for real in took]
        assert min(off) < 5, (work, said, took)


def timed(url: str, command: str) -> float:
    """Return how many seconds a command takes; it is taken back."""
    with psycopg.connect(url) as connection:
        connection.execute(b"SET search_path = public")
        began = time.monotonic()
        connection.execute(command.encode())
        took = time.monotonic() - began
        connection.rollback()
    return took


def test_the_present_rate_of_statements_is_told(any_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assessing, "RATES_SECONDS", 1.2)
    run_sql(any_database, "CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t VALUES (1, 0)", "ANALYZE t")
    with traffic() as running:
        for _ in range(2):
            running.add(any_database, lambda c, n: c.execute("SELECT n FROM t WHERE id = 1") and None)  # type: ignore[func-returns-value]
        # Sessions tell their counters once a second.
        for _ in range(20):
            facts = look(any_database, "ALTER TABLE t ADD COLUMN m int")
            if facts.tables["t"].reads:
                break
    assert facts.rates == "the tables' counters"
    assert facts.tables["t"].reads


@pytest.fixture
def counted(own_server: Server) -> str:
    """Give a database on a server that keeps statistics on statements."""
    url = own_server.database()
    run_sql(url, "CREATE EXTENSION pg_stat_statements", "CREATE TABLE t (id int PRIMARY KEY, n int)")
    run_sql(url, "CREATE TABLE other (id int)", "INSERT INTO t VALUES (1, 0)", "ANALYZE")
    return url


def test_statements_are_counted_one_by_one_where_the_server_does(counted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assessing, "RATES_SECONDS", 0.3)
    with traffic() as running:
        running.add(counted, lambda c, n: c.execute("UPDATE t SET n = n + 1 WHERE id = 1") and None)  # type: ignore[func-returns-value]
        running.add(counted, lambda c, n: c.execute("SELECT n FROM t WHERE id = 1") and None)  # type: ignore[func-returns-value]
        time.sleep(0.3)
        facts = look(counted, "ALTER TABLE t ADD COLUMN m int", "ALTER TABLE other ADD COLUMN m int")
        done = running.done
    assert facts.rates == "pg_stat_statements"
    assert facts.tables["t"].reads
    assert facts.tables["t"].writes
    assert facts.tables["t"].reads + facts.tables["t"].writes < 10 * done
    assert (facts.tables["other"].reads, facts.tables["other"].writes) == (0, 0)
