"""Names and tables in a syntax tree: how they are written, which tables a query mentions, what a default calls."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import grammar
from segue.model.impact import Lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PLAIN = re.compile(r"^[a-z_][a-z0-9_$]*$")

#: Built-in functions that PostgreSQL evaluates once for a column default: adding the column stays instant.
_CALM = frozenset(
    "now transaction_timestamp statement_timestamp current_setting to_timestamp to_date to_char date_trunc "
    "make_date make_time make_interval make_timestamp make_timestamptz age timezone date_part extract "
    "lower upper initcap btrim ltrim rtrim trim concat concat_ws format left right lpad rpad repeat replace substr "
    "substring length char_length md5 sha256 encode decode convert_to abs ceil ceiling floor round trunc sign mod "
    "power sqrt greatest least coalesce nullif array_fill string_to_array to_json to_jsonb json_build_object "
    "jsonb_build_object json_build_array jsonb_build_array jsonb_object json_object int4range int8range numrange "
    "tsrange tstzrange daterange to_tsvector to_number to_hex current_database current_schema pg_backend_pid "
    "inet_client_addr box point polygon circle".split()
)
#: Built-in functions that give another value each time: adding the column rewrites the table.
_VOLATILE = frozenset(
    "random random_normal clock_timestamp timeofday gen_random_uuid uuidv4 uuidv7 uuid_generate_v1 uuid_generate_v1mc "
    "uuid_generate_v4 nextval currval lastval setval gen_random_bytes gen_salt txid_current pg_current_xact_id".split()
)


@lru_cache(maxsize=4096)
def quoted(name: str) -> str:
    """Return a name as SQL writes it, in double quotes only where it needs them."""
    # A keyword of kind 1 is unreserved: it may stand as a table's name without quotes.
    if _PLAIN.match(name) and (name not in grammar.words() or grammar.tokens(name)[0].keyword_kind <= 1):
        return name
    return '"' + name.replace('"', '""') + '"'


def qualified(parts: Iterable[str]) -> str:
    """Return the parts of a qualified name joined by dots, each quoted where needed."""
    return ".".join(quoted(part) for part in parts if part)


def table_name(relation: Any) -> str:
    """Return a RangeVar's name as the statement names it: `orders` or `public.orders`."""
    return qualified((relation.schemaname, relation.relname))


def strings(nodes: Iterable[Any]) -> list[str]:
    """Return the texts of a list of String nodes, as qualified names are kept."""
    return [node.string.sval for node in nodes if node.WhichOneof("node") == "string"]


def object_name(node: Any) -> list[str]:
    """Return the parts of an object's name, in whichever of its shapes the tree keeps it."""
    kind = node.WhichOneof("node")
    if kind == "list":
        return strings(node.list.items)
    if kind == "string":
        return [node.string.sval]
    if kind == "type_name":
        return strings(node.type_name.names)
    if kind == "object_with_args":
        return strings(node.object_with_args.objname)
    return []


def unwrapped(node: Any) -> Any:
    """Return the statement or expression inside a Node, or the message itself."""
    if type(node).__name__ == "Node":
        kind = node.WhichOneof("node")
        return node if kind is None else getattr(node, kind)
    return node


def children(message: Any) -> Iterator[tuple[str, Any]]:
    """Yield the messages directly below one, each with its field's name."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if hasattr(value, "ListFields"):
            yield field.name, unwrapped(value)
        else:
            for item in value:
                yield field.name, unwrapped(item)


def descendants(message: Any, kind: str) -> Iterator[Any]:
    """Yield every message of this type at or below one."""
    stack = [unwrapped(message)]
    while stack:
        current = stack.pop()
        if type(current).__name__ == kind:
            yield current
        stack.extend(child for _, child in children(current))


def mentioned(message: Any) -> dict[str, Lock]:
    """Return the tables that a query reads or writes, with the lock it takes on each; CTE names are not tables."""
    found: dict[str, Lock] = {}
    _collect(unwrapped(message), frozenset(), found)
    return found


def _add(found: dict[str, Lock], name: str, lock: Lock) -> None:
    if lock.rank > found.get(name, Lock.NONE).rank:
        found[name] = lock


_QUERIES = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_WRITES = _QUERIES - {"SelectStmt"}


def _collect(message: Any, local: frozenset[str], found: dict[str, Lock]) -> None:
    kind = type(message).__name__
    if kind == "RangeVar":
        if message.schemaname or message.relname not in local:
            _add(found, table_name(message), Lock.ACCESS_SHARE)
        return
    if kind in _QUERIES and message.HasField("with_clause"):
        local = _collect_with(message.with_clause, local, found)
    if kind in _WRITES:
        _add(found, table_name(message.relation), Lock.ROW_EXCLUSIVE)
    for field, child in children(message):
        written = field == "relation" and kind in _WRITES
        if field not in ("with_clause", "into_clause") and not written and type(child).__name__ != "LockingClause":
            _collect(child, local, found)
    if kind == "SelectStmt":
        _row_locks(message, local, found)


def _collect_with(clause: Any, local: frozenset[str], found: dict[str, Lock]) -> frozenset[str]:
    """Read a WITH clause and return the names that are local from here on."""
    if clause.recursive:
        local = local | {unwrapped(item).ctename for item in clause.ctes}
    for item in clause.ctes:
        query = unwrapped(item)
        # Without RECURSIVE a query sees only those before it: `WITH t AS (SELECT … FROM t)` reads the table t.
        _collect(unwrapped(query.ctequery), local, found)
        local = local | {query.ctename}
    return local


def _row_locks(select: Any, local: frozenset[str], found: dict[str, Lock]) -> None:
    """Record what SELECT … FOR UPDATE (or SHARE) locks."""
    for item in select.locking_clause:
        wanted = {unwrapped(entry).relname for entry in item.locking_clause.locked_rels}
        for source in select.from_clause:
            for relation in descendants(source, "RangeVar"):
                called = relation.alias.aliasname or relation.relname
                if (not wanted or called in wanted) and (relation.schemaname or relation.relname not in local):
                    _add(found, table_name(relation), Lock.ROW_SHARE)


def volatile_calls(expression: Any) -> tuple[list[str], list[str]]:
    """Return the function calls of an expression that are known to be volatile, and those that are not known at all."""
    known: list[str] = []
    unknown: list[str] = []
    for call in descendants(expression, "FuncCall"):
        parts = strings(call.funcname)
        name = parts[-1] if parts else "?"
        builtin = len(parts) == 1 or parts[0] == "pg_catalog"
        if builtin and name in _CALM:
            continue
        (known if name in _VOLATILE else unknown).append(qualified(parts))
    return known, unknown
