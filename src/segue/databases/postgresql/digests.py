"""Reduces rows to numbers: one for each row, from all of its values, and a sum over many rows.

A row's number must differ whenever the row does. A hash of PostgreSQL's is good for that only where values that are
equal are the same, and where it looks at every bit; else what is hashed is the value's text, under pinned settings.
The server's own hash of a whole row is not used: it adds the hashes of the columns up, so that in a sum over rows two
values that were swapped between rows would go unnoticed, and it sees half the bits of a bigint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

HASH, TEXT = "hash", "text"
# Types of pg_catalog of which equal values are the same, with a hash of theirs that sees every bit.
_HASHES = {
    "bool": "pg_catalog.hashint4extended({value}::pg_catalog.int4, {seed})",
    "int2": "pg_catalog.hashint2extended({value}, {seed})",
    "int4": "pg_catalog.hashint4extended({value}, {seed})",
    # This hash folds the two halves into one; with the value beside it nothing is lost.
    "int8": "(pg_catalog.hashint8extended({value}, {seed}) # {value})",
    "oid": "pg_catalog.hashoidextended({value}, {seed})",
    "char": "pg_catalog.hashcharextended({value}, {seed})",
    "name": 'pg_catalog.hashnameextended({value} collate "C", {seed})',
    "text": 'pg_catalog.hashtextextended({value} collate "C", {seed})',
    "varchar": 'pg_catalog.hashtextextended({value} collate "C", {seed})',
    "uuid": "pg_catalog.uuid_hash_extended({value}, {seed})",
    "inet": "pg_catalog.hashinetextended({value}, {seed})",
    "cidr": "pg_catalog.hashinetextended({value}, {seed})",
    "macaddr": "pg_catalog.hashmacaddrextended({value}, {seed})",
    "macaddr8": "pg_catalog.hashmacaddr8extended({value}, {seed})",
    # Of these only a row's hash can be had; that of a row of one column is the column's.
    "bytea": "nullif(pg_catalog.hash_record_extended(row({value}), {seed}), 0)",
    "date": "nullif(pg_catalog.hash_record_extended(row({value}), {seed}), 0)",
}
_ENUM = "pg_catalog.hashenumextended({value}, {seed})"
_TEXT = 'pg_catalog.hashtextextended({value}::pg_catalog.text collate "C", {seed})'
# Where a cast to text is a function, it may drop what the value's own text has: blanks at the end of a char(n).
_OUTPUT = 'pg_catalog.hashtextextended(pg_catalog.textin({output}({value})) collate "C", {seed})'

_COARSE = ("numeric", "float4", "float8", "interval", "jsonb", "bpchar")
_HALF = ("timestamp", "timestamptz", "time", "timetz", "money", "pg_lsn", "xid8")

_COLUMNS = """
with recursive base as (
    select a.attname, a.atttypid as type, a.atttypid as given, a.attcollation
    from pg_catalog.pg_attribute as a
    join pg_catalog.pg_class as c on c.oid = a.attrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %(schema)s and c.relname = %(name)s and a.attnum > 0 and not a.attisdropped
    union all
    select b.attname, t.typbasetype, b.given, b.attcollation
    from base as b join pg_catalog.pg_type as t on t.oid = b.type where t.typtype = 'd'
)
select b.attname, t.typname, t.typnamespace = 'pg_catalog'::regnamespace, t.typtype::text,
    t.typtype = 'b' and t.typelem <> 0 and t.typlen = -1 and t.typcategory = 'A',
    b.type <> b.given, pg_catalog.format_type(t.oid, null), t.typoutput::regproc::text,
    coalesce((select o.collisdeterministic from pg_catalog.pg_collation as o where o.oid = b.attcollation), true),
    exists (
        select from pg_catalog.pg_cast as k
        where k.castsource = t.oid and k.casttarget = 'text'::regtype and k.castmethod = 'f'
    ),
    exists (
        select from pg_catalog.pg_opclass as o
        join pg_catalog.pg_am as m on m.oid = o.opcmethod and m.amname = 'hash'
        join pg_catalog.pg_amproc as p on p.amprocfamily = o.opcfamily and p.amprocnum = 2
            and p.amproclefttype = o.opcintype
        where o.opcintype = t.oid and o.opcdefault
    )
