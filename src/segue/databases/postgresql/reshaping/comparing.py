"""Compares two shapes: what the rows of one side become, and the rows that are there on the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from segue import clock
from segue.databases.postgresql import digests
from segue.databases.postgresql.errors import place
from segue.databases.postgresql.moving.support import told
from segue.databases.postgresql.reshaping import wording
from segue.databases.postgresql.reshaping.applying import Applier
from segue.databases.postgresql.verifying.comparing import Comparison
from segue.databases.postgresql.verifying.sessions import Sessions
from segue.databases.postgresql.verifying.tables import Column, Key, Match
from segue.errors import Blocked
from segue.planning.expressions import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segue.databases.postgresql.moving.support import Connection, Pair, Side
    from segue.databases.postgresql.reshaping.ways import Field, Group, Landing, Way
    from segue.model.verifying import TableVerdict, VerifySpec

    Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Rows:
    """See `segue.databases.postgresql.verifying.tables.Rows`."""

    said: str
    identifier: sql.Composable


def compare(
    pair: Pair, origin: Side, way: Way, spec: VerifySpec, note: Note, *, live: tuple[Side, Way] | None
) -> Iterator[TableVerdict]:
    """Compare what a way makes of the rows of `origin` with the rows of the other side, table by table.

    `live`: the side that is written to, and the way by which it is followed; who compares carries over on the way,
    since rows that are under way are not different. None where nothing is followed.
    """
    into = pair.other(origin)
    first = live[0] if live is not None else origin
    a, b = Sessions(first.url, spec.jobs), Sessions(pair.other(first).url, spec.jobs)
    try:
        reader = a.first if into is first else b.first
        with told(place(into.url)):
            found = [
                (_match(reader, group, landing, swapped=into is first), tuple(landing.walks))
                for group in way.groups
                for landing in group.landings
                if landing.leads
            ]
        for match, walked in found:
            note(f"comparing {match.sides[0].said} with {match.sides[1].said}")
            compared = Comparison(a, b, match, spec, catch_up=lambda _, most: _carry(pair, live, most))
            yield replace(compared.verdict(), key=walked)
    finally:
        a.close()
        b.close()


def _carry(pair: Pair, live: tuple[Side, Way] | None, most: float) -> None:
    """Carry over what was written by now; whoever follows beside takes turns."""
    until = clock.ticks() + most
    try:
        if live is not None:
            with Applier(pair, *live) as applier:
                while clock.ticks() < until and applier.turn().more is not False:
                    clock.sleep(0.01)
    except Blocked:
        # Switched meanwhile: what was open is closed and level.
        return
    clock.sleep(max(0.0, min(0.2, until - clock.ticks())))


def _match(into: Connection, group: Group, landing: Landing, *, swapped: bool) -> Match:
    """Return the two sides of a landing: what rows become, and what stands there. `swapped`: the latter comes first."""
    forms = _forms(into, landing)
    keys = dict(zip((field.name for field in landing.keys), landing.own_keys, strict=True))
    columns = []
    for number, field in enumerate((*landing.keys, *landing.values), 1):
        method, form = forms[field.name]
        form, why = (form, method.why) if field.plain else (digests.text_form(), "its type is of one database alone")
        columns.append(Column(field.name, field.type, False, (form, form), number, why))
    # The key once more, as it is indexed: a cast would keep its index from being walked.
    names = tuple(f"segue_key_{number}" for number, _ in enumerate(landing.walks))
    types = {field.name: field.type for field in landing.keys}
    key = Key(names, tuple(types[name] for name in landing.walks), ordered=all(landing.walks.values()))
    become = sql.SQL("(select {} from {} as {}{}{})").format(
        wording.comma(
            [
                *(_as(_typed(field, keys[field.name]), field.name) for field in landing.keys),
                *(_as(_typed(field, field.words), field.name) for field in landing.values),
                *(_as(walk or keys[name], as_) for as_, (name, walk) in zip(names, landing.walks.items(), strict=True)),
            ]
        ),
        sql.SQL(landing.origin),
        sql.Identifier(landing.alias),
        landing.joined,
        _where([landing.where, group.only]),
    )
    there = sql.SQL("(select {} from {} as s{})").format(
        wording.comma(
            [
                *(sql.SQL("s.{}").format(sql.Identifier(f.name)) for f in (*landing.keys, *landing.values)),
                *(_as(f"s.{quoted(name)}", as_) for as_, name in zip(names, landing.walks, strict=True)),
            ]
        ),
        sql.SQL(landing.into),
        _where([landing.guard]),
    )
    sides = _Rows(landing.origin, become), _Rows(landing.into, there)
    return Match((sides[1], sides[0]) if swapped else sides, tuple(columns), key, ())


def _forms(connection: Connection, landing: Landing) -> dict[str, tuple[digests.Method, str]]:
    row = connection.execute(
        "select n.nspname, c.relname from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n "
        "on n.oid = c.relnamespace where c.oid = pg_catalog.to_regclass(%s)",
        [landing.into],
    ).fetchone()
    return digests.forms(connection, *row) if row else {}


def _typed(field: Field, words: str) -> str:
    """Return a value as the column would hold it: with its scale, and padded. What is too long was refused before."""
    return f"({words})::{field.type}" if field.plain else words


def _as(words: str, name: str) -> sql.Composed:
    return sql.SQL("{} as {}").format(sql.SQL(words), sql.Identifier(name))


def _where(conditions: list[str | None]) -> sql.Composable:
    given = [f"({one})" for one in conditions if one]
    return sql.SQL(" where " + " and ".join(given)) if given else sql.SQL("")
