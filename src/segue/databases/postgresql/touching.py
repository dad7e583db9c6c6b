"""What a statement touches beyond the tables that it names, and which work it is, told from its tree and the catalogue.

`impact.py` judges a statement by its text alone. Here the same statement is looked at again with the catalogue at hand:
which table a foreign key leads to, whether a CHECK proves that there is no NULL, which partitions there are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.effects import Names
from segue.databases.postgresql.impact import judge
from segue.databases.postgresql.relations import (
    descendants,
    object_name,
    qualified,
    quoted,
    strings,
    table_name,
    unwrapped,
)
from segue.model.facts import Touched
from segue.model.impact import Duration, Lock, Statement, TableLock
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from segue.databases.postgresql.catalogue import Catalogue, Column, ForeignKey, Relation

AEL = Lock.ACCESS_EXCLUSIVE
SUE = Lock.SHARE_UPDATE_EXCLUSIVE
SRE = Lock.SHARE_ROW_EXCLUSIVE
INSERT, DELETE, UPDATE, TRUNCATE = 4, 8, 16, 32

#: Parts of ALTER TABLE that stay with the table that they name: its partitions are not touched.
_ALONE = frozenset(
    "AT_AttachPartition AT_DetachPartition AT_DetachPartitionFinalize AT_ChangeOwner AT_SetRelOptions "
    "AT_ResetRelOptions AT_ReplaceRelOptions AT_ReplicaIdentity AT_ClusterOn AT_DropCluster AT_SetLogged "
    "AT_SetUnLogged AT_AddInherit AT_DropInherit AT_SetTableSpace AT_SetAccessMethod AT_EnableRowSecurity "
    "AT_DisableRowSecurity AT_ForceRowSecurity AT_NoForceRowSecurity AT_AddOf AT_DropOf".split()
)
#: Pages that ANALYZE reads of a table at most: 300 rows for each of 100 steps of a histogram, a page for each.
ANALYZED_PAGES = 30_000


@dataclass(frozen=True, slots=True)
class Scan:
    """Every row is read once; `pages` at most, where that is known."""

    relation: Relation
    why: str = "scans"
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Every row of one table is looked for in another."""

    child: Relation
    parent: Relation | None


@dataclass(frozen=True, slots=True)
class Build:
    """An index is built: the rows are read, sorted and written. `width` is that of a key, in bytes."""

    relation: Relation
    width: int
    sorts_text: bool
    concurrent: bool


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Every row is written to a new file, and every index is built anew; `volatile`: a function is called for each."""

    relation: Relation
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A query that the server's planner can judge; `into`: the table whose rows it writes, and whether in place."""

    sql: str
    into: Relation | None = None
    in_place: bool = False
    reads: tuple[Relation, ...] = ()
    writes: tuple[Relation, ...] = ()


Work = Scan | Match | Build | Rewrite | Query


@dataclass(slots=True)
class Outcome:
    """What is found out about one statement."""

    statement: Statement
    touched: dict[str, Touched] = field(default_factory=dict)
    relations: dict[str, Relation] = field(default_factory=dict)  # of those touched, by name
    works: list[Work] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    depends: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fresh: bool = False  # it works on tables that the plan makes
    missing: list[str] = field(default_factory=list)  # tables that are neither there nor made by the plan
    opaque: bool = False  # what it does cannot be told at all

    def touch(self, relation: Relation | str, lock: Lock, why: str = "") -> None:
        """Record a lock on a table; the strongest counts, and the plainest reason."""
        name = relation if isinstance(relation, str) else relation.name
        if not isinstance(relation, str):
            self.relations[name] = relation
        before = self.touched.get(name)
        if before is None or lock.rank > before.lock.rank:
            self.touched[name] = Touched(name, lock, why if before is None or before.why else "")

    def sharpened(self) -> Statement:
        """Return the statement with every lock and with the duration as they are on this target."""
        named = [TableLock(each.table, each.lock, each.table in self.relations) for each in self.touched.values()]
        unresolved = [held for held in self.statement.locks if not held.known and held.table in self.touched]
        return replace(
            self.statement,
            locks=tuple(each for each in named if each.lock is not Lock.NONE and each.table not in _names(unresolved))
            + tuple(unresolved),
            duration=self._duration(),
            notes=tuple(dict.fromkeys(self.notes)),
        )

    def _duration(self) -> Duration:
        said = self.statement.duration
        if said is Duration.SNAPSHOTS or self.opaque:
            return said
        if any(isinstance(work, Rewrite) for work in self.works):
            return Duration.REWRITE
        if any(isinstance(work, Build) for work in self.works):
            return Duration.INDEX_BUILD
        if any(isinstance(work, Query) for work in self.works):
            return said
        return Duration.SCAN if self.works else Duration.INSTANT


def _names(locks: Iterable[TableLock]) -> set[str]:
    return {held.table for held in locks}


