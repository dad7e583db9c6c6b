"""A target's catalogue around the tables of a plan: what hangs on what, how large it is, how fresh the numbers are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg

from segue.databases.postgresql.relations import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

BLOCK = 8192
#: What a row is taken to need where nobody has counted them.
GUESSED_ROW_BYTES = 120
#: A table of no more pages is small, however wrong the numbers about it are.
SMALL_PAGES = 64
#: Of so many tables at most the files are looked at; the catalogue's own numbers serve for the others.
MEASURED_TABLES = 500
_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "m": "materialized view",
    "v": "view",
    "f": "foreign table",
    "i": "index",
    "I": "index",
    "S": "sequence",
    "t": "toast table",
    "c": "composite type",
}


@dataclass(slots=True)
class Relation:
    """A table, view or the like. `pages` is as large as it is now where the files could be looked at."""

    oid: int
    name: str
    schema: str
    bare: str
    relkind: str
    partition: bool
    default: bool
    rows: float | None
    pages: int
    toast_pages: int
    changed: float
    analyzed_at: datetime | None
    stale: str | None
    owned: bool
    scale: float = 1.0  # how much larger it is than the catalogue says
    indexes: list[Index] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Return what it is, in words."""
        return "partition" if self.partition and self.relkind == "r" else _KINDS.get(self.relkind, "relation")

    @property
    def full(self) -> str:
        """Return its name with its schema, as SQL writes it."""
        return f"{quoted(self.schema)}.{quoted(self.bare)}"


