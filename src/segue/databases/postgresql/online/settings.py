"""Finds expressions whose values would be others in an ordinary session, by what its role or database sets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.online.writing import name as quoted
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.databases.postgresql.online.blueprint import Place
    from segue.databases.postgresql.online.site import Connection

#: Rows of the table that are looked at, and how many of them one by one where one does not fit.
SAMPLE = 1_000
SINGLES = 20

# Whatever is pinned and could make another value of the same one.
_SETTINGS = """
select name, setting, reset_val from pg_catalog.pg_settings
where name in ('TimeZone', 'DateStyle', 'IntervalStyle', 'lc_monetary', 'lc_numeric', 'lc_time', 'extra_float_digits',
    'bytea_output', 'xmloption', 'xmlbinary', 'array_nulls', 'timezone_abbreviations', 'default_text_search_config')
    and setting <> reset_val
order by name
"""

_COLUMNS = """
select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod)
from pg_catalog.pg_attribute as a
where a.attrelid = pg_catalog.to_regclass(%s) and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""

#: Values as text, tried for columns of every type: whatever cannot be read as the type is left out.
_PROBES = (
    "2026-07-01 12:34:56.789+00",
    "2026-07-01 23:30:00+00",
    "2026-01-01 00:30:00+00",
    "2026-01-02 03:04:05",
    "03/04/2026",
    "23:30:00-05",
    "1 year 2 mons -3 days 04:05:06",
    "-1234.5678901234567",
    "7",
    "\\x00ff41",
    "{NULL,1}",
    "<a>b</a>",
)

# What depends on when, or on who asks, and is no setting.
_MOMENT = re.compile(
    r"\b(now|transaction_timestamp|statement_timestamp|clock_timestamp|random|gen_random_uuid|nextval|timeofday)\(|"
    r"\b(CURRENT_(DATE|TIME|TIMESTAMP|USER|ROLE|CATALOG|SCHEMA)|LOCALTIME|LOCALTIMESTAMP|SESSION_USER|USER)\b"
)
_LITERAL = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")


def check(
    connection: Connection, tried: Place, rows: Place | None, expression: str, what: str, aliases: Mapping[str, str]
) -> None:
    """Raise StepFailed where an expression has another value in an ordinary session than in one of Segue's.

    `tried` is an empty table with the columns that it names; `rows` one with rows, or None. `aliases` are expressions
    over `rows` by column of `tried`, where they are not the columns themselves.
    """
    if _immutable(connection, tried, expression):
        return
    if found := _MOMENT.search(_LITERAL.sub("''", expression)):
        raise StepFailed(
            f"{what}: {found[0].rstrip('(')} gives another value each time, and no row could be compared with its copy",
            details=[expression],
            hint="let the expression depend on the row alone",
        )
    others = [(str(name), str(ours), str(theirs)) for name, ours, theirs in connection.execute(_SETTINGS.encode())]
    if not others:
        return
    columns = connection.execute(_COLUMNS.encode(), [str(tried)]).fetchall()
    names = ", ".join(quoted(name) for name, _ in columns)
    sources = [
        _select("*", f"(values ({', '.join(_probe(connection, type_, probe) for _, type_ in columns)})) as v ({names})")
        for probe in _PROBES
    ]
    if rows is not None:
        listed = ", ".join(f"({aliases.get(name, quoted(name))})::{type_} as {quoted(name)}" for name, type_ in columns)
        found_all = _differs(connection, _select(listed, f"{rows} limit {SAMPLE}"), expression, others)
        if found_all is not None:
            _refuse(expression, what, others, found_all)
        sources += [_select(listed, f"{rows} limit 1 offset {number}") for number in range(SINGLES)]
    for source in sources:
        found_one = _differs(connection, source, expression, others)
        if found_one is not None:
            _refuse(expression, what, others, found_one)


def _select(columns: str, source: str) -> str:
    """Put a query together; the names in it are quoted, and expressions are as the server wrote them."""
    return f"select {columns} from {source}"  # noqa: S608


def _immutable(connection: Connection, tried: Place, expression: str) -> bool:
    """Ask the server, which has no index over what is not."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"create index on only {tried} ((({expression}\n) is null))".encode())
    except psycopg.errors.InvalidObjectDefinition:
        return False
    return True


def _probe(connection: Connection, type_: str, probe: str) -> str:
    literal = f"{sql.Literal(probe).as_string(connection)}::{type_}"
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"select {literal}".encode())
    except psycopg.Error:
        if connection.closed:
            raise
        return f"null::{type_}"
    return literal


def _differs(
    connection: Connection, source: str, expression: str, others: list[tuple[str, str, str]]
) -> tuple[str, str] | None:
    """Return what the first value that differs is under our settings, and under the ordinary ones."""
    tables = ("segue_ours", "segue_theirs")
    ends: list[str | None] = []
    with connection.transaction(force_rollback=True):
        for table, place in zip(tables, (1, 2), strict=True):
            for setting in others:
                connection.execute("select pg_catalog.set_config(%s, %s, true)", [setting[0], setting[place]])
            # Literals among the probes would be read by the other settings too.
            ends.append(_make(connection, table, expression, "pg_temp.segue_rows" if place == 2 else source))
            if place == 1 and ends[0] == "none":
                return None
        for name, ours, _ in others:
            connection.execute("select pg_catalog.set_config(%s, %s, true)", [name, ours])
        if ends[0] is not None or ends[1] is not None:
            both = ends[0] is not None and ends[1] is not None
            return None if both else (ends[0] or "a value", ends[1] or "a value")
        row: Any = connection.execute(
            b"select o.v::text, t.v::text from pg_temp.segue_ours as o join pg_temp.segue_theirs as t using (n) "
            b"where o.v::text is distinct from t.v::text limit 1"
        ).fetchone()
    return (str(row[0]), str(row[1])) if row else None


def _make(connection: Connection, table: str, expression: str, source: str) -> str | None:
    """Keep the values of an expression; return why there are none."""
    if source != "pg_temp.segue_rows":
        try:
            with connection.transaction():
                text = _select("row_number() over () as segue_n, s.*", f"({source}) as s")
                connection.execute(f"create temp table segue_rows as {text}".encode())
        except psycopg.Error:
            if connection.closed:
                raise
            return "none"
    try:
        with connection.transaction():
            text = _select(f"segue_n as n, ({expression}\n) as v", "pg_temp.segue_rows")
            connection.execute(f"create temp table {table} as {text}".encode())
    except psycopg.Error as error:
        if connection.closed:
            raise
        return f"an error ({error.diag.message_primary})"
    return None


def _refuse(expression: str, what: str, others: list[tuple[str, str, str]], values: tuple[str, str]) -> None:
    raise StepFailed(
        f"{what}: it depends on settings of the session, and ALTER TABLE in a session of this role would give another "
        f"value: {values[1]}, where Segue's give {values[0]}",
        details=[
            expression,
            *(
                f'{name}: "{theirs}" in sessions of this role on this database, "{ours}" here'
                for name, ours, theirs in others
            ),
        ],
        hint="say in USING which it is to be, as in AT TIME ZONE 'Europe/Berlin' or to_char(…, 'YYYY-MM-DD HH24:MI')",
    )
