"""Reads the tables that statements name from a live server, as the statements that would make them."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg

from segue.databases.postgresql.changes import read
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.errors import SqlSyntaxError
from segue.lint.history import plain
from segue.lint.informed import LiveSchema, Size
from segue.model import changes as to
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK = 8192
#: It looks and does not wait.
PINS = {"lock_timeout": "200ms", "statement_timeout": "10s", "idle_in_transaction_session_timeout": "5s"}
_DEFAULT = "select reset_val from pg_catalog.pg_settings where name = 'lock_timeout'"


def look(url: str, names: Iterable[str], schema: str | None = None) -> LiveSchema:
    """Return what a server has of some tables and indexes, and of what is tied to them.

    Names that are none, or of nothing there, are passed over. Raises TargetUnreachable and the like.
    """
    connection = open_session(url, application="segue lint", schema=schema, pins=PINS)
    try:
        return _look(connection, [name for name in names if _is_name(name)])
    except psycopg.Error as error:
        raise explain(error, place(url)) from error
    finally:
        connection.close()


def _is_name(name: str) -> bool:
    """Return whether the server can look a name up: names of more parts, or of none, it refuses."""
    try:
        found = read(f"table {name}")
    except SqlSyntaxError:
        return False
    return len(found) == 1 and name.count(".") < 2


def _rows(connection: psycopg.Connection[Any], query: str, parameters: dict[str, Any]) -> list[Any]:
    text = (files("segue.databases.postgresql") / "sql" / f"lint_{query}.sql").read_text("utf-8")
    return connection.execute(text.encode(), parameters).fetchall()


def _look(connection: psycopg.Connection[Any], names: list[str]) -> LiveSchema:
    relations = _rows(connection, "relations", {"names": names})
    tables = {"tables": [oid for oid, *_ in relations]}
    columns = _gathered(_rows(connection, "columns", tables))
    constraints = _gathered(_rows(connection, "constraints", tables))
    indexes = _gathered(_rows(connection, "indexes", tables))
    try:
        measured = {oid: (size, rows) for oid, size, rows in _rows(connection, "sizes", tables)}
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        measured = {}
    statements: list[to.Changed] = []
    sizes: dict[str, Size] = {}
    for oid, kind, called, partition_of, tuples, pages in relations:
        size, rows = measured.get(oid, (pages * BLOCK, 0 if kind == "p" else tuples))
        for name in dict.fromkeys(called):
            if kind in ("r", "p", "m"):
                sizes[plain(name)] = Size(size, (0 if not size else None) if rows < 0 else round(rows))
            statements += _made(name, kind == "p", columns.get(oid, []), constraints.get(oid, []))
            statements += _indexed(name, indexes.get(oid, []))
            if partition_of:
                attached = to.AttachPartition(offset=0, table=partition_of, partition=name)
                statements.append(to.Changed("", 0, (attached,)))
    (default,) = connection.execute(_DEFAULT).fetchone() or ("0",)
    version = connection.info.server_version // 10000
    return LiveSchema(version, statements, sizes, {"lock_timeout": f"{default}ms"} if default != "0" else {})


def _gathered(rows: list[Any]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for relation, words in rows:
        found.setdefault(relation, []).append(words)
    return found


def _made(name: str, partitioned: bool, columns: list[str], constraints: list[str]) -> list[to.Changed]:
    """Return the statements that make a table, each read by itself: what the grammar does not know is lost alone."""
    kept = []
    for statement in _read(f"create table {name} ({', '.join(columns)})"):
        changes = [
            replace(item, partitioned=partitioned) if isinstance(item, to.CreateTable) else item
            for item in statement.changes
        ]
        kept.append(replace(statement, changes=tuple(changes)))
    for words in constraints:
        kept += _read(f"alter table {name} add constraint {words}")
    return kept


def _indexed(name: str, indexes: list[str]) -> list[to.Changed]:
    kept = []
    for words in indexes:
        for statement in _read(words):
            # The definition names the table with its schema, wherever that is looked for.
            changes = [
                replace(item, table=name) if isinstance(item, to.CreateIndex) else item for item in statement.changes
            ]
            kept.append(replace(statement, changes=tuple(changes)))
    return kept


def _read(words: str) -> list[to.Changed]:
    try:
        return read(words)
    except SqlSyntaxError:
        return []
