"""Counts the rows that a rule would refuse which is to be added in place, before it is tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql import parse
from segue.databases.postgresql.locking import set_local
from segue.databases.postgresql.online.refusing import MOST_CONFLICTS
from segue.databases.postgresql.online.writing import name as quoted
from segue.databases.postgresql.relations import strings
from segue.errors import StepFailed
from segue.model.quantities import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.databases.postgresql.online.blueprint import Place

    Connection = psycopg.Connection[tuple[Any, ...]]

#: Of larger tables rows are not grouped to find equal ones: building the index tells, and leaves nothing.
MOST_SORTED = 1_000_000
#: How long the table is tried for, in seconds.
_LOCKS = 3.0

_PRIMARY = """
select array_agg(a.attname::text order by k.place) from pg_catalog.pg_index as i
cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, place)
join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
where i.indrelid = pg_catalog.to_regclass(%s) and i.indisprimary and k.place <= i.indnkeyatts
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key; without `keys` it refers to the other table's primary key."""

    table: Place
    columns: tuple[str, ...]
    other: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule in words, and a query with a row for each row that it refuses, unless it is that of a foreign key."""

    table: str
    words: str
    query: sql.Composable
    reference: Reference | None = None


def required(table: Place, column: str) -> Rule:
    """Return the rule that a column is not NULL."""
    query = sql.SQL("select from {} where {} is null").format(table.sql, sql.Identifier(column))
    return Rule(str(table), f"NOT NULL of {quoted(column)}", query)


def unique(table: Place, keys: Sequence[str], *, nulls: bool) -> Rule:
    """Return the rule that rows differ in columns, of NULL values too with `nulls`."""
    names = [sql.Identifier(key) for key in keys]
    given = sql.SQL(" and ").join(sql.SQL("{} is not null").format(name) for name in names)
    query = sql.SQL(
        "select from (select count(*) as segue_n from {} where {} group by {} having count(*) > 1) as segue_g "
        "cross join lateral generate_series(2, segue_n) as segue_s"
    ).format(table.sql, sql.SQL("true") if nulls else given, sql.SQL(", ").join(names))
    return Rule(str(table), f"UNIQUE ({', '.join(map(quoted, keys))})", query)


def checked(table: Place, constraint: Any) -> Rule:
    """Return the rule of a CHECK or a foreign key, as the grammar has it."""
    if constraint.HasField("raw_expr"):
        return _check(table, constraint)
    columns, keys = strings(constraint.fk_attrs), strings(constraint.pk_attrs)
    names = [word for word in (constraint.pktable.schemaname, constraint.pktable.relname) if word]
    words = f"FOREIGN KEY ({', '.join(map(quoted, columns))}) REFERENCES {'.'.join(map(quoted, names))}"
    return Rule(str(table), words, sql.SQL(""), Reference(table, tuple(columns), tuple(names), tuple(keys)))


def _check(table: Place, constraint: Any) -> Rule:
    from postgast import deparse
    from postgast import pg_query_pb2 as pb

    node = parse.node("SELECT FROM t WHERE (true) IS FALSE")
    select = node.select_stmt
    select.from_clause[0].range_var.schemaname = table.schema_name
    select.from_clause[0].range_var.relname = table.name
    select.from_clause[0].range_var.inh = not constraint.is_no_inherit
    select.where_clause.boolean_test.arg.CopyFrom(constraint.raw_expr)
    tree = pb.ParseResult()
    tree.stmts.add().stmt.CopyFrom(node)
    return Rule(str(table), f'"{constraint.conname}"', sql.SQL(str(deparse(tree))))


def _orphans(connection: Connection, key: Reference) -> sql.Composable | None:
    """Return the query for rows that refer to none; None where it cannot be told to what they refer."""
    other = sql.Identifier(*key.other)
    row = connection.execute(_PRIMARY, [other.as_string(connection)]).fetchone()
    keys = key.keys or tuple((row[0] if row else None) or ())
    if len(keys) != len(key.columns):
        return None
    mine = [sql.Identifier("segue_t", column) for column in key.columns]
    theirs = [sql.Identifier("segue_o", name) for name in keys]
    return sql.SQL("select from {} as segue_t where {} and not exists (select from {} as segue_o where {})").format(
        key.table.sql,
        sql.SQL(" and ").join(sql.SQL("{} is not null").format(name) for name in mine),
        other,
        sql.SQL(" and ").join(sql.SQL("{} = {}").format(*pair) for pair in zip(theirs, mine, strict=True)),
    )


def misfits(connection: Connection, rules: Sequence[Rule]) -> list[str]:
    """Return a line for each rule that rows do not fit; each rule is a read of its table, as its validation would be.

    Raises StepFailed where there are more of them than anybody would mend.
    """
    found = []
    for rule in rules:
        number = _count(connection, rule)
        many = f"more than {count(MOST_CONFLICTS)}" if number > MOST_CONFLICTS else count(number)
        noun = "row" if number == 1 else "rows"
        line = f"{many} {noun} of {rule.table} {'does' if number == 1 else 'do'} not fit {rule.words}"
        if number > MOST_CONFLICTS:
            raise StepFailed(line, hint="nothing was changed; mend the rows beforehand, or change the definition")
        if number:
            found.append(line)
    return found


def _count(connection: Connection, rule: Rule) -> int:
    """Return how many rows a rule refuses, up to one more than are listed; 0 where that cannot be read beforehand."""
    try:
        with connection.transaction():
            connection.execute("set transaction read only")
            set_local(connection, "lock_timeout", _LOCKS)
            query = _orphans(connection, rule.reference) if rule.reference is not None else rule.query
            if query is None:
                return 0
            counted = connection.execute(
                sql.SQL("select count(*) from ({} limit {}) as segue_c").format(query, MOST_CONFLICTS + 1)
            ).fetchone()
            return int(counted[0]) if counted else 0
    except psycopg.Error:
        # A column that the change itself adds, a right that is missing, a table that is locked: trying it tells.
        if connection.closed:
            raise
        return 0
