"""`segue lint --fix`: safe forms are written where they are whole, and lead to the schema that was meant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from fix_servers import fresh_databases
from psycopg import sql

from segue.cli._linting import PostgreSQL
from segue.databases.postgresql.changes import read
from segue.embedded import Cluster
from segue.lint import fixing
from segue.lint.rule import Wanted
from segue.lint.rules import rules
from segue.lint.running import run
from segue.lint.sources import source

CASES = Path(__file__).parent / "cases"
#: Rules of which at least one case can be mended.
MENDED = (
    "add-check add-foreign-key add-unique concurrently-lock-timeout create-index-not-concurrently create-partition-of "
    "drop-index lock-without-timeout primary-key-nullable refresh-materialized-view reindex-not-concurrently "
    "set-not-null-unproven unnamed-constraint"
).split()
SCHEMA = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated, conislocal FROM pg_constraint
WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid, indisunique
FROM pg_index WHERE indrelid::regclass::text !~ '^pg_'
UNION ALL SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attislocal
FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped
ORDER BY 1, 2, 3
"""


def lint(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "segue", "lint", *arguments], input=stdin, capture_output=True, cwd=cwd, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def mended(text: str, *names: str, before: str = "", version: int | None = None) -> fixing.Fixing:
    """Fix a text, behind an earlier file, by some rules or by all."""
    chosen = [rules()[name] for name in names or rules()]
    wanted, grammar = Wanted(version), PostgreSQL()
    texts = [source("before.sql", before.encode()), source("case.sql", text.encode())]
    return fixing.fix(
        texts, lambda items: run(items, chosen, set(rules()), grammar, wanted, date(2026, 6, 1)), grammar.read
    )


def cases() -> list[Any]:
    """Return the bad cases of the rules that mend, as far as a server takes them."""
    found = []
    for name in MENDED:
        for number, case in enumerate(yaml.safe_load((CASES / f"{name}.yaml").read_text("utf-8")), 1):
            if "bad" in case and case.get("mended", True) and not case.get("in_transaction"):
                found.append(pytest.param(name, case, id=f"{name}-{number}"))
    return found


@pytest.fixture(scope="module")
def two(server: Cluster) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """Give sessions in two databases: one for the original, one for what was made of it."""
    databases: Iterator[Callable[[], str]] = fresh_databases(server)
    for new_database in databases:
        with (
            psycopg.connect(new_database(), autocommit=True) as one,
            psycopg.connect(new_database(), autocommit=True) as other,
        ):
            yield one, other


def schema(session: psycopg.Connection, given: str, text: str) -> list[Any]:
    """Run a text in a new world, a statement at a time, and return the schema that it leaves."""
    session.execute("RESET ALL; DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public")
    session.execute((CASES / "world.sql").read_text("utf-8"))
    for statement in (*read(given), *read(text)):
        session.execute(sql.SQL(statement.sql))  # type: ignore[arg-type]
    return session.execute(SCHEMA).fetchall()


@pytest.mark.parametrize(("rule", "case"), cases())
def test_safe_form_is_not_found_and_leads_to_the_same_schema(
    two: tuple[psycopg.Connection, psycopg.Connection], rule: str, case: dict[str, Any]
) -> None:
    major = two[0].info.server_version // 10000
    if major not in case.get("versions", [major]):
        pytest.skip("not a case for this server")
    done = mended(case["bad"], rule, before=case.get("before", ""), version=major)
    assert done.fixed
    assert not done.report.findings
    given = case.get("given", "")
    try:
        meant = schema(two[0], given, case["bad"])
    except psycopg.Error:
        assert case.get("server") is False  # for a reason that the case names
        return
    assert schema(two[1], given, done.sources[1].text) == meant


MANY = """\
-- three things at once
ALTER TABLE orders -- the busy one
  ADD COLUMN other_id bigint DEFAULT 1 REFERENCES customers ON DELETE CASCADE NOT NULL, -- whose
  ADD UNIQUE (amount), ADD CHECK (amount > 0), ALTER state SET NOT NULL;
CREATE INDEX ON orders (day); -- for the report
"""


