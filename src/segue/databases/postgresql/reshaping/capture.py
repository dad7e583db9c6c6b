"""Logs the keys of a move's tables that the application touches, and closes those of which only some rows move."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from psycopg import sql

from segue import clock
from segue.databases.postgresql.moving.fencing import in_slices
from segue.databases.postgresql.moving.support import relations
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.capture import VACUUM_ENTRIES, identify
from segue.engine import journal
from segue.errors import DriftFound
from segue.model.impact import Lock
from segue.planning.expressions import quoted
from segue.ports import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair, Relation
    from segue.databases.postgresql.reshaping.ways import Log

    Note = Callable[[str], None]

_EVENTS = ("insert", "update", "delete", "truncate")
_STANDING = """
select t.tgname::text, t.tgenabled::text from pg_catalog.pg_trigger as t
where t.tgrelid = pg_catalog.to_regclass(%s) and not t.tgisinternal and t.tgname = any(%s)
"""
_APPLIED = """
select exists (select from pg_catalog.pg_subscription_rel as s where s.srrelid = pg_catalog.to_regclass(%s))
"""
_OURS = """
select pg_catalog.format('%%I.%%I', n.nspname, c.relname), array_agg(t.tgname::text)
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where t.tgname = any(%s) and not t.tgisinternal and t.tgparentid = 0
group by c.oid, n.nspname, c.relname order by c.oid
"""


def prepare(pair: Pair, connection: Connection, logs: Sequence[Log], filters: dict[str, str]) -> None:
    """Make a side's logs, its functions, and the fence that lets our own writes pass; safe to repeat.

    `filters`: by table, the rows that are closed; tables that are not there are closed as a whole.
    """
    script = files("segue.databases.postgresql").joinpath("sql/reshaping.sql").read_text(encoding="utf-8")
    schema = sql.Identifier(pair.name)
    with connection.transaction():
        connection.execute(sql.SQL(script).format(schema=schema))
        for log in logs:
            _log(pair, connection, log)
            for name, body in _bodies(pair, log).items():
                _function(connection, sql.Identifier(pair.name, f"{log_name(log)}_{name}"), body)
            if log.table in filters:
                _function(connection, _fence(pair, log, "rows"), _fence_body(pair, filters[log.table]))
                _function(connection, _fence(pair, log, "emptied"), _emptied_body(pair, log, filters[log.table]))
    journal.point("reshape-prepared")


def log_name(log: Log) -> str:
    """Return what a log is called within the move's schema."""
    return f"log_{log.number}"


def _log(pair: Pair, connection: Connection, log: Log) -> None:
    table = sql.Identifier(pair.name, log_name(log))
    columns = sql.SQL(", ").join(sql.SQL(f"k{n} {type_}") for n, (_, type_) in enumerate(log.key, 1))
    connection.execute(
        sql.SQL(
            "create table if not exists {} ({}) with (autovacuum_enabled = true, autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_threshold = {}, autovacuum_vacuum_insert_threshold = -1, "
            "autovacuum_vacuum_cost_delay = 0)"
        ).format(table, columns, sql.SQL(str(VACUUM_ENTRIES)))
    )
    # An entry without a key says that the table was emptied.
    connection.execute(
        sql.SQL("create index if not exists {} on {} (k1) where k1 is null").format(
            sql.Identifier(f"{log_name(log)}_emptied"), table
        )
    )
    identify(connection, Place(schema_name=pair.name, name=log_name(log)))


def _bodies(pair: Pair, log: Log) -> dict[str, sql.Composable]:
    """Return what each trigger function does, by the end of its name: for statements, and for rows."""
    head = sql.SQL("insert into {} ").format(sql.Identifier(pair.name, log_name(log)))

    def keys(row: str) -> sql.SQL:
        return sql.SQL(", ").join(sql.SQL(f"{row}.{quoted(name)}") for name, _ in log.key)  # type: ignore[return-value]

    before = sql.SQL("select {} from segue_old as b").format(keys("b"))
    after = sql.SQL("select {} from segue_new as a").format(keys("a"))
    old, new = keys("old"), keys("new")
    return {
        "insert": head + after,
        "update": head + before + sql.SQL(" union ") + after,
        "delete": head + before,
        "row_insert": head + sql.SQL("values ({})").format(new),
        "row_update": sql.SQL(
            "if row({old}) is not distinct from row({new}) then\n{head} values ({old});\n"
            "else\n{head} values ({old}), ({new});\nend if"
        ).format(head=head, old=old, new=new),
        "row_delete": head + sql.SQL("values ({})").format(old),
        "truncate": head + sql.SQL("default values"),
    }


