"""The names that the server gives to constraints which are written without one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.relations import descendants, strings

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 63  # bytes that the server keeps of a name
_LAST = re.compile(r'(?:"((?:[^"]|"")*)"|([^".]+))$')
_LABELS = {
    "check": "check",
    "not null": "not_null",
    "unique": "key",
    "primary key": "pkey",
    "exclude": "excl",
    "foreign key": "fkey",
}


def bare(name: str) -> str:
    """Return the last part of a name as SQL writes it, without quotes: `Order` of `public."Order"`."""
    match = _LAST.search(name)
    if match is None:
        return name
    return match[2] if match[1] is None else match[1].replace('""', '"')


def constraint_name(table: str, kind: str, columns: Sequence[str], constraint: Any) -> str:
    """Return what the server calls an unnamed constraint of a table, as long as nothing else there is called so."""
    if kind == "check":
        # Not the column that it is written with: the one that it mentions, if it is one alone.
        found = {(strings(item.fields) or [""])[-1] for item in descendants(constraint.raw_expr, "ColumnRef")}
        columns = tuple(found) if len(found) == 1 else ()
    elif kind == "primary key":
        columns = ()
    elif kind == "exclude":
        nodes = [item.list.items[0].index_elem for item in constraint.exclusions]
        columns = [node.name or "expr" for node in nodes]
    return joined(bare(table), "_".join(columns), _LABELS[kind])


def joined(first: str, second: str, label: str) -> str:
    """Return the parts joined by underscores, the longer of the first two cut until the name is short enough."""
    left, right = first.encode(), second.encode()
    room = LONGEST - len(label) - 1 - bool(right)
    one, two = len(left), len(right)
    while one + two > room:
        if one > two:
            one -= 1
        else:
            two -= 1
    parts = (left[:one].decode(errors="ignore"), right[:two].decode(errors="ignore"), label)
    return "_".join(part for part in parts if part)
