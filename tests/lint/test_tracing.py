"""`segue lint --trace`: locks that statements really take, on a copy of the schema, beside what was predicted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import psycopg
import pytest
from fix_process import Segue

from segue.cli._linting import PostgreSQL
from segue.databases.postgresql.tracing import throwaway, trace
from segue.embedded import Cluster
from segue.lint.report import Report
from segue.lint.rule import Wanted
from segue.lint.rules import rules
from segue.lint.running import run
from segue.lint.sources import source
from segue.lint.tracing import OBSERVED, observe
from segue.model.findings import Depth, Severity

WORLD = """
CREATE TABLE customers (id bigint PRIMARY KEY, name varchar(20));
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint CONSTRAINT of_customer REFERENCES customers, note text);
INSERT INTO customers VALUES (1, 'a');
CREATE FUNCTION widen() RETURNS void LANGUAGE plpgsql AS $$ BEGIN ALTER TABLE orders ADD n int; END $$;
"""


@pytest.fixture
def world(database: str) -> str:
    """Give a database with two tables that are tied."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(WORLD.encode())
    return database


@pytest.fixture
def tried(server: Cluster) -> Callable[..., Report]:
    """Give what judges and tries texts, on a copy of a database's schema or in an empty one."""

    def judge(*texts: str, of: str | None = None, wanted: int | None = None) -> Report:
        grammar, known = PostgreSQL(), rules()
        sources = [source(f"{number}.sql", text.encode()) for number, text in enumerate(texts, 1)]
        today = date(2026, 6, 1)
        report = run(sources, list(known.values()), set(known) | OBSERVED, grammar, Wanted(), today)
        with throwaway(server.url("postgres")) as made, trace(made, of, "shop", wanted) as (session, found):
            report.trace = found
            observe(report, sources, grammar, session, found, in_transaction=False, today=today)
        return report

    return judge


def seen(report: Report) -> list[list[str]]:
    """Return the locks of each statement that took any on what was there before its file."""
    assert report.trace
    found = [item.tried.seen for item in report.trace.statements if item.tried.seen]
    return [[f"{each.lock.value} {each.table}" for each in items] for items in found]


def test_statement_is_seen_with_all_it_locks(tried: Callable[..., Report], world: str) -> None:
    report = tried("ALTER TABLE orders DROP CONSTRAINT of_customer;", of=world)
    assert seen(report) == [["ACCESS EXCLUSIVE customers", "ACCESS EXCLUSIVE orders"]]
    assert "observed-lock" in {item.rule for item in report.findings}


def test_nothing_is_run_where_the_schema_came_from(tried: Callable[..., Report], world: str) -> None:
    tried("DROP TABLE orders; TRUNCATE customers;", of=world)
    with psycopg.connect(world) as connection:
        assert connection.execute("SELECT count(*) FROM orders, customers").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM customers").fetchone() == (1,)
        made = connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'segue_trace%'").fetchone()
    assert made == (0,)


def test_prediction_is_confirmed_or_corrected(tried: Callable[..., Report], world: str) -> None:
    report = tried(
        "SET lock_timeout = '3s';\nCREATE INDEX i ON orders (note);\n"
        "ALTER TABLE customers ALTER name TYPE varchar(30);\nALTER TABLE orders ADD t uuid DEFAULT gen_random_uuid();",
        of=world,
    )
    found = {item.line: item for item in report.findings if item.rule != "unnamed-constraint"}
    assert {item.depth for item in found.values()} == {Depth.OBSERVED}
    assert found[2].lock.value == "SHARE"
    assert (found[3].severity, "nothing was written anew" in found[3].message) == (Severity.INFO, True)
    assert (found[4].rule, found[4].severity) == ("add-column-volatile-default", Severity.ERROR)


def test_code_that_nobody_looks_into_is_seen(tried: Callable[..., Report], world: str) -> None:
    report = tried("DO $$ BEGIN EXECUTE 'ALTER TABLE orders ALTER id TYPE numeric'; END $$;\nSELECT widen();", of=world)
    assert [(item.line, item.rule) for item in report.findings] == [(1, "observed-rewrite"), (2, "observed-lock")]
    assert not report.files[0].unanalysed


def test_comment_silences_what_a_trace_finds(tried: Callable[..., Report], world: str) -> None:
    text = "SET lock_timeout = '3s';\n-- segue: ignore observed-lock{}\nSELECT widen();"
    assert not tried(text.format(""), of=world).findings
    expired = tried(text.format(" until=2026-01-01"), of=world).findings
    assert [item.rule for item in expired] == ["expired-ignore", "observed-lock"]
    unused = tried("-- segue: ignore observed-lock\nSELECT 1;", of=world).findings
    assert [item.rule for item in unused] == ["unused-ignore"]


def test_earlier_files_make_the_schema(tried: Callable[..., Report]) -> None:
    report = tried(WORLD, "ALTER TABLE orders ADD x int;\nCREATE TABLE fresh (id int);\nALTER TABLE fresh ADD y int;")
    assert seen(report) == [["ACCESS EXCLUSIVE orders"]]


def test_what_fails_is_said_and_the_rest_goes_on(tried: Callable[..., Report], world: str) -> None:
    text = (
        "ALTER TABLE lost ADD x int;\nBEGIN;\nSELECT 1/0;\nALTER TABLE orders ADD x int;\nCOMMIT;\n"
        "CREATE INDEX CONCURRENTLY i ON orders (x);\nCOPY orders TO PROGRAM 'true';\n"
        "LOCK TABLE customers IN SHARE MODE;"
    )
    report = tried(text, of=world, wanted=15)
    assert report.trace
    outcomes = {item.line: item.tried for item in report.trace.statements}
    assert (outcomes[1].error, outcomes[3].error) == ('relation "lost" does not exist', "division by zero")
    assert (bool(outcomes[6].note), outcomes[7].note) == (True, "COPY is not tried")
    assert seen(report) == [["ACCESS EXCLUSIVE orders"], ["SHARE customers"]]
    assert "meant for 15" in report.trace.notes[0]


def test_command_tries_on_a_server_of_its_own(segue: Segue, world: str) -> None:
    segue("env", "add", "shop", "--type", "test", "--url-stdin", text=world).expect(0)
    text = "SET lock_timeout = '3s';\nALTER TABLE orders DROP CONSTRAINT of_customer;\n"
    said = segue("lint", "--env", "shop", "--trace", "-", text=text).expect(1).stdout
    assert "tried on PostgreSQL 18, without rows:" in said
    assert "<stdin>:2:1: ACCESS EXCLUSIVE on customers, ACCESS EXCLUSIVE on orders" in said
