"""Lists the rows that a change refuses, each with statements of which a person may choose one.

What is offered was tried: on copies of the row alone, which have the rules of both tables and are gone at once. Whether
another row stands in the way of the new value is not known before it is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from segue.databases.postgresql import parse
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.online import conflicts, reading
from segue.databases.postgresql.online.blueprint import Blueprint
from segue.databases.postgresql.online.wording import comma
from segue.ports import FORWARD

if TYPE_CHECKING:
    from segue.databases.postgresql.online.blueprint import Flow, Member
    from segue.model.online import Conflict

    Connection = psycopg.Connection[tuple[Any, ...]]

_TRIED, _FITTED = sql.Identifier("pg_temp", "segue_tried"), sql.Identifier("pg_temp", "segue_fitted")
# What the row itself is refused for, whatever other rows there are: its values, their types, its rules.
_REFUSED = ("22", "23", "42804", "42883")
_STORED = """
select a.attname::text from pg_catalog.pg_attribute as a
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' order by a.attnum
"""


def conflicts_of(url: str, execution: str, step: str, limit: int) -> tuple[int, list[tuple[Conflict, list[str]]]]:
    """Return how many rows a step's change refuses, and some of them with what could be done about each."""
    try:
        # Not as sessions of a lease are called: whoever takes that ends those.
        with open_session(url, application="segue-look") as connection:
            there = connection.execute("select pg_catalog.to_regclass('segue.change') is not null").fetchone()
            if not (there and there[0]):
                return 0, []
            row = connection.execute(
                "select blueprint from segue.change where execution = %s and step = %s", [execution, step]
            ).fetchone()
            if row is None:
                return 0, []
            drawn = Blueprint.model_validate(row[0])
            found = conflicts.listed(connection, drawn, limit)
            return conflicts.count(connection, drawn), [(one, offers(connection, drawn, one)) for one in found]
    except psycopg.Error as error:
        raise explain(error, place(url)) from error


def offers(connection: Connection, drawn: Blueprint, conflict: Conflict) -> list[str]:
    """Return statements that repair a row, without those that cannot work."""
    member = next(member for member in drawn.members if str(member.table) == conflict.table)
    flow = member.forward if conflict.direction == FORWARD else member.backward
    found = [text for text in conflicts.repairs(conflict, drawn) if _hopeful(text, conflict, member)]
    updates = [text for text in found if _written(text) is not None]
    if not updates or not conflict.row:
        return found
    try:
        with connection.transaction(force_rollback=True):
            works = _try(connection, flow, conflict, updates)
    except psycopg.Error:
        if connection.closed:
            raise
        return found  # it cannot be tried here, by this role or on these tables
    return [text for text in found if works.get(text, True)]


def _written(text: str) -> tuple[str, Any] | None:
    """Return the column that an UPDATE writes, and the tree of what it writes there; None for another statement."""
    node = parse.node(text)
    if node.WhichOneof("node") != "update_stmt":
        return None
    target = node.update_stmt.target_list[0].res_target
    return target.name, target.val


def _hopeful(text: str, conflict: Conflict, member: Member) -> bool:
    """Return whether a statement may work, as far as other rows have a say in it."""
    written = _written(text)
    if written is None:
        return True
    column, value = written
    if not value.HasField("a_const") and not value.HasField("func_call"):
        return True
    null = value.HasField("a_const") and value.a_const.isnull
    sides = [reading.Definition.model_validate(side) for side in (member.definition, member.drawn) if side]
    for side in sides:
        for index in side.indexes:
            if (
                index.unique
                and {part.name for part in index.columns} == {column}
                and not (null and index.nulls_distinct)
            ):
                return False  # the same value for each such row
        for rule in side.constraints:
            if rule.kind == "f" and column in rule.columns:
                partly = null and "MATCH FULL" in rule.definition and len(rule.columns) > 1
                if partly or not null:
                    return False  # it refers to no row
    added = [one for one in member.dependents.get("foreign_keys_added", ()) if one["name"] == conflict.rule]
    return not (null and any("MATCH FULL" in one["definition"] for one in added))


def _try(connection: Connection, flow: Flow, conflict: Conflict, updates: list[str]) -> dict[str, bool]:
    """Return of each statement whether the row as it would be obeys the rules of both tables."""
    for name, table in (("segue_tried", flow.source), ("segue_fitted", flow.into)):
        connection.execute(
            sql.SQL("create temp table {} (like {} including constraints including generated)").format(
                sql.Identifier(name), table.sql
            )
        )
    stored = [name for (name,) in connection.execute(_STORED.encode(), [str(flow.source)]).fetchall()]
    names = comma(map(sql.Identifier, stored))
    connection.execute(
        sql.SQL("insert into {} ({}) select {} from pg_catalog.jsonb_populate_record(null::{}, %s)").format(
            _TRIED, names, names, flow.source.sql
        ),
        [Jsonb(dict(conflict.row))],
    )
    fitted = sql.SQL("insert into {} ({}) select {} from {} as {}").format(
        _FITTED,
        comma(sql.Identifier(column.into) for column in flow.columns),
        comma(sql.SQL("{}\n").format(sql.SQL(column.expression)) for column in flow.columns),
        _TRIED,
        sql.Identifier(flow.source.name),
    )
    works = {}
    for text in updates:
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(sql.SQL("update {} set {}").format(_TRIED, sql.SQL(_assignment(text))))
                connection.execute(fitted)
            works[text] = True
        except psycopg.Error as error:
            if connection.closed:
                raise
            works[text] = not str(error.sqlstate).startswith(_REFUSED)
    return works


def _assignment(text: str) -> str:
    """Return what an UPDATE writes, as SQL."""
    import postgast

    tree = postgast.parse("update t set a = 1")
    tree.stmts[0].stmt.update_stmt.target_list[0].CopyFrom(parse.node(text).update_stmt.target_list[0])
    return postgast.deparse(tree)[len("UPDATE t SET ") :]
