"""Looks for rows that foreign keys would refuse, before a swap and under its locks: later it would be too late."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue import clock
from segue.databases.postgresql.online import conflicts, dependents, facts
from segue.databases.postgresql.online.conflicts import Reference
from segue.databases.postgresql.online.wording import Listing, Wording, comma, key_names
from segue.errors import LockNotGranted
from segue.ports import BACKWARD, FORWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import psycopg

    from segue.databases.postgresql.online.blueprint import Blueprint, Flow, Member
    from segue.databases.postgresql.online.drain import Drainer
    from segue.databases.postgresql.online.site import Site

    Connection = psycopg.Connection[tuple[Any, ...]]

#: A foreign key that was looked at in less time than this, in seconds, is looked at again under the swap's locks.
QUICK = 0.05


# Types of extensions have operators of their own, which a session may not find under the name.
_COMPARED = """
select a.attname, case when a.attcollation <> 0 then (
        select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(o.collname)
        from pg_catalog.pg_collation as o join pg_catalog.pg_namespace as n on n.oid = o.collnamespace
        where o.oid = a.attcollation
    ) end,
    t.typnamespace = 'pg_catalog'::regnamespace and pg_catalog.has_table_privilege(a.attrelid, 'SELECT')
        and not pg_catalog.row_security_active(a.attrelid)
