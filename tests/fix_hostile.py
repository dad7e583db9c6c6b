"""Hostile surroundings: with `--hostile` the core tests run as an ordinary role, under defaults that could hurt.

Every database of a test is then one in which the role may create, and nothing else, and role and database have set
whatever could change under Segue's feet. The tests' own sessions are spared; Segue's are not, nor are processes.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import conninfo, sql

#: What an administrator may have set for a role or a database, for reasons of their own, and what is usual.
HOSTILE = {
    "default_transaction_isolation": ("repeatable read", "read committed"),
    "default_transaction_read_only": ("on", "off"),
    "default_transaction_deferrable": ("on", "off"),
    "statement_timeout": ("1s", "0"),
    "lock_timeout": ("50ms", "0"),
    "idle_in_transaction_session_timeout": ("1s", "0"),
    "idle_session_timeout": ("1s", "0"),
    "search_path": ("decoy, pg_catalog", '"$user", public'),
    "row_security": ("on", "on"),
    "DateStyle": ("SQL, DMY", "ISO, MDY"),
    "IntervalStyle": ("sql_standard", "postgres"),
    "TimeZone": ("Asia/Kathmandu", "UTC"),
    "bytea_output": ("escape", "hex"),
    "extra_float_digits": ("-15", "1"),
    "synchronous_commit": ("off", "on"),
    "client_min_messages": ("error", "notice"),
    "client_encoding": ("LATIN1", "UTF8"),
    "standard_conforming_strings": ("off", "on"),
    "backslash_quote": ("on", "safe_encoding"),
    "quote_all_identifiers": ("on", "off"),
    "transform_null_equals": ("on", "off"),
    "array_nulls": ("off", "on"),
    "xmloption": ("document", "content"),
    "enable_indexscan": ("off", "on"),
    "enable_indexonlyscan": ("off", "on"),
    "enable_sort": ("off", "on"),
    "check_function_bodies": ("off", "on"),
    "default_text_search_config": ("pg_catalog.german", "pg_catalog.english"),
    "gin_fuzzy_search_limit": ("1", "0"),
    "exit_on_error": ("on", "off"),
    "work_mem": ("64kB", "4MB"),
}
#: What only newer servers have, and since which version.
LATER = {"transaction_timeout": (17, "1s", "0")}

# Whoever lets a function be found along the search path finds one of these first.
DECOYS = """
    CREATE SCHEMA decoy;
    GRANT USAGE ON SCHEMA decoy TO public;
    CREATE FUNCTION decoy.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'walked into a decoy'; END $$;
    CREATE FUNCTION decoy.clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS 'SELECT decoy.trap(); SELECT null::timestamptz';
    CREATE FUNCTION decoy.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT decoy.trap(); SELECT null::text';
    CREATE FUNCTION decoy.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT decoy.trap(); SELECT 0';
    CREATE FUNCTION decoy.to_regnamespace(text) RETURNS regnamespace LANGUAGE sql
        AS 'SELECT decoy.trap(); SELECT null::regnamespace';
    CREATE FUNCTION decoy.set_config(text, text, boolean) RETURNS text LANGUAGE sql
        AS 'SELECT decoy.trap(); SELECT null::text';
    CREATE FUNCTION decoy.eq(bigint, bigint) RETURNS boolean LANGUAGE sql
        AS 'SELECT decoy.trap(); SELECT null::boolean';
    CREATE OPERATOR decoy.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = decoy.eq);
"""

#: What `--hostile` leaves of the tests: what reaches a target, and the command line around it. The twelfth promise has
#: hostile surroundings of its own.
CORE = (
    "databases/test_target.py",
    "databases/test_rows.py",
    "databases/test_concurrent.py",
    "databases/test_slots.py",
    "databases/test_fence.py",
    "databases/test_script.py",
    "promises/",
    "acceptance/test_run.py",
    "acceptance/test_side_by_side.py",
    "acceptance/test_script.py",
    "acceptance/test_worker.py",
    "online/test_workflow.py",
    "online/test_copying.py",
    "online/test_capture.py",
    "online/test_conflicts.py",
    "online/test_drain.py",
    "online/test_emptied.py",
    "online/test_family.py",
    "online/test_keys.py",
    "online/test_moves.py",
    "online/test_orphans.py",
    "online/test_shapes.py",
    "online/test_snapshots.py",
    "online/test_upkeep.py",
    "online/test_verify.py",
)


@dataclass(frozen=True)
class Occupied:
    """A hostile database: its superuser's URL, its role, and the options that give a session usual settings."""

    administrator: str
    role: str
    usual: str