def names_in(nodes: Iterable[Any], schema: str) -> tuple[set[str], set[str]]:
    """Return every name of a relation or an index, and every name of a type, that some statements hold."""
    relations: set[str] = set()
    types: set[str] = set()
    for node in nodes:
        statement = unwrapped(node)
        relations |= {table_name(each) for each in descendants(statement, "RangeVar")}
        kind = node.WhichOneof("node")
        if kind == "drop_stmt":
            for item in statement.objects:
                parts = object_name(item)
                relations |= {qualified(parts), qualified(parts[:-1])} - {""}
                types.add(qualified(parts))
        elif kind in ("comment_stmt", "sec_label_stmt"):
            relations |= {qualified(parts) for parts in (object_name(statement.object),) if parts}
        elif kind == "alter_domain_stmt":
            types.add(qualified(strings(statement.type_name)))
        for definition in descendants(statement, "ColumnDef"):
            if definition.HasField("type_name"):
                types.add(type_text(definition.type_name))
    return {name for name in relations if name}, {name for name in types if name}


def type_text(type_name: Any) -> str:
    """Return a type's name without its modifiers, as `to_regtype` takes it."""
    return qualified(strings(type_name.names)) + ("[]" if type_name.array_bounds else "")


class Scene:
    """The catalogue as the statements of a plan find it, one after the other."""

    def __init__(self, catalogue: Catalogue, schema: str) -> None:
        self.catalogue = catalogue
        self.schema = schema
        self.names = Names()
        #: What the plan has made or renamed, by its name from then on: None for a table that is new, and so empty.
        self.changed: dict[str, Relation | None] = {}
        #: What the plan has dropped, or renamed to something else.
        self.gone: set[str] = set()
        self.constraints: dict[tuple[str, str], tuple[str, str]] = {}

    def look(self, name: str) -> Relation | None:
        """Return what a name means at this point of the plan; None for what is not there, or made by the plan."""
        full = self.full(name)
        if full in self.changed:
            return self.changed[full]
        return None if full in self.gone else self.catalogue.find(name)

    def made(self, name: str) -> bool:
        """Return whether the plan makes the table, so that it is empty and nobody else sees it."""
        full = self.full(name)
        return self.changed.get(full, False) is None or (self.names.has(name) and self.catalogue.find(name) is None)

    def drop(self, relation: Relation) -> None:
        """Take a table's name away."""
        for name in [name for name, each in self.changed.items() if each is relation]:
            del self.changed[name]
        self.gone.add(relation.full)

    def full(self, name: str) -> str:
        """Return a name with its schema."""
        found = self.catalogue.find(name)
        if found is not None:
            return found.full
        inside = False
        for sign in name:
            inside ^= sign == '"'
            if sign == "." and not inside:
                return name
        return f"{quoted(self.schema)}.{name}"

    def read(self, node: Any, statement: Statement) -> Outcome:
        """Look at the next statement of the plan."""
        before = copy.deepcopy(self.names)
        outcome = Outcome(statement, notes=[note for note in statement.notes if not _conditional(note)])
        judge(node, self.names)
        kind = node.WhichOneof("node")
        tree = unwrapped(node)
        for held in statement.locks:
            self._named(held, outcome)
        reader = _READERS.get(kind)
        if reader is not None:
            reader(_Reading(self, outcome, before), tree)
        elif statement.duration not in (Duration.INSTANT, Duration.SNAPSHOTS):
            outcome.opaque = True
            outcome.notes = list(statement.notes)
        outcome.fresh = bool(outcome.works == [] and not outcome.relations and self._only_made(tree))
        return outcome

    def _named(self, held: TableLock, outcome: Outcome) -> None:
        if not held.known:
            found = self._indirect(held, outcome.statement)
            if found is None:
                outcome.touch(held.table, held.lock)
            else:
                outcome.touch(found, held.lock, f'its index "{outcome.statement.index.name}"')  # type: ignore[union-attr]
            return
        relation = self.look(held.table)
        if relation is None and not self.made(held.table) and self.catalogue.table_of(held.table) is None:
            outcome.missing.append(held.table)
        outcome.touch(relation if relation is not None else held.table, held.lock)

    def _indirect(self, held: TableLock, statement: Statement) -> Relation | None:
        if statement.index is None or not held.table.startswith("table of index"):
            return None
        return self.catalogue.table_of(statement.index.name)

    def _only_made(self, tree: Any) -> bool:
        names = {table_name(each) for each in descendants(tree, "RangeVar")}
        return bool(names) and all(self.made(name) for name in names)


def _conditional(note: str) -> bool:
    """Return whether a note only says what the text does not tell: here it is looked up."""
    return (
        "the text does not" in note
        or "unless a valid CHECK" in note
        or "unless the key's columns" in note
        or note.startswith(("fails if the table has rows", "waits for every transaction that is older"))
        or (note.startswith("if ") and "domain" in note)
    )