def _function(connection: Connection, name: sql.Identifier, body: sql.Composable) -> None:
    """Make a trigger function that runs as we do: the application's roles need no right on anything of the move."""
    text = sql.SQL("#variable_conflict use_column\nbegin\n{};\nreturn null;\nend").format(body)
    connection.execute(
        sql.SQL(
            "create or replace function {}() returns trigger language plpgsql security definer "
            "set search_path = pg_catalog, pg_temp as {};\nrevoke all on function {}() from public"
        ).format(name, sql.Literal(text.as_string(connection)), name)
    )


def _names(pair: Pair, events: Sequence[str] = _EVENTS) -> list[str]:
    """Return what the triggers that log are called."""
    return [f"{pair.name}_{event}" for event in events]


def _by_rows(pair: Pair) -> str:
    """Return what the fence of rows is called."""
    return f"{pair.name}-rows"


def _fence(pair: Pair, log: Log, kind: str) -> sql.Identifier:
    return sql.Identifier(pair.name, f"fence_{log.number}_{kind}")


def _fence_body(pair: Pair, condition: str) -> sql.Composed:
    """Refuse rows that have moved; the others stay the application's."""
    schema = sql.Identifier(pair.name)
    look = sql.SQL(
        "if tg_op <> {} then\nif exists (select from (select ({}).*) as s where ({})) and not {}.own() then\n"
        "perform {}.refuse(tg_table_schema, tg_table_name);\nend if;\nend if"
    )
    return sql.SQL(";\n").join(
        [
            look.format(sql.Literal("INSERT"), sql.SQL("old"), sql.SQL(condition), schema, schema),
            look.format(sql.Literal("DELETE"), sql.SQL("new"), sql.SQL(condition), schema, schema),
        ]
    )


def _emptied_body(pair: Pair, log: Log, condition: str) -> sql.Composed:
    """Refuse to empty a table that has rows which have moved: they would be missing on the way back."""
    return sql.SQL(
        "if exists (select from {} as s where ({})) and not {}.own() then\n"
        "perform {}.refuse(tg_table_schema, tg_table_name);\nend if"
    ).format(sql.SQL(log.table), sql.SQL(condition), sql.Identifier(pair.name), sql.Identifier(pair.name))


def arm_rows(
    pair: Pair, work: Connection, eye: Connection, logs: Sequence[Log], filters: dict[str, str], patience: Patience,
    note: Note,
) -> None:  # fmt: skip
    """Put the fences of tables that move in part: disabled. The others get theirs by `fencing.arm`.

    Rows are looked at after they were written: by then other triggers have had their say, and generated columns their
    values.
    """
    names = [pair.name, _by_rows(pair)]
    for log in logs:
        standing: dict[str, str] = dict(work.execute(_STANDING, [log.table, names]).fetchall())
        if log.table not in filters or len(standing) == len(names):
            continue
        when = {"emptied": "before truncate", "rows": "after insert or update or delete"}
        words = [
            sql.SQL("create or replace trigger {} {} on {} for each {} execute function {}()").format(
                sql.Identifier(name),
                sql.SQL(when[kind]),
                sql.SQL(log.table),
                sql.SQL("row" if kind == "rows" else "statement"),
                _fence(pair, log, kind),
            )
            for name, kind in zip(names, ("emptied", "rows"), strict=True)
        ]
        words.append(_enabling(log.table, names, on=False))
        in_slices(work, eye, log.table, Lock.SHARE_ROW_EXCLUSIVE, words, patience, note)


def set_rows(pair: Pair, connection: Connection, tables: Iterable[str], *, closed: bool) -> None:
    """Switch the fences of rows, within a transaction that has the tables' locks."""
    for table in tables:
        connection.execute(_enabling(table, [_by_rows(pair)], on=closed))


def capture(
    pair: Pair, work: Connection, eye: Connection, logs: Sequence[Log], patience: Patience, note: Note, *, on: bool
) -> None:
    """Put the triggers that log on tables and partitions, one table at a time; safe to repeat.

    When it returns with `on`, every write that is not committed yet is, or will be, in its log. Raises LockNotGranted.
    """
    until = clock.ticks() + patience.locks
    for log in logs:
        found = relations(work, [log.table])
        for relation in found:
            applied = work.execute(_APPLIED, [relation.name]).fetchone()
            # Statement triggers fire only for the table that a statement names, and never for what is replicated.
            by_row = len(found) > 1 or relation.partition or bool(applied and applied[0])
            events = _events(work, relation)
            names = _names(pair, events)
            standing: dict[str, str] = dict(work.execute(_STANDING, [relation.name, names]).fetchall())
            if all(standing.get(name) == ("A" if on else "D") for name in names):
                continue
            words = [_trigger(pair, log, relation.name, event, by_row=by_row) for event in events]
            words.append(_enabling(relation.name, names, on=on))
            left = Patience(max(0.1, until - clock.ticks()), patience.work)
            in_slices(work, eye, relation.name, Lock.SHARE_ROW_EXCLUSIVE, words, left, note)
            journal.point("reshape-captured")


