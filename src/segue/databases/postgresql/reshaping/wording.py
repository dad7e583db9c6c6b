"""The statements that carry rows from one side to the other: what is read, and how it is put."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segue.databases.postgresql.moving.support import Pair
    from segue.databases.postgresql.reshaping.ways import Field, Group, Landing, Log

PRESENT = "segue_present"


def comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    """Join parts by commas."""
    return sql.SQL(", ").join(parts)


def form(landing: Landing) -> sql.SQL:
    """Return the format in which a landing's rows pass."""
    return sql.SQL("(format binary)" if landing.binary else "(format text)")


# -- where rows come from


def keys_table(group: Group) -> sql.Identifier:
    """Return the temporary table that lists a group's keys."""
    return sql.Identifier("pg_temp", f"segue_keys_{group.number}")


def make_keys(group: Group) -> sql.Composed:
    """Make that table."""
    columns = sql.SQL(", ").join(sql.SQL(f"k{n} {type_}") for n, type_ in enumerate(group.types, 1))
    return sql.SQL("create temporary table if not exists {} ({}) on commit delete rows").format(
        sql.Identifier(f"segue_keys_{group.number}"), columns
    )


def take(pair: Pair, group: Group, most: int | None) -> sql.Composed:
    """Take entries out of the group's logs, list their keys, and return how many of either there were.

    Of each log `most` entries at most; None: all that the snapshot sees.
    """
    gone, listed = [], []
    for n, feed in enumerate(group.feeds):
        log = sql.Identifier(pair.name, f"log_{feed.log}")
        only = sql.SQL("l.k1 is not null and ({})").format(sql.SQL(feed.only))
        some: sql.Composable = sql.SQL("")
        if most is not None:
            some = sql.SQL(" and l.ctid = any(array(select l.ctid from {} as l where {} limit {}))").format(
                log, only, sql.SQL(str(most))
            )
        words = comma(sql.SQL(f"{word} as k{n}") for n, word in enumerate(feed.words, 1))
        gone.append(
            sql.SQL("g{} as (delete from {} as l where {}{} returning {})").format(
                sql.SQL(str(n)), log, only, some, words
            )
        )
        listed.append(sql.SQL("select * from g{}").format(sql.SQL(str(n))))
    total = sql.SQL(" + ").join(
        sql.SQL("(select count(*) from {})").format(sql.Identifier(f"g{n}")) for n, _ in enumerate(gone)
    )
    return sql.SQL(
        "with {}, listed as (insert into {} select distinct * from ({}) as u returning 1) "
        "select {}, (select count(*) from listed)"
    ).format(comma(gone), keys_table(group), sql.SQL(" union all ").join(listed), total)


def take_all(group: Group) -> sql.Composed:
    """List every key that there is, besides those that were touched."""
    lead = group.landings[0]
    words = comma(sql.SQL(word) for word in group.own)
    only = sql.SQL(" where {}").format(sql.SQL(group.only)) if group.only else sql.SQL("")
    return sql.SQL("insert into {} select {} from {} as {}{} except select * from {}").format(
        keys_table(group), words, sql.SQL(lead.origin), sql.Identifier(lead.alias), only, keys_table(group)
    )


def emptied(pair: Pair, number: int) -> sql.Composed:
    """Ask whether a log says that its table was emptied."""
    return sql.SQL("select exists (select from {} where k1 is null)").format(sql.Identifier(pair.name, f"log_{number}"))


def forget_emptied(pair: Pair, number: int) -> sql.Composed:
    """Take that out of the log."""
    return sql.SQL("delete from {} where k1 is null").format(sql.Identifier(pair.name, f"log_{number}"))


def forget_gone(pair: Pair, log: Log) -> sql.Composed:
    """Take entries out of a log whose rows are not there any more."""
    return sql.SQL("delete from {} as l where k1 is not null and not exists (select from {} as r where {})").format(
        sql.Identifier(pair.name, f"log_{log.number}"), sql.SQL(log.table), _logged(log)
    )


def kept_back(pair: Pair, log: Log, most: int = 20) -> sql.Composed:
    """Return the keys in a log whose rows are there."""
    keys = comma(sql.SQL(f"l.k{n}") for n, _ in enumerate(log.key, 1))
    return sql.SQL("select distinct row({})::text from {} as l limit {}").format(
        keys, sql.Identifier(pair.name, f"log_{log.number}"), sql.Literal(most)
    )


