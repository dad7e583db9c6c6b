"""What is predicted of a statement is what a real server does: locks per table, scans and rewrites."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from fix_servers import fresh_databases

from segue.databases.postgresql.parse import statements
from segue.model.impact import Duration, Lock, Statement

SETUP = """
CREATE TABLE parents (id bigint PRIMARY KEY, code text);
CREATE TABLE orders (
    id bigint PRIMARY KEY, parent_id bigint REFERENCES parents, day date NOT NULL DEFAULT '2026-01-01',
    amount numeric(10, 2), note varchar(20), state text, proven int, gen int GENERATED ALWAYS AS (1) STORED,
    CONSTRAINT amount_positive CHECK (amount >= 0), CONSTRAINT code_unique UNIQUE (state)
);
CREATE UNIQUE INDEX orders_by_id ON orders (id);
CREATE INDEX orders_by_day ON orders (day);
CREATE INDEX orders_json ON orders USING gin (to_tsvector('simple', note));
ALTER TABLE orders ADD CONSTRAINT late CHECK (amount < 1000000) NOT VALID;
ALTER TABLE orders ADD CONSTRAINT late_fk FOREIGN KEY (proven) REFERENCES parents NOT VALID;
CREATE TABLE spare (id bigint NOT NULL, parent_id bigint, day date, email text);
CREATE UNIQUE INDEX spare_by_id ON spare (id);
CREATE TABLE "Order" (id int);
CREATE TABLE heirs (like spare);
CREATE TABLE ancestors (id int);
CREATE TABLE kin () INHERITS (ancestors);
CREATE DOMAIN small AS int;
CREATE TABLE sizes (id int, value small);
ALTER DOMAIN small ADD CONSTRAINT late CHECK (value < 100) NOT VALID;
CREATE SCHEMA attic CREATE TABLE relics (id int);
CREATE VIEW recent AS SELECT id, day FROM orders;
CREATE MATERIALIZED VIEW daily AS SELECT day, count(*) AS n FROM orders GROUP BY day;
CREATE UNIQUE INDEX daily_key ON daily (day);
CREATE TABLE events (id bigint, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_2026 (id bigint, at date NOT NULL);
CREATE SEQUENCE numbers;
CREATE SEQUENCE owned OWNED BY heirs.id;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end';
CREATE FUNCTION steady() RETURNS int IMMUTABLE LANGUAGE sql AS 'select 1';
CREATE TRIGGER touching BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
CREATE POLICY visible ON orders USING (true);
CREATE RULE quiet AS ON DELETE TO "Order" DO INSTEAD NOTHING;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int;
CREATE TABLE measures (id int, value positive);
CREATE STATISTICS spare_stats ON id, parent_id FROM spare;
CREATE PUBLICATION changes FOR TABLE measures;
INSERT INTO parents SELECT n, n FROM generate_series(1, 50) n;
INSERT INTO orders SELECT n, n, '2026-01-01', 5, 'x', n, n FROM generate_series(1, 50) n;
INSERT INTO spare SELECT n, n, '2026-01-01', 'x' FROM generate_series(1, 50) n;
INSERT INTO measures SELECT n, n FROM generate_series(1, 50) n;
INSERT INTO sizes SELECT n, n FROM generate_series(1, 50) n;
INSERT INTO events SELECT n, '2025-05-05' FROM generate_series(1, 50) n;
INSERT INTO events_2026 SELECT n, '2026-05-05' FROM generate_series(1, 50) n;
REFRESH MATERIALIZED VIEW daily;
"""

AEL, SRE, SUE = Lock.ACCESS_EXCLUSIVE, Lock.SHARE_ROW_EXCLUSIVE, Lock.SHARE_UPDATE_EXCLUSIVE
RS, AS, RX, SH = Lock.ROW_SHARE, Lock.ACCESS_SHARE, Lock.ROW_EXCLUSIVE, Lock.SHARE


@dataclass(frozen=True)
class Case:
    """A statement; `hidden` are locks on tables that its text does not name, `since` the first server that has it.

    `careful`: the prediction is worse than what happened here, because the text cannot tell, and a note says so.
    `milder`: tables on which an older server takes less.
    """

    sql: str
    hidden: dict[str, Lock] = field(default_factory=dict)
    since: int = 15
    careful: bool = False
    milder: tuple[str, ...] = ()


CASES = [
    # columns
    Case("ALTER TABLE orders ADD COLUMN extra text"),
    Case("ALTER TABLE orders ADD COLUMN extra timestamptz NOT NULL DEFAULT now()"),
    Case("ALTER TABLE orders ADD COLUMN extra jsonb NOT NULL DEFAULT '{}'::jsonb"),
    Case("ALTER TABLE orders ADD COLUMN extra timestamptz DEFAULT clock_timestamp()"),
    Case("ALTER TABLE orders ADD COLUMN extra uuid DEFAULT gen_random_uuid()"),
    Case("ALTER TABLE orders ADD COLUMN extra int DEFAULT steady()", careful=True),
    Case("ALTER TABLE orders ADD COLUMN extra mood DEFAULT 'sad'"),
    Case("ALTER TABLE orders ADD COLUMN extra bigserial"),
    Case("ALTER TABLE orders ADD COLUMN extra int GENERATED ALWAYS AS IDENTITY"),
    Case("ALTER TABLE orders ADD COLUMN extra int GENERATED ALWAYS AS (id + 1) STORED"),
    Case("ALTER TABLE orders ADD COLUMN extra int GENERATED ALWAYS AS (id + 1) VIRTUAL", since=18),
    Case("ALTER TABLE orders ADD COLUMN extra int CHECK (extra > 0)"),
    Case("ALTER TABLE orders ADD COLUMN extra int UNIQUE"),
    Case("ALTER TABLE spare ADD COLUMN extra bigint REFERENCES parents"),
    Case("ALTER TABLE spare ADD COLUMN extra bigint DEFAULT 1 REFERENCES parents (id)"),
    Case("ALTER TABLE orders DROP COLUMN amount"),
    Case("ALTER TABLE orders DROP COLUMN parent_id", hidden={"parents": AEL}),
    Case("ALTER TABLE orders ALTER COLUMN note TYPE text", careful=True),
    Case("ALTER TABLE orders ALTER COLUMN amount TYPE bigint"),
    Case("ALTER TABLE orders ALTER COLUMN state SET NOT NULL"),
    Case("ALTER TABLE orders ALTER COLUMN day DROP NOT NULL"),
    Case("ALTER TABLE orders ALTER COLUMN day SET DEFAULT now()"),
    Case("ALTER TABLE orders ALTER COLUMN day DROP DEFAULT"),
    Case("ALTER TABLE orders ALTER COLUMN note SET STATISTICS 500"),
    Case("ALTER TABLE orders ALTER COLUMN note SET (n_distinct = 5)"),
    Case("ALTER TABLE orders ALTER COLUMN note SET STORAGE EXTERNAL"),
    Case("ALTER TABLE orders ALTER COLUMN note SET COMPRESSION pglz"),
    Case("ALTER TABLE orders ALTER COLUMN gen DROP EXPRESSION"),
    Case("ALTER TABLE orders ALTER COLUMN gen SET EXPRESSION AS (2)", since=17),
    Case("ALTER TABLE spare ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY"),
    Case("ALTER TABLE orders RENAME COLUMN note TO remark"),
    # constraints
    Case("ALTER TABLE orders ADD CONSTRAINT c CHECK (amount < 100)"),
    Case("ALTER TABLE orders ADD CONSTRAINT c CHECK (amount < 100) NOT VALID"),
    Case("ALTER TABLE orders ADD CONSTRAINT c CHECK (amount < 100) NOT ENFORCED", since=18),
    Case("ALTER TABLE orders ADD CONSTRAINT c NOT NULL proven", since=18),
    Case("ALTER TABLE orders ADD CONSTRAINT c NOT NULL proven NOT VALID", since=18),
    Case("ALTER TABLE spare ADD CONSTRAINT c FOREIGN KEY (parent_id) REFERENCES parents"),
    Case("ALTER TABLE spare ADD CONSTRAINT c FOREIGN KEY (parent_id) REFERENCES parents NOT VALID"),
    Case("ALTER TABLE spare ADD CONSTRAINT c FOREIGN KEY (parent_id) REFERENCES parents NOT ENFORCED", since=18),
    Case("ALTER TABLE orders VALIDATE CONSTRAINT late"),
    Case("ALTER TABLE orders VALIDATE CONSTRAINT late_fk", hidden={"parents": RS}),
    Case("ALTER TABLE spare ADD CONSTRAINT c UNIQUE (email, id)"),
    Case("ALTER TABLE spare ADD CONSTRAINT c UNIQUE USING INDEX spare_by_id"),
    Case("ALTER TABLE spare ADD PRIMARY KEY (id)"),
    Case("ALTER TABLE spare ADD PRIMARY KEY USING INDEX spare_by_id", careful=True),
    Case("ALTER TABLE spare ADD CONSTRAINT c EXCLUDE (id WITH =)"),
    Case("ALTER TABLE orders DROP CONSTRAINT amount_positive"),
    Case("ALTER TABLE orders DROP CONSTRAINT late_fk", hidden={"parents": AEL}),
    Case("ALTER TABLE orders RENAME CONSTRAINT amount_positive TO amount_fine"),
    # the table as a whole
    Case("ALTER TABLE orders SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1)"),
    Case("ALTER TABLE orders RESET (toast_tuple_target)"),
    Case("ALTER TABLE orders SET (user_catalog_table = true)"),
    Case("ALTER INDEX orders_by_day SET (fillfactor = 70)"),
    Case("ALTER INDEX orders_json SET (fastupdate = off)"),
    Case("ALTER TABLE spare SET UNLOGGED"),
    Case("ALTER TABLE orders RENAME TO purchases"),
    Case("ALTER TABLE orders SET SCHEMA information_schema"),
    Case("ALTER TABLE orders OWNER TO CURRENT_USER"),
    Case("ALTER TABLE orders DISABLE TRIGGER touching"),
    Case("ALTER TABLE orders ENABLE ROW LEVEL SECURITY"),
    Case("ALTER TABLE orders REPLICA IDENTITY FULL"),
    Case("ALTER TABLE spare CLUSTER ON spare_by_id"),
    Case("ALTER TABLE heirs INHERIT spare"),
    Case('ALTER TABLE "Order" ADD COLUMN "Total" int'),
    Case("ALTER VIEW recent RENAME TO latest"),
    Case("DROP TABLE spare"),
    Case("DROP TABLE orders CASCADE", hidden={"parents": AEL, "recent": AEL, "daily": AEL}),
    Case("TRUNCATE spare, measures"),
    Case("TRUNCATE parents CASCADE", hidden={"orders": AEL}),
    Case("CREATE TABLE fresh (id int, parent_id bigint REFERENCES parents (id))"),
    Case("CREATE TABLE fresh (LIKE orders INCLUDING ALL)"),
    Case("CREATE TABLE fresh () INHERITS (spare)"),
    Case("CREATE TABLE fresh AS SELECT * FROM orders"),
    Case("CREATE TABLE events_2027 PARTITION OF events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"),
    Case("ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"),
    Case("ALTER TABLE events DETACH PARTITION events_2025"),
    Case("LOCK TABLE orders IN SHARE MODE"),
    # indexes
    Case("CREATE INDEX fresh ON orders (amount)"),
    Case("DROP INDEX orders_by_day", hidden={"orders": AEL}),
    Case("REINDEX INDEX orders_by_day", hidden={"orders": SH}),
    Case("REINDEX TABLE orders"),
    Case("ALTER INDEX orders_by_day RENAME TO by_day"),
    Case("CLUSTER spare USING spare_by_id"),
    Case("ANALYZE orders"),
    # views
    Case("CREATE VIEW fresh AS SELECT orders.id FROM orders JOIN parents ON parents.id = orders.parent_id"),
    Case("CREATE OR REPLACE VIEW recent AS SELECT id, day FROM orders"),
    Case("CREATE MATERIALIZED VIEW fresh AS SELECT * FROM orders"),
    Case("DROP VIEW recent"),
    Case("DROP MATERIALIZED VIEW daily"),
    Case("REFRESH MATERIALIZED VIEW daily", hidden={"orders": AS}),
    Case("REFRESH MATERIALIZED VIEW CONCURRENTLY daily", hidden={"orders": AS}),
    # triggers, rules, policies, functions
    Case("CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch()"),
    Case("CREATE CONSTRAINT TRIGGER t AFTER INSERT ON orders FROM parents FOR EACH ROW EXECUTE FUNCTION touch()"),
    Case("DROP TRIGGER touching ON orders"),
    Case("ALTER TRIGGER touching ON orders RENAME TO touched"),
    Case("CREATE RULE r AS ON INSERT TO measures DO ALSO INSERT INTO spare VALUES (1)"),
    Case('DROP RULE quiet ON "Order"'),
    Case("CREATE POLICY p ON orders USING (EXISTS (SELECT FROM parents))"),
    Case("ALTER POLICY visible ON orders USING (false)"),
    Case("DROP POLICY visible ON orders"),
    Case("CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'select count(*) from orders'"),
    Case("CREATE FUNCTION f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM orders; END"),
    Case("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'begin perform count(*) from orders; end'"),
    Case("DROP FUNCTION steady()"),
    # rights, comments, publications, statistics, sequences, types
    Case("GRANT SELECT ON orders TO PUBLIC", milder=("orders",)),
    Case("REVOKE SELECT ON orders FROM PUBLIC", milder=("orders",)),
    Case("COMMENT ON TABLE orders IS 'x'"),
    Case("COMMENT ON COLUMN orders.day IS 'x'"),
    Case("COMMENT ON CONSTRAINT amount_positive ON orders IS 'x'"),
    Case("COMMENT ON TRIGGER touching ON orders IS 'x'"),
    Case("COMMENT ON POLICY visible ON orders IS 'x'"),
    Case('COMMENT ON RULE quiet ON "Order" IS NULL'),
    Case("COMMENT ON VIEW recent IS 'x'"),
    Case("COMMENT ON FUNCTION touch() IS 'x'"),
    Case("COMMENT ON INDEX orders_by_day IS 'x'"),
    Case("CREATE PUBLICATION p FOR TABLE orders, spare (id)"),
    Case("ALTER PUBLICATION changes ADD TABLE orders"),
    Case("ALTER PUBLICATION changes SET TABLE orders", hidden={"measures": SUE}),
    Case("DROP PUBLICATION changes"),
    Case("CREATE STATISTICS s ON id, amount FROM orders"),
    Case("DROP STATISTICS spare_stats", hidden={"spare": SUE}),
    Case("CREATE SEQUENCE s OWNED BY orders.id"),
    Case("ALTER SEQUENCE numbers RESTART WITH 5"),
    Case("DROP SEQUENCE numbers"),
    Case("ALTER TYPE mood ADD VALUE 'calm'"),
    Case("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'"),
    Case("CREATE TYPE colour AS ENUM ('red')"),
    Case("ALTER DOMAIN positive ADD CONSTRAINT p CHECK (value > 0)", hidden={"measures": SH}),
    Case("ALTER DOMAIN positive ADD CONSTRAINT p CHECK (value > 0) NOT VALID"),
    Case("ALTER DOMAIN positive SET NOT NULL", hidden={"measures": SH}),
    Case("ALTER DOMAIN positive DROP NOT NULL"),
    Case("ALTER DOMAIN small VALIDATE CONSTRAINT late", hidden={"sizes": SH}),
    Case("ALTER DOMAIN positive SET DEFAULT 5"),
    Case("DROP DOMAIN small CASCADE", hidden={"sizes": AEL}),
    Case("DROP FUNCTION touch() CASCADE", hidden={"orders": AEL}),
    Case("DROP SCHEMA attic CASCADE"),
    Case("ALTER TABLE parents DROP CONSTRAINT parents_pkey CASCADE", hidden={"orders": AEL}),
    Case("ALTER TABLE ONLY orders ALTER COLUMN note SET DEFAULT 'x'"),
    Case("CREATE TEMP TABLE fresh AS SELECT * FROM orders"),
    Case("SELECT id INTO fresh FROM orders"),
    Case("EXPLAIN SELECT * FROM orders"),
    Case("COPY spare (id) FROM PROGRAM 'true'"),
    Case("GRANT SELECT ON ALL TABLES IN SCHEMA attic TO PUBLIC"),
    Case("ALTER TABLE orders DROP CONSTRAINT IF EXISTS absent"),
    Case("ALTER TABLE kin NO INHERIT ancestors"),
    Case("CREATE SCHEMA elsewhere CREATE TABLE t (id bigint)"),
    # data
    Case("SELECT * FROM orders o WHERE EXISTS (SELECT FROM parents)"),
    Case("SELECT * FROM orders o JOIN parents p ON true FOR UPDATE OF o"),
    Case("INSERT INTO spare (id) VALUES (1000)"),
    Case("INSERT INTO spare (id) SELECT id + 500 FROM orders"),
    Case("INSERT INTO orders (id, parent_id) VALUES (100, 1)", hidden={"parents": RS}),
    Case("UPDATE spare SET email = 'x' FROM parents WHERE parents.id = spare.id"),
    Case("DELETE FROM heirs"),
    Case("WITH gone AS (DELETE FROM heirs RETURNING id) INSERT INTO spare (id) SELECT id FROM gone"),
    Case("WITH spare AS (SELECT * FROM spare) SELECT * FROM spare"),
    Case("MERGE INTO spare USING parents ON parents.id = spare.id WHEN MATCHED THEN UPDATE SET email = 'x'"),
]

#: Statements that cannot run inside a transaction, and what another session does to keep them waiting.
WAITING = [
    Case("CREATE INDEX CONCURRENTLY fresh ON orders (amount)"),
    Case("CREATE UNIQUE INDEX CONCURRENTLY fresh ON spare (id)"),
    Case("DROP INDEX CONCURRENTLY orders_by_day", hidden={"orders": SUE}),
    Case("REINDEX INDEX CONCURRENTLY orders_by_day", hidden={"orders": SUE}),
    Case("REINDEX TABLE CONCURRENTLY spare"),
    Case("ALTER TABLE events DETACH PARTITION events_2025 CONCURRENTLY"),
    Case("VACUUM measures"),
    Case("VACUUM (FULL) measures"),
]


@dataclass
class Measured:
    """A database with the tables of SETUP, and its server's major version."""

    connection: psycopg.Connection
    version: int
    url: str

    def names(self) -> dict[int, tuple[str, str]]:
        """Return name and kind of each relation by its OID."""
        rows = self.connection.execute(
            "SELECT oid, relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        ).fetchall()
        return {oid: (name, kind) for oid, name, kind in rows}

    def files(self) -> dict[str, int]:
        """Return each table's file; another one afterwards is a rewrite."""
        rows = self.connection.execute(
            "SELECT oid, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        ).fetchall()
        return dict(rows)

    def rows_read(self) -> dict[int, int]:
        """Return how many rows of each table this session has read one after the other and not yet reported."""
        return dict(self.connection.execute("SELECT relid, seq_tup_read FROM pg_stat_xact_user_tables").fetchall())


@pytest.fixture(scope="module", params=["server", "debian_server"])
def measured(request: pytest.FixtureRequest) -> Iterator[Measured]:
    """Give a database on each server."""
    makers = fresh_databases(request.getfixturevalue(request.param))
    url = next(makers)()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SETUP)
        yield Measured(connection, connection.info.server_version // 10000, url)
    for _ in makers:
        pass


def locks_of(connection: psycopg.Connection, pid: int, names: dict[int, tuple[str, str]]) -> dict[str, Lock]:
    """Return the strongest lock per relation that a session holds or waits for."""
    rows = connection.execute(
        "SELECT relation, mode FROM pg_locks WHERE pid = %s AND locktype = 'relation'", (pid,)
    ).fetchall()
    found: dict[str, Lock] = {}
    for oid, mode in rows:
        if oid in names:
            lock = next(one for one in Lock if one.value.title().replace(" ", "") + "Lock" == mode)
            name = names[oid][0]
            if lock.rank > found.get(name, Lock.NONE).rank:
                found[name] = lock
    return found


def compare(
    statement: Statement, case: Case, taken: dict[str, Lock], names: dict[int, tuple[str, str]], old: bool
) -> None:
    """Compare predicted and real locks on everything but indexes, which count only where they are predicted."""
    predicted = {held.table.strip('"'): held.lock for held in statement.locks if held.known}
    unnamed = max((held.lock.rank for held in statement.locks if not held.known), default=0)
    indexes = {name for name, kind in names.values() if kind == "i"}
    real = {name: lock for name, lock in taken.items() if name not in indexes or name in predicted}
    if old:
        predicted = {name: lock for name, lock in predicted.items() if name not in case.milder}
    expected = {**predicted, **case.hidden}
    assert real == expected
    heavy = [lock for lock in case.hidden.values() if lock.rank >= SH.rank]
    if heavy and unnamed < max(lock.rank for lock in heavy):
        assert any("does not name" in note or "CASCADE" in note for note in statement.notes), statement.notes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sql[:70])
def test_prediction_is_what_the_server_does(measured: Measured, case: Case) -> None:
    if measured.version < case.since:
        pytest.skip(f"needs PostgreSQL {case.since}")
    (statement,) = statements(case.sql)
    assert statement.transactional
    connection = measured.connection
    names, files = measured.names(), measured.files()
    before = measured.rows_read()
    connection.execute("BEGIN")
    try:
        connection.execute(case.sql)
        taken = locks_of(connection, connection.info.backend_pid, names)
        rewritten = {oid for oid, file in measured.files().items() if oid in files and files[oid] != file}
        after = measured.rows_read()
    finally:
        connection.execute("ROLLBACK")
    scanned = any(after[oid] > before[oid] for oid in before if oid in after)
    compare(statement, case, taken, names, measured.version < 18)
    if case.careful:
        assert statement.notes
    elif statement.verb in ("TRUNCATE", "SELECT", "ANALYZE"):
        pass
    elif rewritten:
        assert statement.duration in (Duration.REWRITE, Duration.DATA)
    elif scanned:
        assert statement.duration in (Duration.SCAN, Duration.INDEX_BUILD, Duration.DATA)
    else:
        assert statement.duration in (Duration.INSTANT, Duration.DATA)


@pytest.mark.parametrize("case", WAITING, ids=lambda case: case.sql[:70])
def test_statement_that_stands_alone_takes_the_predicted_lock(measured: Measured, case: Case) -> None:
    (statement,) = statements(case.sql)
    assert not statement.transactional
    with pytest.raises(psycopg.errors.ActiveSqlTransaction), measured.connection.transaction():
        measured.connection.execute(case.sql)
    names = measured.names()
    with (
        psycopg.connect(measured.url, autocommit=True) as alone,
        psycopg.connect(measured.url) as holder,
    ):
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        # A snapshot and a table in use: what a CONCURRENTLY waits for, once it holds its own locks.
        holder.execute("SELECT FROM orders, spare, events_2025 LIMIT 1")
        holder.execute("LOCK TABLE measures IN SHARE UPDATE EXCLUSIVE MODE")
        thread = threading.Thread(target=lambda: _run(alone, case.sql))
        thread.start()
        try:
            taken: dict[str, Lock] = {}
            until = time.monotonic() + 10
            waiting = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            pid = alone.info.backend_pid
            while time.monotonic() < until and measured.connection.execute(waiting, (pid,)).fetchone() != (True,):
                time.sleep(0.01)
            taken = locks_of(measured.connection, pid, names)
        finally:
            alone.cancel_safe()
            holder.rollback()
            thread.join()
    _clean(measured)
    compare(statement, case, taken, names, measured.version < 18)


def _run(connection: psycopg.Connection, text: str) -> None:
    try:
        connection.execute(text)
    except psycopg.Error:
        return


def _clean(measured: Measured) -> None:
    measured.connection.execute("DROP INDEX IF EXISTS fresh")
    measured.connection.execute("CREATE INDEX IF NOT EXISTS orders_by_day ON orders (day)")
    pending = "SELECT FROM pg_inherits WHERE inhrelid = 'events_2025'::regclass AND inhdetachpending"
    if measured.connection.execute(pending).fetchone() is not None:
        measured.connection.execute("ALTER TABLE events DETACH PARTITION events_2025 FINALIZE")
    if (
        measured.connection.execute("SELECT FROM pg_inherits WHERE inhrelid = 'events_2025'::regclass").fetchone()
        is None
    ):
        measured.connection.execute(
            "ALTER TABLE events ATTACH PARTITION events_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')"
        )
    leftovers = measured.connection.execute(
        "SELECT format('DROP INDEX %I', relname) FROM pg_class WHERE relname LIKE '%%\\_ccnew%%' AND relkind = 'i' "
        "AND relnamespace = 'public'::regnamespace"
    ).fetchall()
    for (drop,) in leftovers:
        measured.connection.execute(drop)
