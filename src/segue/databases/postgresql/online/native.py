"""Says what PostgreSQL does online by itself: ALTER TABLE in forms that hold no lock for long, and the way back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import parse
from segue.databases.postgresql.catalogue import Catalogue
from segue.databases.postgresql.online import fitting, reading
from segue.databases.postgresql.online.altering import deparsed, one_alter, shortened
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.writing import name as quoted
from segue.databases.postgresql.online.writing import option
from segue.databases.postgresql.relations import quoted as lightly
from segue.databases.postgresql.relations import strings
from segue.databases.postgresql.touching import Build, Match, Query, Rewrite, Scan, Scene, names_in
from segue.model.impact import Lock
from segue.model.quantities import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from segue.databases.postgresql.online.reading import Column, Definition
    from segue.databases.postgresql.online.site import Connection
    from segue.databases.postgresql.touching import Outcome, Work

_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}
_WORDS = {Rewrite: "rewrites", Build: "builds an index over", Match: "checks", Scan: "reads", Query: "reads"}


@dataclass(slots=True)
class Native:
    """What becomes of ALTERs without a shadow: statements, each with what takes it back, and why not.

    `undo`, `lost` and `groups` have an entry for each statement: what takes it back, in the order in which that is run,
    the commands of it that nothing takes back, in words, and which statements are one command together. `reasons` are
    those for which a shadow is needed; `rules` tell the rows that would be refused.
    """

    statements: list[str] = field(default_factory=list)
    undo: list[tuple[str, ...]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    rules: list[fitting.Rule] = field(default_factory=list)

    def add(
        self, statement: str, undo: Iterable[str] = (), lost: Iterable[str] = (), *, group: int | None = None
    ) -> None:
        """Add a statement."""
        self.groups.append(len(self.statements) if group is None else group)
        self.statements.append(statement)
        self.undo.append(tuple(undo))
        self.lost.append(", ".join(lost))


def native(connection: Connection, table_name: str, alters: Sequence[str], schema: str) -> Native:
    """Look for the online forms of a table's ALTERs. Raises StepFailed for what does not parse."""
    table = reading.read(connection, table_name)
    place = Place(schema_name=table.schema_name, name=table.name)
    shown = lightly(table.schema_name) + "." + lightly(table.name)
    nodes = [one_alter(shown, text, shown=shown) for text in alters]
    catalogue = Catalogue(connection, *names_in(nodes, schema))
    found = _Native(table, place, Scene(catalogue, schema), connection.info.server_version // 10000)
    for node in nodes:
        found.read(node)
    return found.result


class _Native:
    def __init__(self, table: Definition, place: Place, scene: Scene, major: int) -> None:
        self._table = table
        self._place = place
        self._scene = scene
        self._major = major
        self._rest: list[Any] = []  # commands that go into one statement
        self._undo: list[str] = []
        self._lost: list[str] = []
        self._added: set[str] = set()
        self.result = Native()

    # -- going through

    def read(self, node: Any) -> None:
        """Take up the next ALTER."""
        if node.WhichOneof("node") != "alter_table_stmt":
            self._whole(node)
            return
        from postgast import pg_query_pb2 as pb

        for item in node.alter_table_stmt.cmds:
            for part in self._apart(item):
                self._command(node, part, pb.AlterTableType.Name(part.alter_table_cmd.subtype))
        self._flush(node)

    def _whole(self, node: Any) -> None:
        """Take up RENAME and the like: a moment, whatever it is."""
        from postgast import pg_query_pb2 as pb

        self._judge(node)
        text = deparsed(node, self._place)
        if node.WhichOneof("node") == "rename_stmt":
            rename = node.rename_stmt
            what = pb.ObjectType.Name(rename.rename_type).removeprefix("OBJECT_")
            word = {"COLUMN": "COLUMN ", "TABCONSTRAINT": "CONSTRAINT "}.get(what)
            if word is not None:
                names = f"{quoted(rename.newname)} TO {quoted(rename.subname)}"
                self.result.add(text, [self._alter(f"RENAME {word}{names}")])
                return
        self.result.add(text, lost=[_shown(node)])

    def _apart(self, item: Any) -> Iterator[Any]:
        """Yield a command, a column's inline constraints as commands of their own where they would hold a lock."""
        from postgast import pg_query_pb2 as pb

        command = item.alter_table_cmd
        if pb.AlterTableType.Name(command.subtype) != "AT_AddColumn":
            yield item
            return
        column = getattr(command, "def").column_def
        kinds = [str(pb.ConstrType.Name(each.constraint.contype)) for each in column.constraints]
        slow = {"CONSTR_CHECK", "CONSTR_UNIQUE", "CONSTR_PRIMARY"}
        if "CONSTR_DEFAULT" in kinds:
            slow.add("CONSTR_FOREIGN")
        if not slow & set(kinds) or any(kind.startswith("CONSTR_ATTR_") for kind in kinds):
            yield item
            return
        first = pb.Node()
        first.CopyFrom(item)
        kept = getattr(first.alter_table_cmd, "def").column_def.constraints
        del kept[:]
        kept.extend(each for each, kind in zip(column.constraints, kinds, strict=True) if kind not in slow)
        yield first
        for each, kind in zip(column.constraints, kinds, strict=True):
            if kind in slow:
                later = pb.Node()
                later.alter_table_cmd.subtype = pb.AT_AddConstraint
                later.alter_table_cmd.behavior = pb.DROP_RESTRICT
                constraint = getattr(later.alter_table_cmd, "def").constraint
                constraint.CopyFrom(each.constraint)
                name = pb.Node()
                name.string.sval = column.colname
                if kind == "CONSTR_FOREIGN":
                    constraint.fk_attrs.append(name)
                elif kind != "CONSTR_CHECK":
                    constraint.keys.append(name)
                elif not constraint.conname:
                    constraint.conname = self._free(column.colname, "check")
                yield later

    def _command(self, node: Any, item: Any, part: str) -> None:
        single = _single(node, item)
        outcome = self._judge(single)
        command = item.alter_table_cmd
        heavy = [work for work in outcome.works if outcome.statement.lock.rank > Lock.SHARE_UPDATE_EXCLUSIVE.rank]
        if part == "AT_AlterColumnType" and self._recollates(command):
            self.result.reasons.append(f"{_shown(single)} builds indexes anew under ACCESS EXCLUSIVE")
        elif outcome.fails:
            self.result.reasons += [f"{_shown(single)}: {reason}" for reason in outcome.fails]
        elif not heavy:
            self._rest.append(item)
            self._reverse(part, command, single)
        elif not self._online(node, part, command):
            self.result.reasons.append(_reason(single, heavy, self._table))

    def _recollates(self, command: Any) -> bool:
        """Return whether a column gets another collation that an index is sorted by, which is then built anew."""
        column = self._table.column(command.name)
        clause = getattr(command, "def").column_def.coll_clause  # a keyword of Python, so not command.def
        wanted = strings(clause.collname)[-1:]
        if column is None or (not wanted and column.collation is None):
            return False
        if wanted and (column.collation or '"default"').rpartition(".")[2].strip('"') == wanted[0]:
            return False
        return any(
            index.where is not None or {each.name for each in index.columns} & {command.name, None}
            for table in self._table.everything()
            for index in table.indexes
        )

    def _judge(self, node: Any) -> Outcome:
        text = deparsed(node, self._place)
        return self._scene.read(parse.node(text), parse.statements(text)[0])

    def _flush(self, node: Any) -> None:
        if self._rest:
            self.result.add(deparsed(_single(node, *self._rest), self._place), reversed(self._undo), self._lost)
            self._rest, self._undo, self._lost = [], [], []

    def _steps(self, node: Any, steps: Iterable[tuple[str, str | None]]) -> None:
        """Add statements, each with the one that takes it back, if there is anything to take back."""
        self._flush(node)
        group = len(self.result.statements)
        for statement, undo in steps:
            self.result.add(statement, [undo] if undo is not None else [], group=group)

    # -- online forms

    def _online(self, node: Any, part: str, command: Any) -> bool:
        """Write a command in its online form; return whether it has one."""
        if part == "AT_SetNotNull":
            self._steps(node, self._requiring(command.name))
            return True
        if part != "AT_AddConstraint":
            return False
        from postgast import pg_query_pb2 as pb

        constraint = getattr(command, "def").constraint
        kind = str(pb.ConstrType.Name(constraint.contype))
        if kind in ("CONSTR_CHECK", "CONSTR_FOREIGN"):
            if kind == "CONSTR_FOREIGN" and self._table.kind == "p" and self._major < 18:
                return False  # there it cannot be NOT VALID
            return self._checked(node, constraint, kind)
        if kind == "CONSTR_NOTNULL":
            self._steps(node, self._requiring(strings(constraint.keys)[0]))
            return True
        if kind in ("CONSTR_UNIQUE", "CONSTR_PRIMARY"):
            return self._unique(node, constraint, primary=kind == "CONSTR_PRIMARY")
        return False

    def _alter(self, words: str) -> str:
        return f"ALTER TABLE {self._place} {words}"

    def _required(self, column: str) -> list[str]:
        """Return what ALTER TABLE says to make a column NOT NULL without a scan under the lock."""
        rule = quoted(self._rule(column))
        return [
            f"ADD CONSTRAINT {rule} CHECK ({quoted(column)} IS NOT NULL) NOT VALID",
            f"VALIDATE CONSTRAINT {rule}",
            f"ALTER COLUMN {quoted(column)} SET NOT NULL",
            f"DROP CONSTRAINT {rule}",
        ]

    def _requiring(self, column: str) -> Iterator[tuple[str, str | None]]:
        """Yield the statements that make a column NOT NULL, each with what takes it back."""
        added, validated, required, dropped = map(self._alter, self._required(column))
        self.result.rules.append(fitting.required(self._place, column))
        known = self._table.column(column)
        optional = known is None or not known.not_null
        yield added, self._alter(f"DROP CONSTRAINT IF EXISTS {quoted(self._rule(column))}")
        yield validated, None
        yield required, self._alter(f"ALTER COLUMN {quoted(column)} DROP NOT NULL") if optional else None
        yield dropped, None

    def _rule(self, column: str) -> str:
        # Its own name, as short as can be: the column's may fill all 63 bytes.
        return "segue_nn_" + hashlib.sha256(f"{self._table.name}.{column}".encode()).hexdigest()[:12]

    def _free(self, columns: str, end: str) -> str:
        """Return a name for a constraint, about as the server would choose it, that nothing of the table has."""
        taken = {each.name for each in self._table.constraints} | {each.name for each in self._table.indexes}
        taken |= self._added
        number = 0
        while True:
            found = shortened(self._table.name, columns, f"_{end}" + (str(number) if number else ""))
            if found not in taken:
                self._added.add(found)
                return found
            number += 1

    def _checked(self, node: Any, constraint: Any, kind: str) -> bool:
        from postgast import pg_query_pb2 as pb

        if not constraint.conname:
            columns = "_".join(strings(constraint.fk_attrs))
            constraint.conname = self._free(columns, "fkey" if kind == "CONSTR_FOREIGN" else "check")
        self.result.rules.append(fitting.checked(self._place, constraint))
        constraint.skip_validation = True
        constraint.initially_valid = False
        item = pb.Node()
        item.alter_table_cmd.subtype = pb.AT_AddConstraint
        item.alter_table_cmd.behavior = pb.DROP_RESTRICT
        getattr(item.alter_table_cmd, "def").constraint.CopyFrom(constraint)
        name = quoted(constraint.conname)
        added = deparsed(_single(node, item), self._place)
        undo = self._alter(f"DROP CONSTRAINT IF EXISTS {name}")
        self._steps(node, [(added, undo), (self._alter(f"VALIDATE CONSTRAINT {name}"), None)])
        return True

    def _unique(self, node: Any, constraint: Any, *, primary: bool) -> bool:
        keys = strings(constraint.keys)
        if self._table.kind == "p" or constraint.without_overlaps or not keys or constraint.options:
            return False
        if not constraint.conname:
            constraint.conname = self._free("" if primary else "_".join(keys), "pkey" if primary else "key")
        name = quoted(constraint.conname)
        included = strings(constraint.including)
        words = f"({', '.join(map(quoted, keys))})"
        words += f" INCLUDE ({', '.join(map(quoted, included))})" if included else ""
        words += " NULLS NOT DISTINCT" if constraint.nulls_not_distinct else ""
        words += f" TABLESPACE {quoted(constraint.indexspace)}" if constraint.indexspace else ""
        if self._table.rows <= fitting.MOST_SORTED:
            self.result.rules.append(fitting.unique(self._place, keys, nulls=constraint.nulls_not_distinct))
        index = Place(schema_name=self._place.schema_name, name=constraint.conname)
        steps: list[tuple[str, str | None]] = []
        for column in keys if primary else ():
            known = self._table.column(column)
            if known is None or not known.not_null:
                steps += self._requiring(column)
        later = " DEFERRABLE" if constraint.deferrable else ""
        later += " INITIALLY DEFERRED" if constraint.initdeferred else ""
        kind = "PRIMARY KEY" if primary else "UNIQUE"
        steps += [
            (
                f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {self._place} {words}",
                f"DROP INDEX CONCURRENTLY IF EXISTS {index}",
            ),
            (
                self._alter(f"ADD CONSTRAINT {name} {kind} USING INDEX {name}{later}"),
                self._alter(f"DROP CONSTRAINT IF EXISTS {name}"),
            ),
        ]
        self._steps(node, steps)
        return True

    # -- the way back

    def _reverse(self, part: str, command: Any, single: Any) -> None:
        """Note the reverse of a command that takes a moment."""
        undo = self._reversed(part, command)
        if undo is None:
            self._lost.append(_shown(single))
        else:
            self._undo += [self._alter(words) for words in undo]

    def _reversed(self, part: str, command: Any) -> list[str] | None:
        """Return what takes a command back, in the order in which it is turned around; None where nothing does."""
        from postgast import pg_query_pb2 as pb

        definition = getattr(command, "def")  # a keyword of Python, so not command.def
        column = self._table.column(command.name) if command.name else None
        if part == "AT_AddColumn":
            known = self._table.column(definition.column_def.colname)
            return [] if known is not None else [f"DROP COLUMN IF EXISTS {quoted(definition.column_def.colname)}"]
        if part == "AT_AddConstraint":
            constraint = definition.constraint
            if not constraint.conname:
                foreign = constraint.contype == pb.CONSTR_FOREIGN
                constraint.conname = self._free("_".join(strings(constraint.fk_attrs)), "fkey" if foreign else "check")
            return [f"DROP CONSTRAINT IF EXISTS {quoted(constraint.conname)}"]
        if part == "AT_DropConstraint":
            return self._constraint_again(command.name)
        if part == "AT_ValidateConstraint":
            return []
        if column is None:
            return self._parameters(part, definition)
        return self._column_again(part, column, definition)

    def _column_again(self, part: str, column: Column, definition: Any) -> list[str] | None:
        head = f"ALTER COLUMN {quoted(column.name)}"
        match part:
            case "AT_ColumnDefault" if not column.generated:
                return [f"{head} SET DEFAULT {column.default}" if column.default else f"{head} DROP DEFAULT"]
            case "AT_SetNotNull":
                return [] if column.not_null else [f"{head} DROP NOT NULL"]
            case "AT_DropNotNull":
                return [*reversed(self._required(column.name))] if column.not_null else []
            case "AT_SetStatistics":
                return [f"{head} SET STATISTICS {-1 if column.statistics is None else column.statistics}"]
            case "AT_SetStorage" if column.storage is not None:
                return [f"{head} SET STORAGE {_STORAGE[column.storage]}"]
            case "AT_SetStorage" if self._major >= 16:
                return [f"{head} SET STORAGE DEFAULT"]
            case "AT_SetCompression":
                return [f"{head} SET COMPRESSION {_COMPRESSION.get(column.compression or '', 'default')}"]
            case "AT_AddIdentity":
                return [f"{head} DROP IDENTITY IF EXISTS"]
            case "AT_SetOptions" | "AT_ResetOptions":
                return [f"{head} {words}" for words in _options(definition, column.options)]
        return None

    def _parameters(self, part: str, definition: Any) -> list[str] | None:
        if part not in ("AT_SetRelOptions", "AT_ResetRelOptions"):
            return None
        if any(item.def_elem.defnamespace for item in definition.list.items):
            return None
        return list(_options(definition, self._table.options))

    def _constraint_again(self, name: str) -> list[str] | None:
        known = next((each for each in self._table.constraints if each.name == name), None)
        if known is None or known.kind not in ("c", "f"):
            return None
        text = known.definition.removesuffix(" NOT VALID")
        added = f"ADD CONSTRAINT {quoted(name)} {text} NOT VALID"
        if "NOT ENFORCED" in text or not known.valid:
            return [f"ADD CONSTRAINT {quoted(name)} {known.definition}"]
        # In the order in which undo statements are turned around.
        return [f"VALIDATE CONSTRAINT {quoted(name)}", added]


def _options(definition: Any, before: Sequence[str]) -> Iterator[str]:
    known = dict(each.split("=", 1) for each in before)
    for item in definition.list.items:
        key = item.def_elem.defname
        yield f"SET ({option(f'{key}={known[key]}')})" if key in known else f"RESET ({quoted(key)})"


def _single(node: Any, *items: Any) -> Any:
    """Return an ALTER TABLE with these commands alone."""
    from postgast import pg_query_pb2 as pb

    copied = pb.Node()
    copied.CopyFrom(node)
    del copied.alter_table_stmt.cmds[:]
    copied.alter_table_stmt.cmds.extend(items)
    return copied


def _shown(node: Any) -> str:
    """Return a command as people read it, without the table's name."""
    marker = Place(schema_name="", name="t")
    copied = type(node)()
    copied.CopyFrom(node)
    return deparsed(copied, marker).removeprefix("ALTER TABLE t ").removeprefix("ALTER TABLE ONLY t ")


def _reason(node: Any, works: Sequence[Work], table: Definition) -> str:
    """Return why a command cannot be done in place: what it does to how many rows, under which lock."""
    order = (Rewrite, Build, Match, Scan, Query)
    work = min(works, key=lambda each: order.index(type(each)))
    rows = sum(
        round(relation.rows or 0)
        for each in works
        if type(each) is type(work) and (relation := getattr(each, "relation", None) or getattr(each, "child", None))
    )
    rows = rows or table.rows
    return f"{_shown(node)} {_WORDS[type(work)]} {count(rows)} rows of {lightly(table.name)} under ACCESS EXCLUSIVE"