def _logged(log: Log) -> sql.Composable:
    return sql.SQL(" and ").join(
        sql.SQL("r.{} = l.{}").format(sql.Identifier(name), sql.SQL(f"k{n}")) for n, (name, _) in enumerate(log.key, 1)
    )


def read_listed(group: Group, landing: Landing, only: sql.Composable | None = None) -> sql.Composed:
    """Read what the rows of listed keys become: keys, whether the row is there, values."""
    present = sql.SQL(landing.present)
    fields = [
        *(sql.SQL(field.words) for field in landing.keys),
        present,
        *(sql.SQL("case when {} then {} end").format(present, sql.SQL(field.words)) for field in landing.values),
    ]
    match = sql.SQL(" and ").join(
        [*map(sql.SQL, landing.match), *([sql.SQL("({})").format(sql.SQL(landing.where))] if landing.where else [])]
    )
    return sql.SQL("select {} from {} as k left join {} as {} on {}{}{}").format(
        comma(fields),
        keys_table(group),
        sql.SQL(landing.origin),
        sql.Identifier(landing.alias),
        match,
        landing.joined,
        sql.SQL(" where {}").format(only) if only is not None else sql.SQL(""),
    )


def read_part(landing: Landing, part: str, condition: sql.Composable) -> sql.Composed:
    """Read what the rows of a table or partition become for which a condition on the bare `ctid` holds."""
    fields = comma([*map(sql.SQL, landing.own_keys), *(sql.SQL(field.words) for field in landing.values)])
    return sql.SQL("select {} from (select ctid as segue_place, * from only {} where {}) as {}{}{}").format(
        fields,
        sql.SQL(part),
        condition,
        sql.Identifier(landing.alias),
        landing.joined,
        sql.SQL(" where ({})").format(sql.SQL(landing.where)) if landing.where else sql.SQL(""),
    )


def copy_out(query: sql.Composed, landing: Landing) -> sql.Composed:
    """Return what sends the rows of a query."""
    return sql.SQL("copy ({}) to stdout {}").format(query, form(landing))


# -- where they are put


def stage(landing: Landing) -> sql.Identifier:
    """Return the temporary table that takes a landing's rows in."""
    return sql.Identifier("pg_temp", f"segue_stage_{landing.number}")


def make_stage(landing: Landing) -> sql.Composed:
    """Make that table, and the one of what columns keep."""
    keys = [_column(field) for field in landing.keys]
    columns = [*keys, sql.SQL(f"{PRESENT} boolean"), *(_column(field) for field in landing.values)]
    made = sql.SQL("create temporary table if not exists {} ({}) on commit delete rows").format(
        sql.Identifier(f"segue_stage_{landing.number}"), comma(columns)
    )
    if not landing.kept or not landing.leads:
        return made
    names = comma(sql.SQL("s.{}").format(sql.Identifier(n)) for n in (*(f.name for f in landing.keys), *landing.kept))
    return sql.SQL(
        "{}; create temporary table if not exists {} on commit delete rows as select {} from {} as s with no data"
    ).format(made, sql.Identifier(f"segue_kept_{landing.number}"), names, sql.SQL(landing.into))


def copy_in(landing: Landing) -> sql.Composed:
    """Return what takes the rows of `read_listed` in."""
    names = comma(
        sql.Identifier(name) for name in (*(f.name for f in landing.keys), PRESENT, *(f.name for f in landing.values))
    )
    return sql.SQL("copy {} ({}) from stdin {}").format(stage(landing), names, form(landing))


def copy_into(landing: Landing) -> sql.Composed:
    """Return what takes the rows of `read_part` into their table."""
    names = comma(sql.Identifier(field.name) for field in (*landing.keys, *landing.values))
    return sql.SQL("copy {} ({}) from stdin {}").format(sql.SQL(landing.into), names, form(landing))


def put(landing: Landing) -> list[sql.Composed]:
    """Make the listed rows of a table what has come in, in place: columns that nobody carries stay as they are."""
    if not landing.leads:
        return _update(landing)
    into, staged, same, ours = sql.SQL(landing.into), stage(landing), _same(landing, "s", "g"), _ours(landing)
    given = [sql.Identifier(field.name) for field in (*landing.keys, *landing.values)]
    found = [
        sql.SQL("delete from {} as s using {} as g where {}{} and not g.{}").format(
            into, staged, same, ours, sql.SQL(PRESENT)
        )
    ]
    if landing.values:
        assigned = comma(
            sql.SQL("{} = g.{}").format(sql.Identifier(f.name), sql.Identifier(f.name)) for f in landing.values
        )
        found.append(
            sql.SQL("update {} as s set {} from {} as g where {}{} and g.{}").format(
                into, assigned, staged, same, ours, sql.SQL(PRESENT)
            )
        )
    found.append(
        sql.SQL(
            "insert into {} ({}) overriding system value select {} from {} as g where g.{} "
            "and not exists (select from {} as s where {}{})"
        ).format(into, comma(given), _of("g", given), staged, sql.SQL(PRESENT), into, same, ours)
    )
    return found


