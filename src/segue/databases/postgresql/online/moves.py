"""Follows rows whose keys change, where the other side keeps values of theirs that this side has no column for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.wording import comma, key_names, key_type
from segue.engine import journal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from segue.databases.postgresql.online.blueprint import Flow, KeyColumn, Member, Relation
    from segue.databases.postgresql.online.site import Site
    from segue.databases.postgresql.online.wording import Listing

    Connection = psycopg.Connection[tuple[Any, ...]]

#: What its triggers are called, after the change.
MOVED = "moved"


def place_of(log: Place) -> Place:
    """Return the list of moves that belongs to a log."""
    return Place(schema_name=log.schema_name, name=f"{log.name}_moves")


def function_of(log: Place) -> sql.Identifier:
    """Return the trigger function that writes the list."""
    return sql.Identifier(log.schema_name, f"{log.name}_{MOVED}")


def warnings(member: Member) -> Iterator[str]:
    """Yield what is not followed: of a row that goes to another partition the server tells two."""
    kept = member.backward.kept
    if kept and any(relation.kind == "p" for relation in member.new):
        yield (
            f"rows of {member.table} that go to another partition after the swap lose what the old table alone has: "
            f"{', '.join(kept)}"
        )


def install(site: Site, relations: Sequence[Relation], flow: Flow, log: Place, change_id: str) -> None:
    """Make the list of moves and its triggers, disabled, on tables that nobody uses yet; nothing where none is kept.

    Each move has the key before and the key after. Rows that one statement moves, by `xid` and `command`, do not
    follow upon each other.
    """
    if not flow.kept:
        return
    now, was = key_names(flow.key), key_names(flow.key, "segue_was_")
    with site.transaction() as connection:
        connection.execute(
            sql.SQL(
                "create table if not exists {} (segue_move bigint generated always as identity primary key, "
                "xid xid8 not null default pg_catalog.pg_current_xact_id(), command text not null, {}, {})"
            ).format(
                place_of(log).sql,
                comma(_columns(connection, flow.key, "segue_was_")),
                comma(_columns(connection, flow.key)),
            )
        )
        # The command in which a version of a row was made is in the version itself.
        body = sql.SQL(
            "begin\ninsert into {} (command, {}, {}) values (new.cmin::text, {}, {});\nreturn null;\nend"
        ).format(place_of(log).sql, was, now, _of("old", flow.key), _of("new", flow.key))
        connection.execute(
            sql.SQL(
                "create or replace function {function}() returns trigger language plpgsql security definer "
                "set search_path = pg_catalog, pg_temp as {body};\nrevoke all on function {function}() from public"
            ).format(function=function_of(log), body=sql.Literal(body.as_string(connection)))
        )
        for relation in relations:
            if relation.kind != "r":
                continue
            connection.execute(
                sql.SQL(
                    "create or replace trigger {name} after update on {table} for each row "
                    "when (row({old}) is distinct from row({new})) execute function {function}();\n"
                    "alter table only {table} disable trigger {name}"
                ).format(
                    name=_trigger(change_id),
                    table=relation.place.sql,
                    old=_of("old", flow.key),
                    new=_of("new", flow.key),
                    function=function_of(log),
                )
            )
    journal.point("online-moves-followed")


def _trigger(change_id: str) -> sql.Identifier:
    return sql.Identifier(f"segue_{change_id}_{MOVED}")


def _of(row: str, key: Sequence[KeyColumn]) -> sql.Composed:
    return comma(sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(column.name)) for column in key)


def _columns(connection: Connection, key: Sequence[KeyColumn], prefix: str = "") -> Iterator[sql.Composable]:
    for n, column in enumerate(key, 1):
        collation = f" collate {column.collation}" if column.collation else ""
        yield sql.SQL(f"{prefix}segue_k{n} {key_type(connection, column)[0]}{collation}")


def enable_sql(relations: Sequence[Relation], flow: Flow, change_id: str) -> Iterator[sql.Composed]:
    """Yield what lets the triggers fire for everybody, once the tables are where they go."""
    for relation in relations:
        if flow.kept and relation.kind == "r":
            yield sql.SQL("alter table only {} enable always trigger {}").format(
                sql.Identifier(relation.goes_to, relation.place.name), _trigger(change_id)
            )


# Of the last move to a key that nothing left later: back through the moves before it, to where its row was at first.
_FOLLOW = """
with recursive last as (
    select distinct on ({m_now}) m.* from {table} as m order by {m_now}, m.segue_move desc
),

