"""Takes along the tables whose foreign keys refer to a key that changes its type, over as many steps as there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import parse
from segue.databases.postgresql.online import reading
from segue.databases.postgresql.online.altering import own_column, type_text
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.writing import name as quoted
from segue.errors import SqlSyntaxError, StepFailed
from segue.model.online import TableChange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.databases.postgresql.online.site import Connection
    from segue.model.online import ChangeSpec

_KEYS = """
select c.conname, c.conrelid::bigint, c.confrelid::bigint,
    array(
        select a.attname::text from unnest(c.conkey) with ordinality as k (number, place)
        join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.number order by k.place
    ),
    array(
        select a.attname::text from unnest(c.confkey) with ordinality as k (number, place)
        join pg_catalog.pg_attribute as a on a.attrelid = c.confrelid and a.attnum = k.number order by k.place
    )
from pg_catalog.pg_constraint as c
where c.contype = 'f' and c.conparentid = 0
order by c.conrelid, c.conname
"""

# The table that a partition is of, at the top: only whole tables are changed.
_ROOT = """
select n.nspname, r.relname, r.oid::bigint
from pg_catalog.pg_class as c
join pg_catalog.pg_class as r
    on r.oid = case when c.relispartition then pg_catalog.pg_partition_root(c.oid) else c.oid end
join pg_catalog.pg_namespace as n on n.oid = r.relnamespace
where c.oid = %s
"""

_ALIKE = """
select a.atttypid = pg_catalog.to_regtype(%s) from pg_catalog.pg_attribute as a
where a.attrelid = %s and a.attname = %s and not a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class _Type:
    """A type that a column gets, and how: by a cast that is written, or by assignment."""

    name: str
    cast: bool


def widen(connection: Connection, spec: ChangeSpec) -> tuple[ChangeSpec, list[str]]:
    """Return the change with every column whose foreign key refers to one that changes its type, and what was added.

    Only columns that refer to a changed one are taken along: one that refers and changes itself leaves the referenced
    column as it is. Where the user says what becomes of such a column, that stands.
    """
    if not spec.keys:
        return spec, []
    graph = _Graph(connection, spec)
    graph.follow()
    return replace(spec, tables=tuple(graph.changes())), graph.reasons


class _Graph:
    def __init__(self, connection: Connection, spec: ChangeSpec) -> None:
        self._connection = connection
        self._given: dict[int, TableChange] = {}
        #: Types that columns get, by table and column: None for other values, whatever their type.
        self._types: dict[tuple[int, str], _Type | None] = {}
        #: What the user says something of: columns that are dropped, foreign keys that are.
        self._said: set[tuple[int, str]] = set()
        self._dropped: set[tuple[int, str]] = set()
        self._added: dict[int, dict[str, _Type]] = {}
        self._places: dict[int, Place] = {}
        self.reasons: list[str] = []
        for change in spec.tables:
            oid = reading.find(connection, change.table)
            self._given[oid] = change
            for command, part in _commands(change):
                if part == "AT_AlterColumnType":
                    self._types[oid, command.name] = _type_of(command)
                elif part == "AT_DropColumn":
                    self._said.add((oid, command.name))
                elif part == "AT_DropConstraint":
                    self._dropped.add((oid, command.name))

    def follow(self) -> None:
        """Go along the foreign keys until nothing is new."""
        keys = self._connection.execute(_KEYS.encode()).fetchall() if self._types else []
        todo = list(self._types)
        while todo:
            table, column = todo.pop(0)
            type_ = self._types[table, column]
            for name, child, parent, ours, theirs in keys:
                if column not in theirs or self._root(parent)[1] != table:
                    continue
                place, root = self._root(child)
                mine = ours[theirs.index(column)]
                known = (root, mine) in self._said or (root, mine) in self._types
                if known or (root, name) in self._dropped or (child, name) in self._dropped:
                    continue
                if type_ is None:
                    raise StepFailed(
                        f'"{mine}" of {place} refers to "{column}" of {self._root(parent)[0]} ("{name}"), which gets '
                        "other values by USING",
                        hint=f"say in the same change what becomes of {place}, or drop the foreign key first",
                    )
                if self._alike(root, mine, type_):
                    continue
                self._types[root, mine] = type_
                self._added.setdefault(root, {})[mine] = type_
                self._places[root] = place
                self.reasons.append(
                    f'{place} goes along: its "{mine}" refers to "{column}" of {self._root(parent)[0]} ("{name}")'
                )
                todo.append((root, mine))

    def _root(self, oid: int) -> tuple[Place, int]:
        row = self._connection.execute(_ROOT.encode(), [oid]).fetchone()
        if row is None:
            raise StepFailed("a table with a foreign key is gone; somebody has dropped it", hint="run again")
        return Place(schema_name=row[0], name=row[1]), int(row[2])

    def _alike(self, oid: int, column: str, type_: _Type) -> bool:
        """Return whether a column is of a type already, whatever the length."""
        row = self._connection.execute(_ALIKE.encode(), [type_.name, oid, column]).fetchone()
        return bool(row and row[0])

    def changes(self) -> Iterator[TableChange]:
        """Yield what becomes of every table: those of the user first, in their order."""
        for oid, change in self._given.items():
            # First: the user's own commands may rename the column.
            yield replace(change, alter=(*self._alter(oid), *change.alter))
        for oid in self._added:
            if oid not in self._given:
                yield TableChange(str(self._places[oid]), tuple(self._alter(oid)))

    def _alter(self, oid: int) -> list[str]:
        found = self._added.get(oid, {})
        parts = []
        for column, type_ in found.items():
            using = f" USING {quoted(column)}::{type_.name}" if type_.cast else ""
            parts.append(f"ALTER COLUMN {quoted(column)} TYPE {type_.name}{using}")
        return [", ".join(parts)] if parts else []


def _commands(change: TableChange) -> Iterator[tuple[Any, str]]:
    """Yield the commands of a change's ALTERs, each with what it is."""
    from postgast import pg_query_pb2 as pb

    for text in change.alter:
        sql = f"ALTER TABLE segue_table {text}"
        try:
            parse.statements(sql)
        except SqlSyntaxError:
            continue  # said where the change is drawn up
        node: Any = parse.node(sql)
        if node.WhichOneof("node") == "alter_table_stmt":
            for item in node.alter_table_stmt.cmds:
                yield item.alter_table_cmd, pb.AlterTableType.Name(item.alter_table_cmd.subtype)


def _type_of(command: Any) -> _Type | None:
    """Return the type that a column gets; None where USING gives it other values."""
    definition = getattr(command, "def").column_def  # a keyword of Python, so not command.def
    using = definition.raw_default
    cast = using.WhichOneof("node") is not None
    if cast and own_column(using) != command.name:
        return None
    return _Type(type_text(definition.type_name), cast)
