"""Whether a job's filter can be left to the source: there it must say the same as in the target, of every row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from segue.databases.postgresql import parse
from segue.errors import SqlSyntaxError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segue.databases.postgresql.jobs.tables import Table

    Connection = psycopg.Connection[tuple[Any, ...]]

# Comparisons of their values are the same on every server, whatever its settings.
_KINDS = frozenset(
    [
        *("smallint", "integer", "bigint", "numeric", "real", "double precision", "boolean", "uuid", "date", "bytea"),
        *("timestamp", "timestamp without time zone", "timestamp with time zone", "interval"),
    ]
)
# Of these only whether two are equal is: in which order they come is their collation's.
_TEXTS = frozenset(["text", "character varying", "character"])

_EQUAL = frozenset(["=", "<>", "!="])
_ORDER = frozenset(["<", "<=", ">", ">=", "BETWEEN", "NOT BETWEEN"])
_LIKE = frozenset(["~~", "!~~"])
_FOLDED = """
select exists (
    select from pg_catalog.pg_attribute as a join pg_catalog.pg_collation as c on c.oid = a.attcollation
    where a.attrelid = %s and a.attname = any(%s) and not c.collisdeterministic
)
"""


def says_the_same(where: str, source: Table, far: Connection) -> bool:
    """Return whether a filter holds in the source of the rows of which it holds in the target, and never fails there.

    Only columns of the source, constants, comparisons and what joins them are sure of that: a function or a query may
    find another one of its name, a column may be a lookup's, and a cast may fail at a row, which is then to be
    rejected.
    """
    try:
        value = parse.node(f"select (\n{where}\n)").select_stmt.target_list[0].res_target.val
    except SqlSyntaxError:
        return False
    reading = _Reading(source)
    if not reading.condition(value):
        return False
    texts = [name for name in reading.used if _kind(source, name) in _TEXTS]
    if not texts:
        return True
    row = far.execute(_FOLDED.encode(), [source.oid, texts]).fetchone()
    return not reading.ordered and row is not None and not row[0]


class _Reading:
    """Reads a condition from its syntax tree; whatever is not known of is not sure."""

    def __init__(self, source: Table) -> None:
        self._source = source
        self.used: set[str] = set()
        #: Whether any two values are put in order.
        self.ordered = False

    def condition(self, node: Any) -> bool:
        """Return whether a condition is sure."""
        kind = node.WhichOneof("node")
        if kind == "bool_expr":
            return all(self.condition(one) for one in node.bool_expr.args)
        if kind == "null_test":
            return self.value(node.null_test.arg)
        if kind == "boolean_test":
            return self.condition(node.boolean_test.arg)
        if kind == "a_expr":
            return self._comparison(node.a_expr)
        return bool(kind == "column_ref" and self.value(node))

    def value(self, node: Any) -> bool:
        """Return whether a value is."""
        kind = node.WhichOneof("node")
        if kind == "a_const":
            return True
        if kind == "type_cast":
            # A constant that cannot be cast fails for all rows, as it does in the target.
            return bool(node.type_cast.arg.WhichOneof("node") == "a_const" and self._known(node.type_cast.type_name))
        if kind == "a_expr" and [part.string.sval for part in node.a_expr.name] == ["%"]:
            divisor = node.a_expr.rexpr
            return self.value(node.a_expr.lexpr) and bool(
                divisor.WhichOneof("node") == "a_const" and divisor.a_const.ival.ival
            )
        if kind != "column_ref":
            return False
        *of, name = [field.string.sval for field in node.column_ref.fields]
        if of not in ([], [self._source.name], [self._source.schema, self._source.name]):
            return False
        self.used.add(name)
        return _kind(self._source, name) in _KINDS | _TEXTS

    def _comparison(self, node: Any) -> bool:
        name = "".join(part.string.sval for part in node.name)
        if len(node.name) != 1 or name not in _EQUAL | _ORDER | _LIKE:
            return False
        self.ordered = self.ordered or name in _ORDER
        right = list(_items(node.rexpr))
        if name in _LIKE and any("\\" in one.a_const.sval.sval for one in right if one.WhichOneof("node") == "a_const"):
            return False  # a pattern that ends in it fails
        return self.value(node.lexpr) and all(self.value(one) for one in right)

    def _known(self, kind: Any) -> bool:
        names = [part.string.sval for part in kind.names]
        return names[:1] == ["pg_catalog"] or (len(names) == 1 and names[0] in (*_KINDS, "text", "timestamptz"))


def _items(node: Any) -> Iterable[Any]:
    return node.list.items if node.WhichOneof("node") == "list" else [node]


def _kind(source: Table, name: str) -> str:
    column = source.columns.get(name)
    # `timestamp(3) with time zone` has its length within.
    return column.type.partition("(")[0] if column is not None else ""