class _Reading:
    """One statement being read."""

    def __init__(self, scene: Scene, outcome: Outcome, names: Names) -> None:
        self.scene = scene
        self.catalogue = scene.catalogue
        self.out = outcome
        self.names = names

    # -- what hangs on a table

    def partitions(self, relation: Relation, lock: Lock, *, only: bool = False) -> list[Relation]:
        """Touch the partitions of a table, and return the tables that hold its rows."""
        if only:
            return [relation] if relation.relkind in ("r", "m") else []
        for each in self.catalogue.below(relation):
            parent = self.catalogue.parent(each)
            of = parent.name if parent is not None else relation.name
            word = "partition of" if each.partition else "inherits from"
            self.out.touch(each, lock, f"{word} {of}")
        return self.catalogue.stored(relation)

    def parents(self, relation: Relation, lock: Lock, keys: Iterable[ForeignKey]) -> None:
        """Touch the tables that foreign keys lead to."""
        for key in keys:
            parent = self.catalogue.relations.get(key.parent)
            if parent is not None and parent.oid != relation.oid:
                self.out.touch(parent, lock, f'{relation.name} refers to it ("{key.name}")')
                if lock.rank >= Lock.SHARE.rank:
                    self.partitions(parent, lock)

    def views(self, relation: Relation, column: Column | None = None) -> list[str]:
        """Return the views that use a table, or one column of it, in words."""
        found = []
        for view in self.catalogue.views(relation):
            if column is not None and not (view.directly and {column.number, 0} & view.columns):
                continue
            known = self.catalogue.relations.get(view.relation)
            if known is not None:
                found.append(f"{known.kind} {known.name}")
        return list(dict.fromkeys(found))

    def fire(self, relation: Relation, event: int, written: Iterable[str] | None = None) -> None:
        """Note the triggers that an event fires; of an UPDATE, those of the columns that it writes."""
        seen: set[str] = set()
        for each in (relation, *self.catalogue.below(relation)):
            names = [name for name in self.catalogue.triggers(each, event, written) if name not in seen]
            self.out.triggers += [f"{name} on {each.name}" for name in names]
            seen |= set(names)  # a partition has its parent's under the same names

    # -- tables

    def alter_table(self, tree: Any) -> None:
        from postgast import pg_query_pb2 as pb

        what = pb.ObjectType.Name(tree.objtype).removeprefix("OBJECT_")
        name = table_name(tree.relation)
        relation = self.scene.look(name)
        if what == "TYPE":
            self._users_of_type(name, AEL)
            return
        if what not in ("TABLE", "MATVIEW", "FOREIGN_TABLE", "INDEX", "VIEW", "SEQUENCE"):
            return
        for item in tree.cmds:
            command = item.alter_table_cmd
            part = pb.AlterTableType.Name(command.subtype)
            single = type(tree)()
            single.CopyFrom(tree)
            del single.cmds[:]
            single.cmds.append(item)
            effects = self._judged(single)
            if relation is None:
                self._remember(name, None, part, command)
                continue
            lock = max((held.lock for held in effects.locks() if held.table == name), key=_rank, default=Lock.NONE)
            alone = part in _ALONE or not tree.relation.inh
            stored = self.partitions(relation, lock, only=alone)
            handle = getattr(self, "_" + part.removeprefix("AT_").lower(), None)
            if handle is not None:
                handle(relation, stored, command, effects.duration)
            elif effects.duration is Duration.REWRITE:
                self.out.works += [Rewrite(each) for each in stored]
            elif effects.duration is Duration.SCAN:
                self.out.works += [Scan(each) for each in stored]
            elif effects.duration is Duration.INDEX_BUILD:
                self.out.works += [Build(each, 16, False, False) for each in stored]
            self._remember(name, relation, part, command)

    def _judged(self, statement: Any) -> Any:
        from postgast import pg_query_pb2 as pb

        node = pb.Node()
        node.alter_table_stmt.CopyFrom(statement)
        return judge(node, copy.deepcopy(self.names))

    def _remember(self, table: str, relation: Relation | None, part: str, command: Any) -> None:
        """Keep what a later statement of the plan will want to know: which constraint leads where."""
        from postgast import pg_query_pb2 as pb

        if part != "AT_AddConstraint":
            return
        constraint = getattr(command, "def").constraint
        kind = str(pb.ConstrType.Name(constraint.contype))
        parent = table_name(constraint.pktable) if constraint.HasField("pktable") else ""
        name = constraint.conname or self._default_name(table, constraint, kind)
        self.scene.constraints[table, name] = (kind, parent)

    def _default_name(self, table: str, constraint: Any, kind: str) -> str:
        columns = strings(constraint.fk_attrs) or strings(constraint.keys)
        bare = table.rpartition(".")[2]
        suffix = {"CONSTR_FOREIGN": "fkey", "CONSTR_UNIQUE": "key", "CONSTR_CHECK": "check"}.get(kind, "")
        return quoted("_".join([bare.strip('"'), *columns, suffix]))

    def _addcolumn(self, relation: Relation, stored: list[Relation], command: Any, duration: Duration) -> None:
        from postgast import pg_query_pb2 as pb

        column = getattr(command, "def").column_def
        kinds = {str(pb.ConstrType.Name(item.constraint.contype)): item.constraint for item in column.constraints}
        if self.catalogue.column(relation, column.colname) is not None and command.missing_ok:
            return
        known = self.catalogue.types.get(type_text(column.type_name))
        filled = "CONSTR_DEFAULT" in kinds or "CONSTR_IDENTITY" in kinds or "CONSTR_GENERATED" in kinds
        if known is not None and known.domain and known.constrained:
            self.out.works += [Rewrite(each) for each in stored]
            self.out.notes.append(f'rewrites the table: the domain "{type_text(column.type_name)}" has a constraint')
        elif duration is Duration.REWRITE:
            self.out.works += [Rewrite(each, volatile=True) for each in stored]
        elif duration is Duration.SCAN:
            self.out.works += [Scan(each) for each in stored]
        if "CONSTR_UNIQUE" in kinds or "CONSTR_PRIMARY" in kinds:
            self.out.works += [Build(each, 16, False, False) for each in stored]
        serial = strings(column.type_name.names)[-1:] and "serial" in strings(column.type_name.names)[-1]
        required = "CONSTR_NOTNULL" in kinds or "CONSTR_PRIMARY" in kinds
        rows = sum(each.rows or 0 for each in stored)
        if required and not filled and not serial and rows:
            self.out.fails.append(
                f'"{column.colname}" is NOT NULL and has no default, and {relation.name} has rows (about {rows:,.0f})'
            )

    def _setnotnull(self, relation: Relation, stored: list[Relation], command: Any, duration: Duration) -> None:
        if duration is Duration.INSTANT:
            return
        column = self.catalogue.column(relation, command.name)
        if column is not None and column.not_null:
            self.out.notes.append(f'"{command.name}" is NOT NULL already')
            return
        if _proven(self.catalogue.checks(relation), command.name):
            self.out.notes.append(f'a valid CHECK proves that "{command.name}" holds no NULL: no scan')
            return
        self.out.works += [Scan(each, "looks for NULL in") for each in stored]

    def _addconstraint(self, relation: Relation, stored: list[Relation], command: Any, duration: Duration) -> None:
        from postgast import pg_query_pb2 as pb

        constraint = getattr(command, "def").constraint
        kind = str(pb.ConstrType.Name(constraint.contype))
        if kind == "CONSTR_FOREIGN":
            parent = self.scene.look(table_name(constraint.pktable))
            if parent is not None:
                self.partitions(parent, SRE)
            if duration is Duration.SCAN:
                self.out.works += [Match(each, parent) for each in stored]
        elif duration is Duration.INDEX_BUILD:
            width, text = self._key_width(relation, strings(constraint.keys))
            self.out.works += [Build(each, width, text, False) for each in stored]
        elif kind == "CONSTR_PRIMARY" and constraint.indexname:
            index = self.catalogue.index(qualified((relation.schema, constraint.indexname)))
            numbers = set(index.columns) if index is not None else set()
            columns = [column for column in self.catalogue.columns(relation) if column.number in numbers]
            if not columns or not all(column.not_null for column in columns):
                self.out.works += [Scan(each, "looks for NULL in") for each in stored]
        elif duration is Duration.SCAN:
            self.out.works += [Scan(each, "checks every row of") for each in stored]

    def _validateconstraint(self, relation: Relation, stored: list[Relation], command: Any, _: Duration) -> None:
        known = self.catalogue.constraint(relation, command.name)
        planned = self.scene.constraints.get((_statement_table(self.out), command.name))
        planned = planned or self.scene.constraints.get((_statement_table(self.out), quoted(command.name)))
        if known is not None and known.valid and planned is None:
            self.out.notes.append(f'"{command.name}" is valid already')
            return
        parent: Relation | None = None
        foreign = False
        if known is not None and known.kind == "f":
            parent, foreign = self.catalogue.relations.get(known.parent), True
        elif planned is not None and planned[0] == "CONSTR_FOREIGN":
            parent, foreign = self.scene.look(planned[1]), True
        if foreign:
            if parent is not None:
                self.out.touch(parent, Lock.ROW_SHARE, f'{relation.name} refers to it ("{command.name}")')
            self.out.works += [Match(each, parent) for each in stored]
        else:
            self.out.works += [Scan(each, "checks every row of") for each in stored]

    def _dropconstraint(self, relation: Relation, stored: list[Relation], command: Any, _: Duration) -> None:
        self.parents(relation, AEL, [key for key in self.catalogue.keys_from(relation) if key.name == command.name])
        known = self.catalogue.constraint(relation, command.name)
        if known is None or known.kind not in ("p", "u"):
            return
        users = [key for key in self.catalogue.keys_to(relation) if set(key.parent_columns) == set(known.columns)]
        self._referencing(relation, users, command.behavior, f'constraint "{command.name}"')

    def _dropcolumn(self, relation: Relation, stored: list[Relation], command: Any, _: Duration) -> None:
        column = self.catalogue.column(relation, command.name)
        if column is None:
            return
        keys = [key for key in self.catalogue.keys_from(relation) if column.number in key.child_columns]
        self.parents(relation, AEL, keys)
        users = [key for key in self.catalogue.keys_to(relation) if column.number in key.parent_columns]
        self._referencing(relation, users, command.behavior, f'column "{command.name}"')
        self._views_in_the_way(relation, column, command.behavior, f'column "{command.name}"')

    def _altercolumntype(self, relation: Relation, stored: list[Relation], command: Any, _: Duration) -> None:
        definition = getattr(command, "def").column_def
        column = self.catalogue.column(relation, command.name)
        if column is None:
            self.out.works += [Rewrite(each) for each in stored]
            return
        views = self.views(relation, column)
        if views:
            self.out.fails.append(f'column "{command.name}" is used by {_listed(views)}: its type cannot change')
        cost, why = self._retyped(column, definition)
        self.out.notes.append(why)
        if cost is Duration.REWRITE:
            self.out.works += [Rewrite(each) for each in stored]
        elif cost is Duration.INDEX_BUILD:
            for each in stored:
                for index in each.indexes:
                    if column.number in index.columns:
                        self.out.works.append(Build(each, column.width, column.category == "S", False))
        for key in self.catalogue.keys_from(relation):
            if column.number in key.child_columns and cost is not Duration.INSTANT:
                parent = self.catalogue.relations.get(key.parent)
                self.parents(relation, AEL, [key])
                self.out.works += [Match(each, parent) for each in stored]
        for key in self.catalogue.keys_to(relation):
            child = self.catalogue.relations.get(key.child)
            if child is not None and column.number in key.parent_columns and cost is not Duration.INSTANT:
                self.out.touch(child, AEL, f'refers to {relation.name} ("{key.name}")')
                self.out.works += [Match(each, relation) for each in self.partitions(child, AEL)]

    def _retyped(self, column: Column, definition: Any) -> tuple[Duration, str]:
        """Return what a change of type costs, with the reason: PostgreSQL rewrites what it stores in another form."""
        new = self.catalogue.types.get(type_text(definition.type_name))
        if new is None or new.domain:
            return Duration.REWRITE, "rewrites the table"
        using = definition.raw_default
        if using.WhichOneof("node") is not None and not _same_column(using, column.name):
            return Duration.REWRITE, "rewrites the table: USING computes every row's value"
        same, old_name, new_name = (
            (True, "", "") if new.oid == column.type else self.catalogue.same_bytes(column.type, new.oid)
        )
        bare = new_name or strings(definition.type_name.names)[-1]
        modifier = _modifier(bare, definition.type_name)
        if new.oid != column.type:
            # The session's TimeZone is UTC, and then both hold the same number.
            zones = {old_name, new_name} == {"timestamp without time zone", "timestamp with time zone"}
            if zones:
                return Duration.INDEX_BUILD, "no rewrite, since Segue's sessions are in UTC; its indexes are rebuilt"
            if not same or modifier != -1:
                return Duration.REWRITE, f"rewrites the table: {new_name} is stored in another form than {old_name}"
            if {old_name, new_name} <= {"text", "character varying"}:
                return Duration.INSTANT, "no rewrite: the values are stored in the same form"
            return Duration.INDEX_BUILD, "no rewrite: the values are stored in the same form; its indexes are rebuilt"
        if _wider(column.modifier, modifier, bare):
            return Duration.INSTANT, "no rewrite: the new type is only wider"
        return Duration.REWRITE, "rewrites the table: every value is fitted to the new length or scale"

    def _setlogged(self, relation: Relation, stored: list[Relation], command: Any, _: Duration) -> None:
        self.out.works += [Rewrite(each) for each in stored]

    def _attachpartition(self, relation: Relation, stored: list[Relation], command: Any, _: Duration) -> None:
        child = self.scene.look(table_name(getattr(command, "def").partition_cmd.name))
        if child is not None:
            self.out.works += [Scan(each, "checks every row of") for each in self.catalogue.stored(child)]
        self._default_of(relation, scanned=True)

    def _detachpartition(self, relation: Relation, stored: list[Relation], command: Any, _: Duration) -> None:
        self._default_of(relation, scanned=False)

    def _default_of(self, relation: Relation, *, scanned: bool) -> None:
        default = self.catalogue.default_partition(relation)
        if default is not None:
            self.out.touch(default, AEL, f"default partition of {relation.name}")
            if scanned:
                self.out.works += [Scan(each, "checks every row of") for each in self.catalogue.stored(default)]

    def _referencing(self, relation: Relation, keys: Iterable[ForeignKey], behavior: int, what: str) -> None:
        """Say what a drop does to the tables that refer to it."""
        from postgast import pg_query_pb2 as pb

        for key in keys:
            child = self.catalogue.relations.get(key.child)
            if child is None:
                continue
            if behavior == pb.DROP_CASCADE:
                self.out.touch(child, AEL, f'refers to {relation.name} ("{key.name}", which CASCADE drops)')
                self.partitions(child, AEL)
            elif child.full not in self.scene.gone:
                self.out.fails.append(f'{what} of {relation.name} is needed by "{key.name}" of {child.name}')

    def _views_in_the_way(self, relation: Relation, column: Column | None, behavior: int, what: str) -> None:
        from postgast import pg_query_pb2 as pb

        views = self.views(relation, column)
        if behavior == pb.DROP_CASCADE:
            for view in self.catalogue.views(relation):
                known = self.catalogue.relations.get(view.relation)
                if known is not None:
                    self.out.touch(known, AEL, f"uses {relation.name}, so CASCADE drops it")
        elif views:
            self.out.fails.append(f"{what} of {relation.name} is used by {_listed(views)}")

    def drop(self, tree: Any) -> None:
        from postgast import pg_query_pb2 as pb

        what = pb.ObjectType.Name(tree.remove_type).removeprefix("OBJECT_")
        for item in tree.objects:
            name = qualified(object_name(item))
            if what in ("TYPE", "DOMAIN") and tree.behavior == pb.DROP_CASCADE:
                self._users_of_type(name, AEL)
            if what in ("TRIGGER", "POLICY", "RULE"):
                owner = self.scene.look(qualified(object_name(item)[:-1]))
                if owner is not None and what == "TRIGGER":
                    self.partitions(owner, AEL)
                continue
            relation = self.scene.look(name)
            if relation is None or what not in ("TABLE", "MATVIEW", "VIEW", "FOREIGN_TABLE"):
                continue
            self.partitions(relation, AEL)
            self.parents(relation, AEL, self.catalogue.keys_from(relation))
            parent = self.catalogue.parent(relation)
            if parent is not None:
                self.out.touch(parent, AEL, f"{relation.name} is a partition of it")
                self._default_of(parent, scanned=False)
            self._referencing(relation, self.catalogue.keys_to(relation), tree.behavior, "the key")
            self._views_in_the_way(relation, None, tree.behavior, "the shape")
            self.scene.drop(relation)

    def truncate(self, tree: Any) -> None:
        from postgast import pg_query_pb2 as pb

        named = {table_name(item.range_var) for item in tree.relations}
        relations = [found for found in map(self.scene.look, named) if found is not None]
        for relation in relations:
            self.partitions(relation, AEL)
            self.fire(relation, TRUNCATE)
            for key in self.catalogue.keys_to(relation):
                child = self.catalogue.relations.get(key.child)
                if child is None or child in relations:
                    continue
                if tree.behavior == pb.DROP_CASCADE:
                    self.out.touch(child, AEL, f'refers to {relation.name} ("{key.name}"), so CASCADE empties it')
                    self.partitions(child, AEL)
                else:
                    self.out.fails.append(f'{child.name} refers to {relation.name} ("{key.name}")')

    def create_table(self, tree: Any) -> None:
        name = table_name(tree.relation)
        for item in tree.inh_relations:
            parent = self.scene.look(table_name(item.range_var))
            if parent is not None and tree.HasField("partbound"):
                self._default_of(parent, scanned=True)
        if self.scene.look(name) is None:
            self.scene.changed[self.scene.full(name)] = None

    def create_table_as(self, tree: Any) -> None:
        self._query(tree.query, writes=True)
        name = table_name(tree.into.rel)
        if self.scene.look(name) is None:
            self.scene.changed[self.scene.full(name)] = None

    def refresh(self, tree: Any) -> None:
        view = self.scene.look(table_name(tree.relation))
        if view is None:
            return
        sources = [each for each in self.catalogue.sources(view) if each.relkind in ("r", "m", "p")]
        for each in sources:
            self.out.touch(each, Lock.ACCESS_SHARE, f"{view.name} reads it")
        stored = {each.oid: each for source in sources for each in self.catalogue.stored(source)}
        self.out.works += [Scan(each, "reads") for each in stored.values()]
        self.out.works.append(Rewrite(view))

    def rename(self, tree: Any) -> None:
        from postgast import pg_query_pb2 as pb

        what = pb.ObjectType.Name(tree.rename_type).removeprefix("OBJECT_")
        if not tree.HasField("relation"):
            return
        relation = self.scene.look(table_name(tree.relation))
        if relation is None:
            return
        if what == "COLUMN":
            self.partitions(relation, AEL)
        if what in ("TABLE", "VIEW", "MATVIEW"):
            self.scene.drop(relation)
            self.scene.changed[f"{quoted(relation.schema)}.{quoted(tree.newname)}"] = relation
        self.out.depends += self.views(relation)

    # -- indexes

    def index(self, tree: Any) -> None:
        relation = self.scene.look(table_name(tree.relation))
        if relation is None:
            return
        lock = SUE if tree.concurrent else Lock.SHARE
        if relation.relkind == "p" and tree.concurrent:
            self.out.fails.append(f"{relation.name} is partitioned: build the index on each partition, then attach it")
        only = not tree.relation.inh
        stored = self.partitions(relation, lock, only=only)
        names = [item.index_elem.name for item in tree.index_params]
        width, text = self._key_width(relation, names)
        self.out.works += [Build(each, width, text, bool(tree.concurrent)) for each in stored]

    def _key_width(self, relation: Relation, names: Iterable[str]) -> tuple[int, bool]:
        found = [self.catalogue.column(relation, name) for name in names]
        width = sum(column.width if column is not None else 16 for column in found)
        return max(8, width), any(column is not None and column.category == "S" for column in found)

    def reindex(self, tree: Any) -> None:
        from postgast import pg_query_pb2 as pb

        what = pb.ReindexObjectType.Name(tree.kind).removeprefix("REINDEX_OBJECT_")
        concurrent = not self.out.statement.transactional and what in ("INDEX", "TABLE")
        name = table_name(tree.relation) if tree.HasField("relation") else ""
        if what == "INDEX":
            relation, index = self.catalogue.table_of(name), self.catalogue.index(name)
            if relation is not None and index is not None:
                self.out.works.append(Build(relation, 16, False, concurrent))
            return
        relation = self.scene.look(name) if what == "TABLE" else None
        if relation is None:
            self.out.opaque = what != "TABLE"
            return
        for each in self.partitions(relation, SUE if concurrent else Lock.SHARE):
            self.out.works += [Build(each, 16, False, concurrent) for _ in each.indexes]

    def cluster(self, tree: Any) -> None:
        relation = self.scene.look(table_name(tree.relation)) if tree.HasField("relation") else None
        if relation is None:
            self.out.opaque = not tree.HasField("relation")
            return
        self.out.works += [Rewrite(each) for each in self.partitions(relation, AEL)]

    def vacuum(self, tree: Any) -> None:
        full = "FULL" in self.out.statement.verb
        analyze = self.out.statement.verb == "ANALYZE"
        for item in tree.rels:
            relation = self.scene.look(table_name(item.vacuum_relation.relation))
            if relation is None:
                continue
            for each in self.partitions(relation, AEL if full else SUE):
                limit = ANALYZED_PAGES if analyze else None
                self.out.works.append(Rewrite(each) if full else Scan(each, "reads", limit))
        self.out.opaque = not tree.rels

    # -- data

    def query(self, tree: Any) -> None:
        self._query(tree, writes=False)

    def write(self, tree: Any) -> None:
        self._query(tree, writes=True)

    def _query(self, tree: Any, *, writes: bool) -> None:
        kind = type(unwrapped(tree)).__name__
        relation = None
        if writes and kind in ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"):
            statement = unwrapped(tree)
            relation = self.scene.look(table_name(statement.relation))
        if relation is not None:
            events = {"InsertStmt": INSERT, "UpdateStmt": UPDATE, "DeleteStmt": DELETE}.get(kind, INSERT | UPDATE)
            self.partitions(relation, Lock.ROW_EXCLUSIVE)
            written = [item.res_target.name for item in statement.target_list] if kind == "UpdateStmt" else None
            self.fire(relation, events, written)
            self._checked_keys(relation, kind, written)
        read = [self.scene.look(held.table) for held in self.out.statement.locks if held.known]
        if kind == "InsertStmt":
            read = [each for each in read if each is not relation]
        reads = tuple(stored for each in read if each is not None for stored in self.catalogue.stored(each))
        if not reads and relation is None and self._made_only():
            return
        in_place = kind in ("UpdateStmt", "MergeStmt")
        into = tuple(self.catalogue.stored(relation)) if relation is not None else ()
        self.out.works.append(Query(self.out.statement.sql, relation, in_place, reads, into))

    def _made_only(self) -> bool:
        return any(self.scene.made(held.table) for held in self.out.statement.locks) or not self.out.statement.locks

    def _checked_keys(self, relation: Relation, kind: str, written: list[str] | None) -> None:
        """Touch the tables in which foreign keys are looked up, or whose rows go along."""
        for key in self.catalogue.keys_from(relation) if kind != "DeleteStmt" else []:
            ours = self.catalogue.columns(relation)
            columns = {column.name for column in ours if column.number in key.child_columns}
            if written is None or columns & set(written):
                self.parents(relation, Lock.ROW_SHARE, [key])
        for key in self.catalogue.keys_to(relation) if kind == "DeleteStmt" else []:
            child = self.catalogue.relations.get(key.child)
            if child is not None:
                lock = Lock.ROW_EXCLUSIVE if key.cascades else Lock.ROW_SHARE
                word = "changed along" if key.cascades else "looked into"
                self.out.touch(child, lock, f'refers to {relation.name} ("{key.name}"), {word} for every row')

    def copy(self, tree: Any) -> None:
        relation = self.scene.look(table_name(tree.relation)) if tree.HasField("relation") else None
        if relation is not None and tree.is_from:
            self.fire(relation, INSERT)
        self.out.opaque = bool(tree.is_from)

    # -- the rest

    def trigger(self, tree: Any) -> None:
        relation = self.scene.look(table_name(tree.relation))
        if relation is not None and tree.row:
            self.partitions(relation, SRE)

    def alter_domain(self, tree: Any) -> None:
        if self.out.statement.duration is not Duration.SCAN:
            return
        name = qualified(strings(tree.type_name))
        users = self._users_of_type(name, Lock.SHARE)
        stored = {each.oid: each for relation in users for each in self.catalogue.stored(relation)}
        self.out.works += [Scan(each, "checks every row of") for each in stored.values()]

    def _users_of_type(self, name: str, lock: Lock) -> list[Relation]:
        known = self.catalogue.types.get(name)
        tables = known.tables if known is not None else ()
        relations = [self.catalogue.relations[oid] for oid in tables if oid in self.catalogue.relations]
        for relation in relations:
            self.out.touch(relation, lock, f"has a column of type {name}")
        if known is not None:
            # What the text could only describe has its names now.
            for described in [name for name in self.out.touched if name not in self.out.relations]:
                del self.out.touched[described]
        return relations

    def nothing(self, tree: Any) -> None:
        """Nothing hangs on it."""

    def opaque(self, tree: Any) -> None:
        self.out.opaque = True
        self.out.notes = list(self.out.statement.notes)