from pg_catalog.pg_attribute as a join pg_catalog.pg_type as t on t.oid = a.atttypid
where a.attrelid = pg_catalog.to_regclass(%s) and a.attnum > 0 and not a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A foreign key that has to hold after a swap; `guarded` where the side that leaves has it as well."""

    reference: Reference
    guarded: bool


def keys(member: Member, blueprint: Blueprint, direction: str) -> Iterator[Key]:
    """Yield the foreign keys of a member that are validated after a swap, over the tables as they are before it."""
    flow = member.forward if direction == FORWARD else member.backward
    for entry in dependents.wanted_keys(member, blueprint, direction):
        definition = str(entry["definition"])
        if entry["table"] != str(member.table) or not entry["validated"] or "NOT ENFORCED" in definition:
            continue
        if "PERIOD " in definition:
            continue  # not refuted by a single row
        refers = next((one for one in blueprint.members if str(one.table) == entry["refers"]), None)
        guarded = _same(member, blueprint, entry, direction) and _plain(flow, entry["columns"])
        if refers is not None:
            guarded = guarded and _plain(flow_of(refers, direction), entry["refers_columns"])
        far = facts.parsed_name(entry["refers"])
        if refers is not None and not guarded:
            # What the other member will be: a row may come later than the one that refers to it, and is waited for.
            far = flow_of(refers, direction).into
        if far is None:
            continue
        full = " MATCH FULL" in definition
        reference = Reference(entry["name"], tuple(entry["columns"]), far, tuple(entry["refers_columns"]), full)
        yield Key(reference, guarded)


def flow_of(member: Member, direction: str) -> Flow:
    """Return the way in a direction."""
    return member.forward if direction == FORWARD else member.backward


def _same(member: Member, blueprint: Blueprint, entry: Mapping[str, Any], direction: str) -> bool:
    """Return whether the other side enforces the same foreign key."""
    other = BACKWARD if direction == FORWARD else FORWARD
    there = dependents.wanted_keys(member, blueprint, other)
    return any(
        (one["table"], one["name"]) == (entry["table"], entry["name"])
        and one["validated"]
        and one["columns"] == entry["columns"]
        and one["refers_columns"] == entry["refers_columns"]
        and one["refers"] == entry["refers"]
        for one in there
    )


def _plain(flow: Flow, columns: list[str]) -> bool:
    """Return whether columns have the values that they had, but for a cast that changes none."""
    given = {column.into: column.expression for column in flow.columns}
    for name in columns:
        expression = given.get(name, "").replace('"', "")
        value, _, type_ = expression.rpartition("::")
        if expression != name.replace('"', "") and not (
            value.strip("()") == name.replace('"', "") and type_ in ("bigint", "numeric", "text")
        ):
            return False
    return True


class Orphans:
    """The foreign keys of a change in one direction, and how long it took to look at each."""

    def __init__(self, site: Site, blueprint: Blueprint, direction: str) -> None:
        self._site = site
        self._blueprint = blueprint
        self._direction = direction
        self._seconds: dict[tuple[int, str], float] = {}
        self.keys = [
            (member, found)
            for member in blueprint.members
            for key in keys(member, blueprint, direction)
            if (found := self._looked_at(key)) is not None
        ]

    def _looked_at(self, key: Key) -> Key | None:
        """Return a foreign key with what its columns are compared by; None where that would be guessed, or hidden."""
        reference = key.reference
        columns = {
            name: (collation, plain)
            for name, collation, plain in self._site.look.execute(_COMPARED.encode(), [str(reference.table)])
        }
        found = [columns.get(name, (None, False)) for name in reference.referenced]
        if key.guarded and not all(plain for _, plain in found):
            return None
        return replace(key, reference=replace(reference, collations=tuple(collation for collation, _ in found)))

    def take_out(
        self,
        sessions: Callable[[], AbstractContextManager[Connection]],
        boundary: Callable[[], None] = lambda: None,
        *,
        every: bool,
    ) -> dict[str, int]:
        """Take rows that refer to nothing out of the destination; return how many by foreign key, where there are any.

        `every`: also those that the other side guards; somebody may have written past it.
        """
        found = {}
        for member, key in self.keys:
            if key.guarded and not every:
                continue
            boundary()
            began = clock.ticks()
            with sessions() as session:
                moved = conflicts.orphans(
                    self._site, self._blueprint.id, member, key.reference, connection=session, direction=self._direction
                )
            self._seconds[member.number, key.reference.name] = clock.ticks() - began
            if moved:
                found[key.reference.name] = moved
        return found

    def again(self) -> None:
        """Put rows that were taken out into the log where what they refer to is there by now."""
        for member, key in self.keys:
            name = key.reference.name
            flow = flow_of(member, self._direction)
            waiting = sql.SQL(
                "select key from segue.conflict where change = {} and member = {} and direction = {} "
                "and sqlstate = '23503' and rule = {}"
            ).format(*(sql.Literal(value) for value in (self._blueprint.id, member.number, self._direction, name)))
            if self._site.look.execute(waiting + sql.SQL(" limit 1")).fetchone() is None:
                continue
            with self._site.transaction() as connection:
                wording = Wording(connection, flow)
                listing = Listing(connection, wording, f"segue_{self._blueprint.id}_{member.number}_again")
                casts = comma(sql.SQL(f"key[{n}]::{column.type}") for n, column in enumerate(flow.key, 1))
                given = {column.into: column.expression for column in flow.columns}
                values = [sql.SQL(given.get(column, "null")) for column in key.reference.columns]
                connection.execute(
                    sql.SQL("{}; insert into {} ({}) select {} from ({}) as waiting").format(
                        listing.emptied, listing.table, listing.names, casts, waiting
                    )
                )
                # A line of its own for each expression: a comment at its end must not swallow what comes after it.
                connection.execute(
                    sql.SQL(
                        "with mine as materialized (select {key}, {values}\nfrom {source} where {holds}) "
                        "insert into {log} ({names}) select {names} from mine where {fits}"
                    ).format(
                        key=comma(
                            sql.SQL("{} as {}").format(part, sql.SQL(f"segue_k{n}"))
                            for n, part in enumerate(wording.key(), 1)
                        ),
                        values=comma(
                            sql.SQL("{}\n as {}").format(value, sql.SQL(f"segue_r{n}"))
                            for n, value in enumerate(values)
                        ),
                        source=wording.source,
                        holds=listing.holds(),
                        log=self._blueprint.log(member, self._direction).sql,
                        names=key_names(flow.key),
                        fits=key.reference.fits([sql.Identifier("mine", f"segue_r{n}") for n, _ in enumerate(values)]),
                    )
                )

    def check(self, connection: Connection, drainers: Mapping[int, Drainer]) -> None:
        """Look under the swap's locks whether a row that was brought up to date under them refers to nothing.

        Where it was quick before, at all rows. Raises LockNotGranted: they are taken out first.
        """
        for member, key in self.keys:
            if key.guarded:
                continue
            name = key.reference.name
            drainer = drainers[member.number]
            mine = [sql.Identifier("segue_into", column) for column in key.reference.columns]
            quick = self._seconds.get((member.number, name), QUICK) < QUICK
            row = connection.execute(
                sql.SQL("select exists (select from {} as segue_into where {} and not ({}))").format(
                    drainer.into, sql.SQL("true") if quick else drainer.listed, key.reference.fits(mine)
                )
            ).fetchone()
            if row is not None and row[0]:
                raise LockNotGranted(f'rows of {member.table} do not fit "{name}"')
