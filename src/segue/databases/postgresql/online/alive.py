"""Tells whether the server has emptied the unlogged tables of a change, as it does when it starts after a crash.

A table of the change's own, unlogged as well, has one row for as long as none of them was emptied. Where it still has
it in a transaction, the others were not emptied either, for a crash would have ended the transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.reading import Definition

if TYPE_CHECKING:
    from segue.databases.postgresql.online.blueprint import Blueprint, Member
    from segue.databases.postgresql.online.site import Connection


def place(blueprint: Blueprint) -> Place:
    """Return where the row is."""
    return Place(schema_name="segue", name=f"{blueprint.id}_alive")


def begin(connection: Connection, blueprint: Blueprint) -> None:
    """Put the row where it is to be seen, if any table on either side is unlogged; again when the copy begins anew."""
    if any(unlogged(member.definition) or unlogged(member.drawn) for member in blueprint.members):
        at = place(blueprint)
        connection.execute(f"create unlogged table if not exists {at} (alive boolean primary key)".encode())
        connection.execute(sql.SQL("insert into {} values (true) on conflict do nothing").format(at.sql))


def unlogged(definition: dict[str, object]) -> bool:
    """Return whether a table, or one below it, is unlogged."""
    return any(one.persistence == "u" for one in Definition.model_validate(definition).everything())


def emptied(connection: Connection, blueprint: Blueprint) -> bool:
    """Return whether unlogged tables have been emptied since the copy began."""
    row = connection.execute("select pg_catalog.to_regclass(%s) is not null", [str(place(blueprint))]).fetchone()
    if row is None or not row[0]:
        return False
    found = connection.execute(b"select exists (table " + str(place(blueprint)).encode() + b")").fetchone()
    return not (found and found[0])


def old_is(members: tuple[Member, ...]) -> bool:
    """Return whether an old table is unlogged."""
    return any(unlogged(member.definition) for member in members)