def test_several_findings_of_one_statement_are_all_mended(
    two: tuple[psycopg.Connection, psycopg.Connection],
) -> None:
    done = mended(MANY)
    kept = [item for item in done.report.findings if item.rule != "foreign-key-without-index"]
    assert not kept
    given = "UPDATE orders SET state = 'new'"
    assert schema(two[1], given, done.sources[1].text) == schema(two[0], given, MANY)
    for comment in ("-- three things at once", "-- the busy one", "-- whose", "-- for the report"):
        assert comment in done.sources[1].text


def test_transaction_around_what_must_be_outside_is_said_and_left() -> None:
    text = "BEGIN;\nSET LOCAL lock_timeout = '3s';\nCREATE INDEX i ON orders (day);\nCOMMIT;\n"
    done = mended(text)
    assert done.sources[1].text == text
    assert [(item.finding.rule, item.why) for item in done.left] == [("create-index-not-concurrently", fixing.AROUND)]


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE orders ADD COLUMN IF NOT EXISTS n int CHECK (n > 0);",  # the check goes with the column
        "ALTER TABLE orders ADD UNIQUE (note) WITH (fillfactor = 70);",
        "DROP INDEX orders_by_day CASCADE;",
        "REINDEX SYSTEM shop;",
        "REFRESH MATERIALIZED VIEW totals;",  # nobody knows of a unique index
        "CREATE TABLE p PARTITION OF events FOR VALUES IN (1) PARTITION BY LIST (b);",
    ],
)
def test_statement_whose_safe_form_would_lose_something_is_left(text: str) -> None:
    names = [name for name in MENDED if name not in ("lock-without-timeout", "unnamed-constraint")]
    done = mended(text, *names)
    assert done.report.findings
    assert done.sources[1].text == text


def test_text_keeps_its_line_ends_indentation_and_what_is_not_sql() -> None:
    text = "\\set x 1\r\n  CREATE UNIQUE INDEX i ON orders (day) -- é\r\n;\r\n"
    done = mended(f"SET lock_timeout = '3s';\r\n{text}")
    assert done.sources[1].text == (
        "SET lock_timeout = '3s';\r\n\\set x 1\r\n  SET lock_timeout = 0;\r\n"
        "  CREATE UNIQUE INDEX CONCURRENTLY i ON orders (day) -- é\r\n  ;\r\n  SET lock_timeout = '3s'\r\n;\r\n"
    )


def test_command_writes_files_and_says_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "1.sql").write_bytes(b"\xef\xbb\xbfCREATE INDEX i ON orders (day);\n")
    (tmp_path / "2.sql").write_text("BEGIN;\nCREATE INDEX j ON orders (day);\nCOMMIT;\n")
    done = lint("--fix", ".", cwd=tmp_path)
    assert (tmp_path / "1.sql").read_bytes() == b"\xef\xbb\xbfCREATE INDEX CONCURRENTLY i ON orders (day);\n"
    assert "2.sql:2:1: create-index-not-concurrently is not mended: a transaction is around it" in done.stderr
    assert "1 findings mended in 1 file" in done.stderr
    assert done.returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"1.sql", "2.sql"}


def test_command_prints_what_it_made_of_standard_input() -> None:
    done = lint("--fix", "-", stdin=b"CREATE INDEX i ON orders (day);\n")
    assert done.stdout == "CREATE INDEX CONCURRENTLY i ON orders (day);\n"


def test_diff_shows_and_does_not_write(tmp_path: Path) -> None:
    (tmp_path / "1.sql").write_text("CREATE INDEX i ON orders (day);\n")
    done = lint("--diff", "1.sql", cwd=tmp_path)
    assert done.returncode == 1
    assert "-CREATE INDEX i ON orders (day);\n+CREATE INDEX CONCURRENTLY i ON orders (day);" in done.stdout
    assert (tmp_path / "1.sql").read_text() == "CREATE INDEX i ON orders (day);\n"


def test_file_that_is_not_utf8_is_not_written(tmp_path: Path) -> None:
    raw = b"-- caf\xe9\nCREATE INDEX i ON orders (day);\n"
    (tmp_path / "1.sql").write_bytes(raw)
    done = lint("--fix", "1.sql", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "1.sql").read_bytes()) == (2, raw)
    assert "it is not UTF-8" in done.stderr
