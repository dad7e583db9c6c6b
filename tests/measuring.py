"""What each form of `databases/postgresql/forms` does on a real server: locks, scans, rewrites, waits, errors.

python tests/measuring.py       # measures on every server of `make servers-all` and writes forms/measured.json
"""

from __future__ import annotations

import itertools
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from fix_servers import MAJORS, binaries_of, shared_server
from psycopg import sql

from segue.embedded import Cluster
from segue.model.impact import Duration, Lock

FORMS = Path(__file__).parent.parent / "src/segue/databases/postgresql/forms"

#: From least to most: the last that fits is a form's duration.
ORDER = (Duration.SNAPSHOTS, Duration.SCAN, Duration.DATA, Duration.INDEX_BUILD, Duration.REWRITE)
ROLES = {"i": "index", "I": "index", "S": "sequence", "v": "view", "m": "materialized view", "c": "composite type"}

RELATIONS = """
    SELECT c.oid, c.relname, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
           format('%s/%s', c.relfilenode, c.reltablespace), i.indrelid,
           CASE WHEN c.relkind IN ('r', 'm', 'i') THEN pg_relation_size(c.oid) ELSE 0 END
    FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE c.relnamespace <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast']::regnamespace[])
"""
#: Of the session alone, not yet reported: a count that grows was made by the statement in between.
READS = "SELECT relid, seq_tup_read, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_xact_user_tables"
HELD = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
        AND (relispartition OR %(what)s <> 'partitions')