way as (
    select w.* from last as w where not exists (
        select from {table} as m
        where ({m_was}) = ({w_now}) and m.segue_move > w.segue_move and (m.xid, m.command) <> (w.xid, w.command)
    )
    union all
    select p.segue_move, p.xid, p.command, {p_was}, {w_now}
    from way as w cross join lateral (
        select m.* from {table} as m
        where ({m_now}) = ({w_was}) and m.segue_move < w.segue_move and (m.xid, m.command) <> (w.xid, w.command)
        order by m.segue_move desc limit 1
    ) as p
),

origin as (
    select distinct on ({w_now}) {w_now}, {w_was} from way as w order by {w_now}, w.segue_move
),

gone as (
    delete from {saved} as s where ({s_now}) in (select {was} from {table} union all select {now} from {table})
)

insert into {saved} ({now}, {kept})
select {w_now}, {s_kept} from origin as w inner join {saved} as s on ({s_now}) = ({w_was})
"""


class Moves:
    """The moves of one flow, for the session that drains its log."""

    def __init__(self, connection: Connection, listing: Listing, log: Place) -> None:
        flow = listing.wording.flow
        self._connection = connection
        self._there = False
        if listing.saved is None:
            return
        row = connection.execute("select pg_catalog.to_regclass(%s) is not null", [str(place_of(log))]).fetchone()
        self._there = bool(row and row[0])
        table = sql.Identifier("pg_temp", f"{log.name}_moved")
        now, was = key_names(flow.key), key_names(flow.key, "segue_was_")
        if self._there:
            connection.execute(
                sql.SQL(
                    "create temp table if not exists {name} on commit delete rows as select * from {moves} "
                    "with no data; create index if not exists {index} on {table} ({now}, segue_move)"
                ).format(
                    name=sql.Identifier(f"{log.name}_moved"),
                    index=sql.Identifier(f"{log.name}_moved_key"),
                    table=table,
                    moves=place_of(log).sql,
                    now=now,
                )
            )
        names = {"table": table, "now": now, "was": was, "moves": place_of(log).sql}
        self._take = sql.SQL(
            "with gone as (delete from {moves} returning *) insert into {table} select * from gone"
        ).format(**names)
        self._list = sql.SQL(
            "insert into {listed} ({now}) (select {was} from {table} union select {now} from {table}) "
            "except all select {now} from {listed}"
        ).format(**names, listed=listing.table)
        self._follow = sql.SQL(_FOLLOW).format(
            **names,
            saved=listing.saved,
            kept=comma(sql.Identifier(f"segue_kept_{n}") for n, _ in enumerate(flow.kept, 1)),
            s_kept=comma(sql.Identifier("s", f"segue_kept_{n}") for n, _ in enumerate(flow.kept, 1)),
            **{f"{one}_now": key_names(flow.key, f"{one}.") for one in "mws"},
            **{f"{one}_was": key_names(flow.key, f"{one}.segue_was_") for one in "mwp"},
        )

    def take(self) -> int:
        """List the keys of rows that have moved, beside those that are listed; return how many moves there are."""
        if not self._there:
            return 0
        found = self._connection.execute(self._take).rowcount
        if found:
            self._connection.execute(self._list)
        return found

    @property
    def follow(self) -> sql.Composable:
        """Return the statement that gives what was saved of a row to the key that the row has now."""
        return self._follow
