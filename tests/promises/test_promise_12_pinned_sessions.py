"""Promise 12: whatever a role's or a database's defaults are, Segue's sessions behave the same."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from fix_servers import short_folder
from fix_targets import Open, apply, fill, rows, run_sql, until, value
from psycopg import conninfo, sql

from segue.databases.postgresql.connection import PINNED, open_session
from segue.errors import ConfigurationError

HOSTILE = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": "",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "row_security": "on",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "synchronous_commit": "off",
    "client_min_messages": "error",
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "client_encoding": "LATIN1",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "xmloption": "document",
    "enable_indexscan": "off",
    "enable_indexonlyscan": "off",
    "check_function_bodies": "off",
    "jit": "on",
    "exit_on_error": "on",
    "gin_fuzzy_search_limit": "1",
}


def hostile(url: str, scope: str) -> None:
    """Give a database's or a role's new sessions every setting that could hurt."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname if scope == "DATABASE" else connection.info.user
        for setting, text in HOSTILE.items():
            connection.execute(
                sql.SQL("ALTER {} {} SET {} = {}").format(
                    sql.SQL(scope), sql.Identifier(name), sql.Identifier(setting), sql.Literal(text)
                )
            )


@pytest.mark.parametrize("scope", ["DATABASE", "ROLE"])
def test_hostile_defaults_change_nothing(ordinary: str, open_target: Open, scope: str) -> None:
    run_sql(
        ordinary,
        "CREATE TABLE t (id bigint PRIMARY KEY, day date, name text)",
        "INSERT INTO t SELECT n, DATE '2026-02-01' + n::int, 'ö' || n FROM generate_series(1, 500) n",
    )
    hostile(ordinary, scope)
    target = open_target(ordinary)
    apply(target, "ALTER TABLE t ADD COLUMN said text")
    apply(target, "CREATE INDEX CONCURRENTLY t_name ON t (name)", step="index")
    run = fill(
        target,
        "t",
        set={"said": "day::text || ' ö \\ ' || coalesce(nullif(name, NULL), '')"},
        batch={"size": 50},
        workers=2,
    )
    target.remember("public", None)

    found = target.query("SELECT said, octet_length(name) FROM t WHERE id = 10", 10)[1]
    assert found == [("2026-02-11 ö \\ ö10", 4)]
    assert run.record.rows == 500
    assert target.drift("public") is None


def test_every_pin_is_in_force(any_database: str) -> None:
    hostile(any_database, "DATABASE")
    with open_session(any_database, application="segue test", schema="other") as connection:
        shown = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
    wrong = {
        name: shown[name]
        for name, wanted in PINNED.items()
        if name in shown and shown[name] not in (wanted, "60000" if wanted == "60s" else wanted)
    }
    assert wrong == {}
    assert shown["search_path"] == "other, public"
    assert (shown["client_encoding"], shown["transaction_isolation"]) == ("UTF8", "read committed")


def test_an_idle_session_of_segue_is_not_ended(any_database: str) -> None:
    database = conninfo.conninfo_to_dict(any_database)["dbname"]
    run_sql(any_database, f"ALTER DATABASE {database} SET idle_session_timeout = '200ms'")
    with open_session(any_database, application="segue test") as connection:
        connection.execute("SELECT pg_sleep(0)")
        assert connection.execute("SELECT current_setting('idle_session_timeout')").fetchone() == ("0",)


@pytest.mark.parametrize("setting", ["transaction_timeout", "statement_timeout"])
def test_a_session_that_is_given_no_time_is_pinned_all_the_same(database: str, setting: str) -> None:
    name = conninfo.conninfo_to_dict(database)["dbname"]
    run_sql(database, f"ALTER DATABASE {name} SET {setting} = '1ms'")
    for _ in range(20):
        with open_session(database, application="segue test") as connection:
            assert connection.execute("SELECT pg_sleep(0.01)").fetchone()


def test_a_role_that_skips_triggers_is_refused(database: str) -> None:
    user = conninfo.conninfo_to_dict(database)["dbname"]
    run_sql(database, f"ALTER DATABASE {user} SET session_replication_role = replica")
    with pytest.raises(ConfigurationError, match="skip triggers"):
        open_session(database, application="segue test")


# -- poolers


@pytest.fixture
def pooled(database: str) -> Iterator[str]:
    """Give the URL of a PgBouncer in transaction mode before a database."""
    binary = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(binary).exists():
        outcome = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        outcome("needs PgBouncer: apt-get install pgbouncer")
    parts = conninfo.conninfo_to_dict(database)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = short_folder()
    (folder / "users").write_text(f'"{parts["user"]}" "{parts.get("password", "")}"\n')
    server = " ".join(
        f"{name}={parts[name]}" for name in ("host", "port", "user", "password", "dbname") if parts.get(name)
    )
    (folder / "ini").write_text(
        f"[databases]\nshop = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\nauth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 1\n"
        f"ignore_startup_parameters = extra_float_digits\n"
    )
    for file in folder.iterdir():
        file.chmod(0o644)
    command = [binary, "-q", str(folder / "ini")]
    process = subprocess.Popen(command, user="nobody" if os.geteuid() == 0 else None)
    url = f"postgresql://{parts['user']}@127.0.0.1:{port}/shop"
    try:
        until(lambda: _answers(port))
        yield url
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_transaction_pooler_is_refused_and_left_as_it_was(pooled: str, open_target: Open) -> None:
    before = rows(pooled, "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY 1")
    with pytest.raises(ConfigurationError, match="pooler"):
        open_target(pooled)
    # One server session stands behind it: what Segue had set would now be the application's.
    after = rows(pooled, "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY 1")
    assert [name for name, _ in after if name not in ("application_name", "client_encoding")] == [
        name for name, _ in before if name not in ("application_name", "client_encoding")
    ]
    assert value(pooled, "SELECT to_regnamespace('segue') IS NULL")