"""
OUTLASTING = "SELECT FROM pg_locks WHERE pid = %(pid)s AND locktype = 'virtualxid' AND NOT granted"
LOCKS = "SELECT relation, mode FROM pg_locks WHERE pid = %s AND locktype = 'relation'"


@dataclass(frozen=True)
class Form:
    """One form: its key, its statement, and what is done before it."""

    key: str
    words: str
    sql: str
    settings: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    committed: str = ""
    undo: str = ""
    said: str = ""  # the duration where it cannot be seen from outside


def forms() -> list[Form]:
    """Return every form, family by family."""
    found = []
    for path in sorted(FORMS.glob("*.yaml")):
        entries = yaml.safe_load(path.read_text())
        found += [Form(key, **entry) for key, entry in entries.items()]
    return found


@dataclass(frozen=True)
class Relation:
    """A relation as it was at one moment."""

    name: str
    kind: str
    comment: str
    file: str
    table: int | None  # of an index
    size: int


@contextmanager
def world(cluster: Cluster) -> Iterator[psycopg.Connection]:
    """Give a session in a new database with the tables of world.sql."""
    name = f"forms_{secrets.token_hex(6)}"
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as administrator:
        administrator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            if administrator.execute("SELECT FROM pg_tablespace WHERE spcname = 'forms_disk'").fetchone() is None:
                (data,) = administrator.execute("SHOW data_directory").fetchone() or ("",)
                folder = f"{data}/forms_disk"
                # By the server, whose user may be another than ours.
                make = sql.SQL("COPY (SELECT) TO PROGRAM {}").format(f"mkdir -m 700 '{folder}'")
                administrator.execute(make)
                administrator.execute(sql.SQL("CREATE TABLESPACE forms_disk LOCATION {}").format(folder))
            with psycopg.connect(cluster.url(name), autocommit=True) as connection:
                connection.execute((FORMS / "world.sql").read_text())
                yield connection
        finally:
            administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def measure(connection: psycopg.Connection, form: Form) -> dict[str, Any]:
    """Return what a form does: `locks` by role, `duration`, `scans`, `rewrites`, `waits`, `alone`, or its `error`."""
    if form.committed:
        try:
            connection.execute(form.committed)
        except psycopg.Error as error:
            return {"error": error.sqlstate}
    found = _in_transaction(connection, form)
    if form.committed:
        connection.execute(form.undo)
    if found.get("error") == psycopg.errors.ActiveSqlTransaction.sqlstate:
        found = _alone(connection, form)
    if form.said and "error" not in found:
        found["duration"] = form.said
    return found


def _relations(connection: psycopg.Connection) -> dict[int, Relation]:
    return {oid: Relation(*rest) for oid, *rest in connection.execute(RELATIONS).fetchall()}


def _in_transaction(connection: psycopg.Connection, form: Form) -> dict[str, Any]:
    before = _relations(connection)
    connection.execute("BEGIN")
    try:
        # Here, because a session reports what it counted, and begins anew, between transactions.
        reads = {oid: counts for oid, *counts in connection.execute(READS)}
        for name, value in form.settings.items():
            connection.execute("SELECT set_config(%s, %s, true)", (name, value))
        connection.execute(form.sql)
        locks = connection.execute(LOCKS, (connection.info.backend_pid,)).fetchall()
        counted = {oid: counts for oid, *counts in connection.execute(READS)}
        after = _relations(connection)
    except psycopg.Error as error:
        return {"error": error.sqlstate}
    finally:
        connection.execute("ROLLBACK")
    more = {
        oid: [new - old for new, old in zip(counts, reads.get(oid, [0, 0]), strict=True)]
        for oid, counts in counted.items()
    }
    scans = {oid for oid, (read, _) in more.items() if read and oid in before}
    writes = any(written for _, written in more.values())
    return _facts(form, before, after, locks, scans, {Duration.DATA} if writes else set())


def _alone(watcher: psycopg.Connection, form: Form) -> dict[str, Any]:
    """Return what a form does that may not be in a transaction: another session keeps it waiting where it looks."""
    locks: list[tuple[int, str]] = []
    waits = ""
    for held in ("snapshot", "tables", "partitions", "lock"):
        before = _relations(watcher)
        locks, outlasts = _hindered(watcher, form, held)
        after = _relations(watcher)
        if form.undo:
            watcher.execute(form.undo)
        if outlasts and not waits:
            waits = "snapshots" if held == "snapshot" else "users"
        if locks:
            break
    facts = _facts(form, before, after, locks, set(), {Duration.SNAPSHOTS} if waits else set())
    return {**facts, **({"waits": waits} if waits else {}), "alone": True}


def _hindered(watcher: psycopg.Connection, form: Form, held: str) -> tuple[list[tuple[int, str]], bool]:
    """Run a statement beside a session that has a snapshot, uses tables or partitions, or locks tables.

    Return the locks that it holds or wants where it waits, and whether it waits for the other transaction's end.
    """
    dsn = psycopg.conninfo.make_conninfo(watcher.info.dsn, password=watcher.info.password)
    with psycopg.connect(dsn, autocommit=True) as statement, psycopg.connect(dsn) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1 FROM pg_class LIMIT 1")
        if held != "snapshot":
            mode = "SHARE UPDATE EXCLUSIVE" if held == "lock" else "ACCESS SHARE"
            names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in watcher.execute(HELD, {"what": held}))
            holder.execute(sql.SQL("LOCK TABLE ONLY {} IN {} MODE").format(names, sql.SQL(mode)))
        failed: list[psycopg.Error] = []
        thread = threading.Thread(target=lambda: _run(statement, form.sql, failed))
        thread.start()
        pids = {"holder": holder.info.backend_pid, "pid": statement.info.backend_pid}
        try:
            while thread.is_alive():
                if watcher.execute("SELECT %(holder)s = ANY (pg_blocking_pids(%(pid)s))", pids).fetchone() == (True,):
                    locks = watcher.execute(LOCKS, (pids["pid"],)).fetchall()
                    return locks, watcher.execute(OUTLASTING, pids).fetchone() is not None
                time.sleep(0.002)
            return [], False
        finally:
            holder.rollback()
            thread.join()
            if failed:
                raise failed[0]


def _run(connection: psycopg.Connection, text: str, failed: list[psycopg.Error]) -> None:
    try:
        connection.execute(text)
    except psycopg.Error as error:
        failed.append(error)


def _facts(
    form: Form,
    before: dict[int, Relation],
    after: dict[int, Relation],
    locks: list[tuple[int, str]],
    scans: set[int],
    kinds: set[Duration],
) -> dict[str, Any]:
    def role(oid: int) -> str:
        relation = before[oid]
        # The comment of a table says its role; that of an index is none of ours.
        said = relation.comment if relation.kind in "rp" else ""
        return form.roles.get(relation.name) or said or ROLES.get(relation.kind, "table")

    strongest: dict[str, Lock] = {}
    for oid, mode in locks:
        if oid in before:
            lock = next(one for one in Lock if one.value.title().replace(" ", "") + "Lock" == mode)
            if lock.rank > strongest.get(role(oid), Lock.NONE).rank:
                strongest[role(oid)] = lock
    moved = {oid for oid, one in after.items() if oid in before and one.file != before[oid].file and one.size}
    rewrites = {oid for oid in moved if after[oid].kind == "r"}
    files = {one.file for one in before.values()}
    refilled = {oid for oid, one in after.items() if oid in before and one.file != before[oid].file}
    built = {
        oid
        for oid, one in after.items()
        if one.kind == "i" and one.size and one.table in before and one.table not in refilled and one.file not in files
    }
    filled = any(one.size and one.kind in "rm" for oid, one in after.items() if oid not in before)
    filled = filled or any(after[oid].kind == "m" for oid in moved)
    kinds = kinds | ({Duration.SCAN} if scans else set()) | ({Duration.REWRITE} if rewrites else set())
    kinds |= ({Duration.INDEX_BUILD} if built else set()) | ({Duration.DATA} if filled else set())
    duration = max(kinds, key=ORDER.index, default=Duration.INSTANT)
    facts: dict[str, Any] = {
        "locks": {name: strongest[name].value for name in sorted(strongest)},
        "duration": duration.value,
        "scans": sorted({role(oid) for oid in scans}),
        "rewrites": sorted({role(oid) for oid in rewrites}),
    }
    return {name: value for name, value in facts.items() if value}


def compact(measured: dict[int, dict[str, dict[str, Any]]], wanted: list[Form]) -> dict[str, Any]:
    """Return the facts of all versions by form, those that are the same for some versions in a row once."""
    table: dict[str, Any] = {}
    for form in wanted:
        entry: dict[str, Any] = {"words": form.words, "sql": form.sql}
        for facts, group in itertools.groupby(sorted(measured), key=lambda major: measured[major][form.key]):
            majors = list(group)
            entry[f"{majors[0]}-{majors[-1]}"] = facts
        table[form.key] = entry
    return table


def text(table: dict[str, Any]) -> str:
    """Return the table as JSON with a form a line."""
    lines = (f"{json.dumps(key)}: {json.dumps(entry, ensure_ascii=False)}" for key, entry in table.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _write() -> None:
    wanted = forms()
    measured: dict[int, dict[str, dict[str, Any]]] = {}
    for major in MAJORS:
        for cluster in shared_server(binaries_of(major)):
            with world(cluster) as connection:
                measured[major] = {form.key: measure(connection, form) for form in wanted}
        print(f"PostgreSQL {major}: {len(wanted)} forms")
    (FORMS / "measured.json").write_text(text(compact(measured, wanted)))


if __name__ == "__main__":
    _write()