@dataclass
class _Mode:
    """Whether this run of pytest was asked to be hostile."""

    hostile: bool = False


_mode = _Mode()
_occupied: dict[str, Occupied] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hostile",
        action="store_true",
        help="run the core tests as an ordinary role, under hostile defaults of role and database",
    )


def pytest_configure(config: pytest.Config) -> None:
    _mode.hostile = config.getoption("--hostile")
    if _mode.hostile:
        _spare_the_tests()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not _mode.hostile:
        return
    here = Path(__file__).parent
    left, gone = [], []
    for item in items:
        name = item.path.relative_to(here).as_posix()
        (left if name.startswith(CORE) and "promise_12" not in name else gone).append(item)
    items[:] = left
    config.hook.pytest_deselected(items=gone)


def occupied(url: str) -> str:
    """Make a database hostile if this is wanted; return its URL for the test, as whoever works there."""
    return occupy(url) if _mode.hostile else url


def administrator(url: str) -> str:
    """Return the URL of a test's database as the server's superuser, with usual settings."""
    found = _found(url)
    return found.administrator if found else url


def occupy(url: str) -> str:
    """Make a database hostile; return its URL as a new role that may create in it, and nothing else."""
    role = f"owner_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        names = {"role": sql.Identifier(role), "database": sql.Identifier(connection.info.dbname)}
        for command in (
            "CREATE ROLE {role} LOGIN PASSWORD 'word'",
            "GRANT CREATE ON DATABASE {database} TO {role}",
            "GRANT CREATE, USAGE ON SCHEMA public TO {role}",
        ):
            connection.execute(sql.SQL(command).format(**names))
        connection.execute(DECOYS)
        found = dict(HOSTILE)
        for name, (since, hostile, usual) in LATER.items():
            if connection.info.server_version >= since * 10000:
                found[name] = (hostile, usual)
        for name, (hostile, _) in found.items():
            value = sql.SQL(hostile) if name == "search_path" else sql.Literal(hostile)
            for scope in ("DATABASE {database}", "ROLE {role}"):
                words = sql.SQL(f"ALTER {scope} SET {{setting}} = {{value}}")
                connection.execute(words.format(**names, setting=sql.Identifier(name), value=value))
        usual = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, (_, value) in found.items())
        # The database's settings hold for a superuser as well.
        spared = conninfo.make_conninfo(url, options=usual)
        _occupied[connection.info.dbname] = Occupied(spared, role, usual)
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}:word@{parts.netloc.rpartition('@')[2]}").geturl()


def liberate(connection: psycopg.Connection[Any], database: str) -> None:
    """Drop the role of a hostile database, which is gone by now; nothing for any other."""
    found = _occupied.pop(database, None)
    if found is not None:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(found.role)))


def _found(url: str) -> Occupied | None:
    """Return the hostile database of a URL: the one that it names, or whose role it names."""
    parts = conninfo.conninfo_to_dict(url)
    roles = {found.role: found for found in _occupied.values()}
    return _occupied.get(str(parts.get("dbname"))) or roles.get(str(parts.get("user")))


def _spare_the_tests() -> None:
    """Let the sessions that tests open by themselves have a server's usual settings."""
    real: Callable[..., Any] = psycopg.connect

    def connect(url: str = "", **words: Any) -> Any:
        named = {name: words[name] for name in ("dbname", "user") if name in words}
        found = _found(conninfo.make_conninfo(url, **named))
        if found is not None and not sys._getframe(1).f_globals.get("__name__", "").startswith("segue."):
            words.setdefault("options", found.usual)
        return real(url, **words)

    psycopg.connect = connect