from base as b join pg_catalog.pg_type as t on t.oid = b.type and t.typtype <> 'd'
"""


@dataclass(frozen=True, slots=True)
class Method:
    """How a column is compared: by the hash of its values, or of their text, and then why."""

    how: str
    why: str = ""

    def __str__(self) -> str:
        """Return it as the record of a comparison has it."""
        return f"{self.how} ({self.why})" if self.why else self.how


def forms(connection: Connection, schema: str, name: str) -> dict[str, tuple[Method, str]]:
    """Return how each column of a table is hashed, as SQL with `value` and `seed` to be filled in."""
    rows = connection.execute(_COLUMNS.encode(), {"schema": schema, "name": name})
    return {row[0]: _form(*row[1:]) for row in rows}


def text_form() -> str:
    """Return how the text of a value is hashed."""
    return _TEXT


def total(row: sql.Composable, table: sql.Composable, where: sql.Composable) -> sql.Composed:
    """Return a query of one row: how many rows a condition holds for, and the sum of what they are.

    `row` is what `row_hash` returns for a side, `table` the side as FROM wants it: the destination called `segue_into`,
    the source by its name.
    """
    # Each row once more through the hash: a sum of what the columns are would not notice values that were swapped
    # between rows. OFFSET keeps the number from being computed twice.
    return sql.SQL(
        "select count(*) as segue_rows, coalesce(sum(pg_catalog.hashint8extended(segue_hash, {}) # segue_hash), 0) "
        "as segue_digest from (select {} as segue_hash from {} where {} offset 0) as segue_hashed"
    ).format(number(constant(1)), row, table, where)


def _form(
    base: str,
    builtin: bool,
    kind: str,
    array: bool,
    domain: bool,
    name: str,
    output: str,
    deterministic: bool,
    cast: bool,
    hashed: bool,
) -> tuple[Method, str]:
    """Return how values of a type are hashed, with `value` and `seed` to be filled in."""
    value = "({value})::" + name.replace("{", "{{").replace("}", "}}") if domain else "{value}"
    exact = _ENUM if kind == "e" else _HASHES.get(base) if builtin else None
    if builtin and exact is None and base.startswith("reg"):
        value, exact = f"({value})::pg_catalog.oid", _HASHES["oid"]
    if exact is not None and deterministic:
        return Method(HASH), exact.replace("{value}", value)
    if not deterministic:
        why = "its collation finds different values equal"
    elif array:
        why = "the hash of an array leaves its shape out"
    elif kind in ("c", "r", "m"):
        why = "it is made up of parts"
    elif builtin and base in _HALF:
        why = f"the hash of {name} leaves half of it out"
    elif hashed and (builtin and base in _COARSE):
        why = f"equal values of {name} may differ"
    elif hashed:
        why = f"equal values of {name} may not be the same"
    else:
        why = f"{name} has no hash"
    form = _TEXT.replace("{value}", value)
    if cast and base not in ("text", "varchar", "name"):
        form = _OUTPUT.replace("{output}", output.replace("{", "{{").replace("}", "}}")).replace("{value}", value)
    return Method(TEXT, why), form


def number(value: int) -> sql.SQL:
    """Return 64 bits as SQL."""
    return sql.SQL(f"'{value}'::pg_catalog.int8")


def constant(place: int) -> int:
    """Return 64 bits that have nothing in common with those of another number (splitmix64)."""
    bits = (place * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    bits ^= bits >> 31
    return bits - (1 << 64) if bits >> 63 else bits