def _statement_table(outcome: Outcome) -> str:
    return next(iter(held.table for held in outcome.statement.locks if held.known), "")


def _rank(lock: Lock) -> int:
    return lock.rank


def _listed(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _proven(checks: Iterable[str], column: str) -> bool:
    """Return whether one of some CHECK constraints says that a column is not null, by itself or among other things."""
    from postgast import PgQueryError, parse
    from postgast import pg_query_pb2 as pb

    def proves(node: Any) -> bool:
        kind = node.WhichOneof("node")
        if kind == "bool_expr" and node.bool_expr.boolop == pb.AND_EXPR:
            return any(proves(part) for part in node.bool_expr.args)
        if kind != "null_test" or node.null_test.nulltesttype != pb.IS_NOT_NULL:
            return False
        argument = node.null_test.arg
        names = strings(argument.column_ref.fields) if argument.WhichOneof("node") == "column_ref" else []
        return names[-1:] == [column]

    for check in checks:
        try:
            tree = parse(f"ALTER TABLE t ADD {check}")
        except PgQueryError:
            continue
        constraint = getattr(tree.stmts[0].stmt.alter_table_stmt.cmds[0].alter_table_cmd, "def").constraint
        if proves(constraint.raw_expr):
            return True
    return False


def _same_column(expression: Any, name: str) -> bool:
    """Return whether an expression is the column itself, or the column cast to something."""
    node = expression
    while node.WhichOneof("node") == "type_cast":
        node = node.type_cast.arg
    return node.WhichOneof("node") == "column_ref" and strings(node.column_ref.fields)[-1:] == [name]


def _modifier(name: str, type_name: Any) -> int:
    """Return a type's modifier as the catalogue keeps it: -1 for none."""
    numbers = [unwrapped(item).ival.ival for item in type_name.typmods if item.WhichOneof("node") == "a_const"]
    if not numbers:
        return -1
    if name in ("varchar", "bpchar", "character varying", "character"):
        return int(numbers[0]) + 4
    if name == "numeric":
        scale = numbers[1] if len(numbers) > 1 else 0
        return int((numbers[0] << 16) | (scale & 0x7FF)) + 4
    return int(numbers[0])


def _wider(old: int, new: int, bare: str) -> bool:
    """Return whether every value of a type with one modifier is, as it is stored, one with the other."""
    if old == new or (new == -1 and bare != "bpchar"):
        return True
    if old == -1 or bare in ("bpchar", "interval"):
        return False
    if bare == "numeric":
        return ((old - 4) & 0x7FF) == ((new - 4) & 0x7FF) and ((new - 4) >> 16) >= ((old - 4) >> 16)
    return new >= old


_READERS: dict[str, Callable[[_Reading, Any], None]] = {
    "alter_table_stmt": _Reading.alter_table,
    "drop_stmt": _Reading.drop,
    "truncate_stmt": _Reading.truncate,
    "create_stmt": _Reading.create_table,
    "create_table_as_stmt": _Reading.create_table_as,
    "refresh_mat_view_stmt": _Reading.refresh,
    "rename_stmt": _Reading.rename,
    "index_stmt": _Reading.index,
    "reindex_stmt": _Reading.reindex,
    "cluster_stmt": _Reading.cluster,
    "vacuum_stmt": _Reading.vacuum,
    "select_stmt": _Reading.query,
    "explain_stmt": _Reading.nothing,
    "insert_stmt": _Reading.write,
    "update_stmt": _Reading.write,
    "delete_stmt": _Reading.write,
    "merge_stmt": _Reading.write,
    "copy_stmt": _Reading.copy,
    "create_trig_stmt": _Reading.trigger,
    "alter_domain_stmt": _Reading.alter_domain,
    "do_stmt": _Reading.opaque,
    "call_stmt": _Reading.opaque,
}
