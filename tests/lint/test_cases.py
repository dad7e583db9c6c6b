"""Every rule finds its bad examples and leaves its good ones alone; on a real server the bad ones do what it says.

A case of `cases/<rule>.yaml`: `bad` or `good`, the text; `says` and `safe`, parts of the finding; `line`, where it is;
`before`, the text of an earlier file; `versions`, the majors it is judged for; `in_transaction`, as the option says;
`new_tables: false`, not asked about those;
`given`, what the server needs beside world.sql; `server: false`, not to be tried on a server (say why);
`mended: false`, not to be mended by `--fix` (say why).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from fix_servers import fresh_databases
from psycopg import sql

from segue.databases.postgresql import forms
from segue.databases.postgresql.changes import read
from segue.databases.postgresql.safe_forms import Forms
from segue.embedded import Cluster
from segue.lint.judging import Judge
from segue.lint.rule import Wanted
from segue.lint.rules import rules
from segue.model.findings import Finding
from segue.model.impact import Duration, Lock

CASES = Path(__file__).parent / "cases"
LOCKS = "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = %s"
OID = "SELECT to_regclass(%s)::oid"
FILE = "SELECT pg_relation_filenode(to_regclass(%s))"
READ = "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_xact_user_tables WHERE relname IN ('orders', 'customers')"


def load() -> list[Any]:
    """Return every case, named after its rule."""
    found = []
    for path in sorted(CASES.glob("*.yaml")):
        for number, case in enumerate(yaml.safe_load(path.read_text("utf-8")), 1):
            found.append(pytest.param(path.stem, case, id=f"{path.stem}-{number}"))
    return found


def judged(rule: str, case: dict[str, Any], version: int | None) -> list[Finding]:
    """Return what one rule says about a case."""
    wanted = Wanted(version, case.get("in_transaction", False), new_tables=case.get("new_tables", True))
    judge = Judge([rules()[rule]], lambda form, major: forms.form(form).on(major or forms.NEWEST), wanted, Forms())
    if "before" in case:
        judge.judge("before.sql", case["before"], read(case["before"]))
    text = case.get("bad") or case["good"]
    return judge.judge("case.sql", text, read(text)).findings


@pytest.mark.parametrize(("rule", "case"), load())
@pytest.mark.parametrize("version", [None, 14, 18])
def test_rule_finds_what_is_bad_and_nothing_else(rule: str, case: dict[str, Any], version: int | None) -> None:
    if version not in case.get("versions", [version]):
        pytest.skip("not a case for this version")
    found = judged(rule, case, version)
    if "good" in case:
        assert found == []
        return
    assert found, "nothing was found"
    assert case.get("says", "") in found[0].message
    assert case.get("safe", "") in found[0].safe
    assert found[0].line == case.get("line", found[0].line)


@pytest.mark.parametrize("name", sorted(rules()))
def test_every_rule_has_cases_of_both_kinds(name: str) -> None:
    cases = yaml.safe_load((CASES / f"{name}.yaml").read_text("utf-8"))
    assert {"good", "bad"} <= {kind for case in cases for kind in case}


@pytest.mark.parametrize("name", sorted(rules()))
def test_every_rule_finds_its_own_bad_example_and_not_its_good_one(name: str) -> None:
    rule = rules()[name]
    assert judged(name, {"before": rule.before, "bad": rule.bad}, None)
    assert not judged(name, {"before": rule.before, "good": rule.good}, None)


def test_foreign_keys_of_one_transaction_wait_for_a_parent_once() -> None:
    text = "CREATE TABLE a (id bigint REFERENCES orders); CREATE TABLE b (id bigint REFERENCES orders);"
    alone, together = (
        judged("create-table-foreign-key", {"bad": text, "in_transaction": inside}, None) for inside in (False, True)
    )
    assert (len(alone), len(together)) == (2, 1)


# -- on a real server -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(server: Cluster) -> Iterator[psycopg.Connection]:
    """Give a session that all cases share."""
    databases: Iterator[Callable[[], str]] = fresh_databases(server)
    for new_database in databases:
        with psycopg.connect(new_database(), autocommit=True) as connection:
            yield connection


@pytest.fixture
def world(session: psycopg.Connection) -> psycopg.Connection:
    """Give the session with the tables of world.sql and nothing else."""
    session.execute("DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public")
    session.execute((CASES / "world.sql").read_text("utf-8"))
    return session


def on_server() -> list[Any]:
    """Return the cases that are tried on a server."""
    return [param for param in load() if param.values[1].get("server", True)]


@pytest.mark.parametrize(("rule", "case"), on_server())
def test_server_does_what_the_rule_says(world: psycopg.Connection, rule: str, case: dict[str, Any]) -> None:
    if world.info.server_version // 10000 not in case.get("versions", [world.info.server_version // 10000]):
        pytest.skip("not a case for this server")
    world.execute(case.get("given", "SELECT"))
    found = {item.statement: item for item in judged(rule, case, None)}
    for statement in read(case.get("bad") or case["good"]):
        finding = found.get(statement.sql)
        table = finding.tables[0] if finding and finding.tables else "orders"
        lock, rewritten, scanned = observed(world, statement.sql, table)
        if finding:
            assert lock is finding.lock
            assert rewritten is (finding.duration is Duration.REWRITE)
        elif "good" in case:
            assert not rewritten
            assert not (scanned and lock.rank >= Lock.SHARE.rank)


def observed(session: psycopg.Connection, statement: str, table: str) -> tuple[Lock, bool, bool]:
    """Run a statement and return the lock it took on a table, whether that was written anew, and whether any was read.

    What cannot be in a transaction is only run: its locks are measured by the tests of the forms.
    """
    (before,) = session.execute(FILE, (table,)).fetchone() or (None,)
    (oid,) = session.execute(OID, (table,)).fetchone() or (None,)
    session.execute("BEGIN")
    try:
        (already,) = session.execute(READ).fetchone() or (0,)
        session.execute(sql.SQL(statement))  # type: ignore[arg-type]
        modes = [mode for (mode,) in session.execute(LOCKS, (oid,))]
        (read_rows,) = session.execute(READ).fetchone() or (0,)
        (after,) = session.execute(FILE, (table,)).fetchone() or (None,)
    except psycopg.errors.ActiveSqlTransaction:
        session.execute("ROLLBACK")
        session.execute(sql.SQL(statement))  # type: ignore[arg-type]
        return Lock.NONE, False, False
    session.execute("COMMIT")
    taken = [lock for lock in Lock if lock.value.title().replace(" ", "") + "Lock" in modes]
    return (
        max(taken, key=lambda lock: lock.rank, default=Lock.NONE),
        None not in (before, after) and after != before,
        bool(read_rows - already),
    )