@dataclass(slots=True)
class Index:
    """An index; `columns` by position, 0 for an expression."""

    oid: int
    name: str
    pages: int
    columns: tuple[int, ...]
    valid: bool


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key; columns by position."""

    name: str
    child: int
    parent: int
    child_columns: tuple[int, ...]
    parent_columns: tuple[int, ...]
    valid: bool
    cascades: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A column with its type as the catalogue numbers it."""

    name: str
    number: int
    not_null: bool
    type: int
    modifier: int
    width: int
    category: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint; `definition` is that of a CHECK."""

    name: str
    kind: str
    valid: bool
    definition: str | None
    columns: tuple[int, ...]
    parent: int


@dataclass(frozen=True, slots=True)
class View:
    """A view that uses a table: directly, or through another one; columns by position, 0 for the table as such."""

    relation: int
    directly: bool
    columns: frozenset[int]


@dataclass(frozen=True, slots=True)
class Type:
    """A type by the name that a statement gives it."""

    oid: int
    domain: bool
    constrained: bool
    tables: tuple[int, ...]


class Catalogue:
    """What the catalogue says of the relations and types that a plan names, read in a few queries."""

    def __init__(self, connection: psycopg.Connection[Any], names: Iterable[str], types: Iterable[str]) -> None:
        self._connection = connection
        self._named: dict[str, int] = {}
        self._table_of: dict[int, int] = {}
        self._read_names(sorted(set(names)))
        self.types = self._read_types(sorted(set(types)))
        roots = {self._table_of.get(oid, oid) for oid in self._named.values()}
        roots |= {table for found in self.types.values() for table in found.tables}
        self._below: dict[int, list[int]] = {}
        self._parent: dict[int, int] = {}
        everything = roots | self._read_family(roots)
        self._keys = [
            ForeignKey(name, child, parent, tuple(ours), tuple(theirs), valid, cascades)
            for name, child, parent, ours, theirs, valid, cascades in self._ask("assess_foreign_keys", everything)
        ]
        neighbours = {oid for key in self._keys for oid in (key.child, key.parent)} - everything
        everything |= neighbours | self._read_family(neighbours)
        self._views: dict[int, list[View]] = {}
        for root, view, directly, columns in self._ask("assess_views", everything):
            self._views.setdefault(root, []).append(View(view, directly, frozenset(columns)))
        self._triggers: dict[int, list[tuple[str, int, frozenset[int]]]] = {}
        for relation, name, events, columns in self._ask("assess_triggers", everything):
            self._triggers.setdefault(relation, []).append((name, events, frozenset(columns)))
        everything |= {view.relation for found in self._views.values() for view in found}
        self._sources: dict[int, list[int]] = {}
        for root, relation in self._ask("assess_sources", everything, "views"):
            self._sources.setdefault(root, []).append(relation)
        sources = {oid for found in self._sources.values() for oid in found} - everything
        everything |= sources | self._read_family(sources)
        self.relations: dict[int, Relation] = {}
        self.unmeasured = False
        self._read_relations(everything)
        self._columns: dict[int, dict[str, Column]] = {}
        for relation, name, *rest in self._ask("assess_columns", roots):
            self._columns.setdefault(relation, {})[name] = Column(name, *rest)
        self._constraints: dict[int, dict[str, Constraint]] = {}
        for relation, name, kind, valid, definition, columns, parent in self._ask("assess_constraints", everything):
            self._constraints.setdefault(relation, {})[name] = Constraint(
                name, kind, valid, definition, tuple(columns or ()), parent
            )

    # -- asking

    def find(self, name: str) -> Relation | None:
        """Return what a name means now; None when it means nothing."""
        return self.relations.get(self._named.get(name, 0))

    def table_of(self, index: str) -> Relation | None:
        """Return the table of an index."""
        return self.relations.get(self._table_of.get(self._named.get(index, 0), 0))

    def index(self, name: str) -> Index | None:
        """Return an index by its name."""
        table = self.table_of(name)
        return next((each for each in table.indexes if each.oid == self._named[name]), None) if table else None

    def below(self, relation: Relation) -> list[Relation]:
        """Return the partitions and inheriting tables at any depth."""
        return [self.relations[oid] for oid in self._below.get(relation.oid, []) if oid in self.relations]

    def stored(self, relation: Relation) -> list[Relation]:
        """Return the tables that hold the rows of a relation: its leaves, and itself where it can hold any."""
        return [each for each in (relation, *self.below(relation)) if each.relkind in ("r", "m")]

    def parent(self, relation: Relation) -> Relation | None:
        """Return the table that a partition is of."""
        return self.relations.get(self._parent.get(relation.oid, 0))

    def default_partition(self, relation: Relation) -> Relation | None:
        """Return the partition that takes what no other one does."""
        return next((each for each in self.below(relation) if each.default and self.parent(each) is relation), None)

    def keys_from(self, relation: Relation) -> list[ForeignKey]:
        """Return the foreign keys of a table."""
        return [key for key in self._keys if key.child == relation.oid]

    def keys_to(self, relation: Relation) -> list[ForeignKey]:
        """Return the foreign keys of other tables that refer to a table."""
        return [key for key in self._keys if key.parent == relation.oid and key.child != relation.oid]

    def views(self, relation: Relation) -> list[View]:
        """Return the views that use a table."""
        return self._views.get(relation.oid, [])

    def sources(self, view: Relation) -> list[Relation]:
        """Return the tables that a view reads."""
        return [self.relations[oid] for oid in self._sources.get(view.oid, []) if oid in self.relations]

    def triggers(self, relation: Relation, event: int, written: Iterable[str] | None = None) -> list[str]:
        """Return the triggers that an event fires: 4 INSERT, 8 DELETE, 16 UPDATE of these columns, 32 TRUNCATE."""
        numbers = {column.number for name in written or () if (column := self.column(relation, name)) is not None}
        return [
            name
            for name, events, columns in self._triggers.get(relation.oid, [])
            if events & event and (written is None or not columns or columns & numbers or events & event & ~16)
        ]

    def column(self, relation: Relation, name: str) -> Column | None:
        """Return a column."""
        return self._columns.get(relation.oid, {}).get(name)

    def columns(self, relation: Relation) -> list[Column]:
        """Return the columns of a table that the plan names."""
        return list(self._columns.get(relation.oid, {}).values())

    def constraint(self, relation: Relation, name: str) -> Constraint | None:
        """Return a constraint of a table."""
        return self._constraints.get(relation.oid, {}).get(name)

    def checks(self, relation: Relation) -> list[str]:
        """Return the valid CHECK constraints of a table, each as `CHECK (…)`."""
        found = self._constraints.get(relation.oid, {}).values()
        return [each.definition for each in found if each.kind == "c" and each.valid and each.definition]

    @cached_property
    def tables(self) -> list[Relation]:
        """Return everything that holds rows, largest first."""
        return sorted(
            (each for each in self.relations.values() if each.relkind in ("r", "m")), key=lambda each: -each.pages
        )

    def same_bytes(self, old: int, new: int) -> tuple[bool, str, str]:
        """Return whether values of a type are stored as values of another one, and the names of both."""
        query = files("segue.databases.postgresql").joinpath("sql/assess_casts.sql").read_bytes()
        row = self._connection.execute(query, {"from": old, "to": new}).fetchone()
        return (bool(row[0]), str(row[1]), str(row[2])) if row else (False, "", "")

    # -- reading

    def _ask(self, name: str, what: Iterable[Any], parameter: str = "tables") -> list[tuple[Any, ...]]:
        values = list(what)
        if not values:
            return []
        query = files("segue.databases.postgresql").joinpath(f"sql/{name}.sql").read_bytes()
        return self._connection.execute(query, {parameter: values}).fetchall()

    def _read_names(self, names: Sequence[str]) -> None:
        for name, relation, table in self._each("assess_names", names):
            self._named[name] = relation
            if table is not None:
                self._table_of[relation] = table

    def _read_types(self, names: Sequence[str]) -> dict[str, Type]:
        return {
            name: Type(oid, kind == "d", constrained, tuple(tables))
            for name, oid, kind, constrained, tables in self._each("assess_types", names)
        }

    def _each(self, query: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
        try:
            return self._ask(query, names, "names")
        except psycopg.Error:
            if self._connection.closed:
                raise
        # One name that the server cannot even read would hide all others.
        found = []
        for name in names:
            try:
                found += self._ask(query, [name], "names")
            except psycopg.Error:
                if self._connection.closed:
                    raise
        return found

    def _read_family(self, roots: set[int]) -> set[int]:
        found = set()
        for root, relation, parent in self._ask("assess_family", roots):
            self._below.setdefault(root, []).append(relation)
            self._parent[relation] = parent
            found.add(relation)
        for relation, parent in self._connection.execute(
            "select i.inhrelid::bigint, i.inhparent::bigint from pg_catalog.pg_inherits as i "
            "where i.inhrelid = any(%s::oid[])",
            [list(roots)],
        ):
            # What a plan does to a partition may lock the table that it is of, and its default partition.
            self._parent.setdefault(relation, parent)
            if parent not in roots:
                found.add(parent)
                for _, below, above in self._ask("assess_family", [parent]):
                    if below not in self._below.setdefault(parent, []):
                        self._below[parent].append(below)
                    self._parent.setdefault(below, above)
                    found.add(below)
        return found

    def _read_relations(self, oids: set[int]) -> None:
        for row in self._ask("assess_tables", oids):
            oid, name, schema, bare, relkind, partition, default, rows, counted, toast, live, changed, at, owned = row
            pages = max(0, counted)  # -1 for a partitioned table
            self.relations[oid] = Relation(
                oid, name, schema, bare, relkind, partition, default, rows, pages, toast, changed, at, None, owned
            )
            if live > 0 and (rows < 0 or (rows == 0 and pages == 0)):
                self.relations[oid].rows = live
        sizes = self._sizes()
        for relation in self.relations.values():
            self._freshen(relation, sizes.get(relation.oid))
        for oid, index, name, pages, columns, valid in self._ask("assess_indexes", self.relations):
            table = self.relations[oid]
            table.indexes.append(Index(index, name, round(pages * table.scale), tuple(columns), valid))

    def _sizes(self) -> dict[int, int]:
        """Return the pages in the files now. The catalogue's number is from the last VACUUM or ANALYZE."""
        wanted = [each.oid for each in self.tables[:MEASURED_TABLES]]
        try:
            rows = self._connection.execute(
                "select t.oid::bigint, pg_catalog.pg_relation_size(t.oid, 'main') / %s::bigint "
                "from unnest(%s::oid[]) as t (oid)",
                [BLOCK, wanted],
            ).fetchall()
        except psycopg.Error:
            if self._connection.closed:
                raise
            # Somebody holds one of them exclusively: looking at its size would wait for that.
            self.unmeasured = True
            return {}
        finally:
            del self.tables  # sorted by numbers that are about to change
        return {oid: int(pages) for oid, pages in rows if pages is not None}

    def _freshen(self, relation: Relation, pages: int | None) -> None:
        """Scale the rows that were counted once to the size as it is now, as the server's own planner does."""
        if relation.relkind not in ("r", "m"):
            relation.rows = None if relation.relkind == "f" else 0
            return
        counted, before = relation.rows, relation.pages
        if pages is not None:
            relation.pages = pages
            if before > 0:
                relation.scale = pages / before
        if counted is not None and counted >= 0 and (counted > 0 or before > 0 or relation.pages == 0):
            relation.rows = counted * relation.scale
            if relation.pages <= SMALL_PAGES:
                relation.stale = None
            elif relation.analyzed_at is None:
                relation.stale = "never analysed: its rows are an estimate"
            elif relation.changed > 0.2 * relation.rows + 1000:
                relation.stale = f"{relation.changed:,.0f} rows changed since it was analysed"
        elif relation.pages == 0:
            relation.rows = 0
        else:
            relation.rows = relation.pages * BLOCK / GUESSED_ROW_BYTES
            relation.stale = "never analysed: its rows are guessed from its size"