def _events(connection: Connection, relation: Relation) -> tuple[str, ...]:
    """Return what is logged of a relation: a partitioned table has no rows of its own."""
    row = connection.execute(
        "select relkind::text from pg_catalog.pg_class where oid = pg_catalog.to_regclass(%s)", [relation.name]
    ).fetchone()
    return ("truncate",) if row and row[0] == "p" else _EVENTS


def check(pair: Pair, connection: Connection, logs: Sequence[Log]) -> None:
    """Raise DriftFound where a trigger that logs is gone or was switched off: what was written then, nobody knows."""
    missing: list[str] = []
    for relation in (relation for log in logs for relation in relations(connection, [log.table])):
        standing: dict[str, str] = dict(connection.execute(_STANDING, [relation.name, _names(pair)]).fetchall())
        names = _names(pair, _events(connection, relation))
        missing += [f"{name} on {relation.name}" for name in names if standing.get(name) != "A"]
    if missing:
        raise DriftFound(
            f"{len(missing)} triggers of move {pair.id} were switched off or dropped, so writes may have been missed",
            details=missing,
            hint="`ALTER TABLE … DISABLE TRIGGER` does so, and what was written meanwhile is in no log: "
            "`segue move cancel`, and begin again",
        )


def _trigger(pair: Pair, log: Log, table: str, event: str, *, by_row: bool) -> sql.Composed:
    by_row = by_row and event != "truncate"
    seen = {"insert": " referencing new table as segue_new", "delete": " referencing old table as segue_old"}
    seen |= {"update": seen["delete"] + " new table as segue_new"}
    return sql.SQL("create or replace trigger {} after {} on {}{} for each {} execute function {}()").format(
        sql.Identifier(f"{pair.name}_{event}"),
        sql.SQL(event),
        sql.SQL(table),
        sql.SQL("" if by_row else seen.get(event, "")),
        sql.SQL("row" if by_row else "statement"),
        sql.Identifier(pair.name, f"{log_name(log)}_{'row_' if by_row else ''}{event}"),
    )


def _enabling(table: str, names: Sequence[str], *, on: bool) -> sql.Composed:
    how = "enable always" if on else "disable"
    return sql.SQL("alter table only {} {}").format(
        sql.SQL(table),
        sql.SQL(", ").join(sql.SQL(f"{how} trigger {{}}").format(sql.Identifier(name)) for name in names),
    )


def set_capture(pair: Pair, connection: Connection, logs: Sequence[Log], *, on: bool) -> None:
    """Switch a side's logging, within a transaction that has the tables' locks."""
    for log in logs:
        for relation in relations(connection, [log.table]):
            names = [row[0] for row in connection.execute(_STANDING, [relation.name, _names(pair)]).fetchall()]
            if names:
                connection.execute(_enabling(relation.name, names, on=on))


def remove(pair: Pair, work: Connection, eye: Connection, patience: Patience, note: Note) -> None:
    """Take the triggers that log off, wherever they are; raises LockNotGranted while a reader keeps a table."""
    until = clock.ticks() + patience.locks
    for table, names in work.execute(_OURS, [[*_names(pair), _by_rows(pair)]]).fetchall():
        words = [sql.SQL("drop trigger {} on {}").format(sql.Identifier(name), sql.SQL(table)) for name in names]
        left = Patience(max(0.1, until - clock.ticks()), patience.work)
        in_slices(work, eye, table, Lock.ACCESS_EXCLUSIVE, words, left, note)
        journal.point("reshape-uncaptured")


def backlog(pair: Pair, connection: Connection, logs: Iterable[str], most: int = 1_000_000) -> int:
    """Return how many entries a side's logs have, counted up to `most` in each."""
    total = 0
    for name in logs:
        row = connection.execute(
            sql.SQL("select count(*) from (select from {} limit {}) as entries").format(
                sql.Identifier(pair.name, name), sql.SQL(str(most))
            )
        ).fetchone()
        total += int(row[0]) if row else 0
    return total