def put_anew(landing: Landing) -> list[sql.Composed]:
    """Do the same where values have moved between rows: all of them are taken out before any is put in."""
    if not landing.leads:
        return _update(landing)
    into, staged, same, ours = sql.SQL(landing.into), stage(landing), _same(landing, "s", "g"), _ours(landing)
    keys = [sql.Identifier(field.name) for field in landing.keys]
    given = [*keys, *(sql.Identifier(field.name) for field in landing.values)]
    kept = [sql.Identifier(name) for name in landing.kept]
    remains = sql.Identifier("pg_temp", f"segue_kept_{landing.number}")
    found: list[sql.Composed] = []
    if kept:
        found.append(
            sql.SQL("insert into {} select {} from {} as g join {} as s on {}{} where g.{}").format(
                remains, _of("s", [*keys, *kept]), staged, into, same, ours, sql.SQL(PRESENT)
            )
        )
    found.append(sql.SQL("delete from {} as s using {} as g where {}{}").format(into, staged, same, ours))
    rest: sql.Composable = sql.SQL("")
    if kept:
        found.append(
            sql.SQL("insert into {} ({}) overriding system value select {}, {} from {} as g join {} as r on {}").format(
                into, comma([*given, *kept]), _of("g", given), _of("r", kept), staged, remains, _same(landing, "r", "g")
            )
        )
        rest = sql.SQL(" and not exists (select from {} as r where {})").format(remains, _same(landing, "r", "g"))
    found.append(
        sql.SQL("insert into {} ({}) overriding system value select {} from {} as g where g.{}{}").format(
            into, comma(given), _of("g", given), staged, sql.SQL(PRESENT), rest
        )
    )
    return found


def _ours(landing: Landing) -> sql.Composable:
    return sql.SQL(" and ({})").format(sql.SQL(landing.guard)) if landing.guard else sql.SQL("")


def _update(landing: Landing) -> list[sql.Composed]:
    if not landing.values:
        return []
    found, ours = [], _ours(landing)
    for there in (True, False):
        assigned = comma(
            sql.SQL("{} = {}").format(
                sql.Identifier(f.name), sql.SQL("g.{}").format(sql.Identifier(f.name)) if there else sql.SQL("default")
            )
            for f in landing.values
        )
        found.append(
            sql.SQL("update {} as s set {} from {} as g where {}{} and {}").format(
                sql.SQL(landing.into),
                assigned,
                stage(landing),
                _same(landing, "s", "g"),
                ours,
                sql.SQL(f"g.{PRESENT}" if there else f"not g.{PRESENT}"),
            )
        )
    return found


def strangers(landing: Landing) -> sql.Composed:
    """Look for a row that was put and is none of ours: what the filter says is not so of it."""
    return sql.SQL("select {}::text from {} as s join {} as g on {} where g.{} and ({}) is not true limit 1").format(
        sql.SQL("row({})").format(_of("g", [sql.Identifier(f.name) for f in landing.keys])),
        sql.SQL(landing.into),
        stage(landing),
        _same(landing, "s", "g"),
        sql.SQL(PRESENT),
        sql.SQL(landing.guard or "true"),
    )


def clear_others(landing: Landing) -> sql.Composed:
    """Take all rows that are ours and have not come in out of a table."""
    return sql.SQL("delete from {} as s where not exists (select from {} as g where {} and g.{}){}").format(
        sql.SQL(landing.into), stage(landing), _same(landing, "s", "g"), sql.SQL(PRESENT), _ours(landing)
    )


def _column(field: Field) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(field.stage or field.type))


def _same(landing: Landing, one: str, other: str) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL(f"{one}.{{}} = {other}.{{}}").format(sql.Identifier(f.name), sql.Identifier(f.name))
        for f in landing.keys
    )


def _of(row: str, names: Iterable[sql.Identifier]) -> sql.Composed:
    return comma(sql.SQL(f"{row}.{{}}").format(name) for name in names)
