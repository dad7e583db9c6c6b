"""Logs the keys that the application touches, by triggers, in the application's own transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql import parse
from segue.databases.postgresql.locking import NotThisTime, lock_in_slices, set_local
from segue.databases.postgresql.online import moves
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.wording import comma, is_exact, key_names, key_type
from segue.engine import journal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.online.blueprint import Flow, Relation
    from segue.databases.postgresql.online.site import Site
    from segue.ports import Patience

    Connection = psycopg.Connection[tuple[Any, ...]]

ROWS = ("insert", "update", "delete")
TRUNCATE = "truncate"

# So many dead entries are left to the next autovacuum. A share of a log that was a million entries long for an hour
# would never be reached again.
VACUUM_ENTRIES = 5000

# Statement triggers fire only for the table that a statement names, and never for what a subscription applies.
_BY_ROW = """
select exists (select from pg_catalog.pg_inherits as i where c.oid in (i.inhrelid, i.inhparent))
    or exists (select from pg_catalog.pg_subscription_rel as s where s.srrelid = c.oid)
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s
"""

_STANDING = """
select count(*) = %s and bool_and(t.tgenabled = %s)
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s and t.tgname = any(%s)
"""


def make_log(site: Site, flow: Flow, log: Place) -> None:
    """Make a log of touched keys; an entry without a key means that the table was emptied."""
    with site.transaction() as connection:
        columns = [
            sql.SQL(f"segue_k{n} {key_type(connection, column)[0]}")
            + sql.SQL(f" collate {column.collation}" if column.collation else "")
            for n, column in enumerate(flow.key, 1)
        ]
        connection.execute(
            sql.SQL(
                "create table if not exists {} (xid xid8 not null default pg_catalog.pg_current_xact_id(), {}) with ("
                "autovacuum_enabled = true, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = {}, "
                "autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0)"
            ).format(log.sql, comma(columns), sql.SQL(str(VACUUM_ENTRIES)))
        )
        # So that no drain has to read the whole log to see that nothing was emptied.
        connection.execute(
            sql.SQL("create index if not exists {} on {} (segue_k1) where segue_k1 is null").format(
                sql.Identifier(f"{log.name}_emptied"), log.sql
            )
        )
        identify(connection, log)
    journal.point("online-log-made")


def identify(connection: Connection, table: Place) -> None:
    """Let rows of a table without a key be deleted where a publication is for all tables, and so for this one."""
    if connection.execute("select 1 from pg_catalog.pg_publication where puballtables limit 1").fetchone() is not None:
        connection.execute(sql.SQL("alter table {} replica identity full").format(table.sql))


def make_functions(site: Site, flow: Flow, log: Place) -> None:
    """Make the trigger functions that write a log: for statements and for rows, as either may be needed.

    They run as the role that makes them: the application's roles need no right on anything of Segue's.
    """
    with site.transaction() as connection:
        exact = is_exact(connection, flow.key)
        for name, body in _bodies(flow, log, exact=exact).items():
            function = sql.Identifier(log.schema_name, f"{log.name}_{name}")
            text = sql.SQL("#variable_conflict use_column\nbegin\n{};\nreturn null;\nend").format(body)
            connection.execute(
                sql.SQL(
                    "create or replace function {}() returns trigger language plpgsql security definer "
                    "set search_path = pg_catalog, pg_temp as {};\nrevoke all on function {}() from public"
                ).format(function, sql.Literal(text.as_string(connection)), function)
            )
    journal.point("online-functions-made")


def _bodies(flow: Flow, log: Place, *, exact: bool) -> dict[str, sql.Composable]:
    """Return what each function does, by the end of its name."""
    head = sql.SQL("insert into {} ({}) ").format(log.sql, key_names(flow.key))
    # A column may be called as a variable of the function is: each is written with the row that it is of.
    old, new = (
        comma(sql.Identifier(row, column.name) for column in flow.key) for row in ("segue_before", "segue_after")
    )
    before = sql.SQL("select {} from segue_old as segue_before").format(old)
    after = sql.SQL("select {} from segue_new as segue_after").format(new)
    both = sql.SQL(" union " if exact else " union all ")
    was, is_ = (comma(sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(c.name)) for c in flow.key) for row in _ROW)
    values = sql.SQL("values ({})")
    moved = head + sql.SQL("values ({}), ({})").format(was, is_)
    if exact:
        # Compared as pg_catalog compares these types: no operator of anybody else's is looked for.
        same = sql.SQL("if row({}) is not distinct from row({}) then\n{};\nelse\n{};\nend if").format(
            was, is_, head + values.format(was), moved
        )
    return {
        "insert": head + after,
        "update": head + before + both + after,
        "delete": head + before,
        "row_insert": head + values.format(is_),
        "row_update": same if exact else moved,
        "row_delete": head + values.format(was),
        TRUNCATE: sql.SQL("insert into {} (segue_k1) values (null)").format(log.sql),
    }


_ROW = ("old", "new")


def install(
    site: Site,
    relations: Sequence[Relation],
    flow: Flow,
    log: Place,
    change_id: str,
    patience: Patience,
    note: Callable[[str], None],
    *,
    enabled: bool = True,
) -> None:
    """Put the triggers on a source and all of its partitions, one table at a time so that writers never queue.

    When it returns with `enabled`, every write that is not committed yet is, or will be, in the log: each table was
    locked against writers for an instant. Without, they are there for the swap to enable.
    """
    for relation in relations:
        triggers = _triggers(site, relation, log, change_id)
        names = [name for name, _ in triggers]
        wanted = "A" if enabled else "D"
        place = relation.place
        standing = site.look.execute(
            _STANDING.encode(), [len(names), wanted, place.schema_name, place.name, names]
        ).fetchone()
        if standing is not None and standing[0]:
            continue
        statements = [statement for _, statement in triggers]
        statements.append(_switch(place, names, "enable always" if enabled else "disable"))
        _locked(site, place, "share row exclusive", sql.SQL(";\n").join(statements), patience, note)
        journal.point("online-captured")


def _triggers(site: Site, relation: Relation, log: Place, change_id: str) -> list[tuple[str, sql.Composed]]:
    place = relation.place
    row = site.look.execute(_BY_ROW.encode(), [place.schema_name, place.name]).fetchone()
    by_row = relation.leaf or bool(row and row[0])
    found = []
    for what in trigger_events(relation):
        name = trigger_name(change_id, what)
        function = what if what == TRUNCATE or not by_row else f"row_{what}"
        rows = {"insert": " referencing new table as segue_new", "delete": " referencing old table as segue_old"}.get(
            what, " referencing old table as segue_old new table as segue_new"
        )
        each = "row" if by_row and what != TRUNCATE else "statement"
        statement = sql.SQL("create or replace trigger {} after {} on {}{} for each {} execute function {}()").format(
            sql.Identifier(name),
            sql.SQL(what),
            place.sql,
            sql.SQL("" if by_row or what == TRUNCATE else rows),
            sql.SQL(each),
            sql.Identifier(log.schema_name, f"{log.name}_{function}"),
        )
        found.append((name, statement))
    return found


def trigger_events(relation: Relation) -> tuple[str, ...]:
    """Return for what there are triggers on a relation: rows are stored in the partitions only."""
    return (TRUNCATE,) if relation.kind == "p" else (*ROWS, TRUNCATE)


# A trigger of a partitioned table goes with its parts in the partitions.
_OURS = """
select n.nspname, c.relname, array_agg(t.tgname::text order by t.tgname)
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where pg_catalog.starts_with(t.tgname, %s) and not t.tgisinternal and t.tgparentid = 0 and n.nspname <> all(%s)
group by c.oid, n.nspname, c.relname
order by c.oid
"""


def trigger_name(change_id: str, what: str) -> str:
    """Return what a trigger of a change is called."""
    return f"segue_{change_id}_{what}"


def _locked(
    site: Site,
    place: Place,
    mode: str,
    statement: sql.Composed,
    patience: Patience,
    note: Callable[[str], None],
) -> None:
    """Lock one table by itself, not its partitions, and run statements, in slices."""
    wanted = parse.statements(f"LOCK TABLE {place} IN {mode.upper()} MODE")

    def attempt(piece: float) -> None:
        with site.transaction() as connection:
            try:
                set_local(connection, "statement_timeout", piece)
                connection.execute(sql.SQL("lock table only {} in {} mode").format(place.sql, sql.SQL(mode)))
                connection.execute(statement)
                set_local(connection, "statement_timeout", 0)
            except (
                psycopg.errors.QueryCanceled,
                psycopg.errors.LockNotAvailable,
                psycopg.errors.DeadlockDetected,
            ) as error:
                raise NotThisTime from error

    lock_in_slices(site.work, site.look, wanted, patience, site.waits, attempt, note)


def _switch(place: Place, names: Sequence[str], word: str) -> sql.Composed:
    return sql.SQL("alter table only {} {}").format(
        place.sql, comma(sql.SQL(f"{word} trigger {{}}").format(sql.Identifier(name)) for name in names)
    )


def _all(relations: Sequence[Relation], change_id: str, word: str, *, moved: bool) -> sql.Composed:
    return sql.SQL(";\n").join(
        _switch(_place(relation, moved=moved), [trigger_name(change_id, w) for w in trigger_events(relation)], word)
        for relation in relations
    )


def _place(relation: Relation, *, moved: bool) -> Place:
    return relation.place.model_copy(update={"schema_name": relation.goes_to}) if moved else relation.place


def enable_sql(relations: Sequence[Relation], change_id: str, *, moved: bool = False) -> sql.Composed:
    """Return what enables the triggers of a side, for everybody; `moved`: the tables are where they go by then."""
    return _all(relations, change_id, "enable always", moved=moved)


def disable_sql(relations: Sequence[Relation], change_id: str, *, moved: bool = False) -> sql.Composed:
    """Return what disables the triggers of a side."""
    return _all(relations, change_id, "disable", moved=moved)


def drop_sql(relations: Sequence[Relation], change_id: str, *, moved: bool = False) -> sql.Composed:
    """Return what drops the triggers of a side; it takes the strongest lock on each table."""
    return sql.SQL(";\n").join(
        sql.SQL("drop trigger if exists {} on {}").format(
            sql.Identifier(trigger_name(change_id, what)), _place(relation, moved=moved).sql
        )
        for relation in relations
        for what in (*trigger_events(relation), moves.MOVED)
    )


def drop_log_sql(log: Place) -> sql.Composed:
    """Return what drops a log and its functions, once no trigger calls them any more."""
    functions = [*ROWS, *(f"row_{what}" for what in ROWS), TRUNCATE]
    return sql.SQL(";\n").join(
        [
            *(
                sql.SQL("drop function if exists {}()").format(sql.Identifier(log.schema_name, f"{log.name}_{name}"))
                for name in functions
            ),
            sql.SQL("drop function if exists {}()").format(moves.function_of(log)),
            sql.SQL("drop table if exists {}, {}").format(log.sql, moves.place_of(log).sql),
        ]
    )


def remove(site: Site, change_id: str, besides: Sequence[str], patience: Patience, note: Callable[[str], None]) -> None:
    """Take the triggers off, one table at a time; the application waits for a slice of time at most.

    They are taken off wherever they are, whatever their tables are called by now, but for tables in the schemas
    `besides`, which are dropped as a whole.
    """
    found = site.look.execute(_OURS.encode(), [trigger_name(change_id, ""), list(besides)]).fetchall()
    for schema_name, name, triggers in found:
        place = Place(schema_name=schema_name, name=name)
        dropped = sql.SQL(";\n").join(
            sql.SQL("drop trigger if exists {} on {}").format(sql.Identifier(trigger), place.sql)
            for trigger in triggers
        )
        _locked(site, place, "access exclusive", dropped, patience, note)
        journal.point("online-uncaptured")
