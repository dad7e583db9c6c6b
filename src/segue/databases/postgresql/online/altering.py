"""Reads a user's ALTER TABLE commands: turned to a clone of the table, and followed to where each column comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import parse
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.writing import name as quoted
from segue.databases.postgresql.relations import strings, table_name, volatile_calls
from segue.errors import SqlSyntaxError, StepFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from segue.databases.postgresql.online.reading import Definition
    from segue.model.online import TableChange

#: The longest name that the server keeps whole.
NAME_BYTES = 63
_ALONE = "it is over in an instant: write it as a `sql` step"
#: What an online change does not take along, with the reason.
_REFUSED = {
    "AT_ChangeOwner": f"OWNER TO does not belong in an online change: {_ALONE}",
    "AT_AttachPartition": "ATTACH PARTITION does not belong in an online change: write it as a `sql` step",
    "AT_DetachPartition": "DETACH PARTITION does not belong in an online change: write it as a `sql` step",
    "AT_DetachPartitionFinalize": "DETACH PARTITION does not belong in an online change: write it as a `sql` step",
    "AT_AddInherit": "INHERIT does not belong in an online change: write it as a `sql` step",
    "AT_DropInherit": "NO INHERIT does not belong in an online change: write it as a `sql` step",
    "AT_AddOf": "OF does not belong in an online change: write it as a `sql` step",
    "AT_DropOf": "NOT OF does not belong in an online change: write it as a `sql` step",
    "AT_AlterConstraint": f"ALTER CONSTRAINT does not belong in an online change: {_ALONE}",
    "AT_ReplicaIdentity": f"REPLICA IDENTITY does not belong in an online change: {_ALONE}",
    "AT_GenericOptions": "OPTIONS are those of a foreign table, which has no rows of its own to change",
    **{
        f"AT_{word}": f"triggers, rules and row security go along as they are; to change them, {_ALONE}"
        for word in (
            "EnableTrig EnableAlwaysTrig EnableReplicaTrig DisableTrig EnableTrigAll DisableTrigAll EnableTrigUser "
            "DisableTrigUser EnableRule EnableAlwaysRule EnableReplicaRule DisableRule EnableRowSecurity "
            "DisableRowSecurity ForceRowSecurity NoForceRowSecurity"
        ).split()
    },
}


@dataclass(frozen=True, slots=True)
class Value:
    """Where a column of the new table comes from: an SQL expression over the old table's columns.

    `follows`: the old column that has become this one; `plain`: it is that column, cast at most. `type`: what it is
    cast to before anything else is done with it.
    """

    expression: str
    follows: str
    plain: bool = True
    type: str | None = None

    @property
    def whole(self) -> str:
        """Return the expression as other expressions may use it."""
        return f"({self.expression})::{self.type}" if self.type is not None else f"({self.expression})"


@dataclass(slots=True)
class ForeignKeys:
    """What becomes of a table's foreign keys; they are no part of its clone."""

    added: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    validated: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    #: Unique constraints that are dropped with CASCADE, and with them the foreign keys that refer to them.
    cascaded: list[str] = field(default_factory=list)


class Alteration:
    """The ALTERs of one table, one after the other."""

    def __init__(self, table: Definition, resolve: Callable[[str], Place], *, heir: bool = False) -> None:
        """`resolve` finds the table that a name means; an `heir` inherits from the table that the ALTERs name."""
        self._table = table
        self._heir = heir
        self._resolve = resolve
        #: By the name that a column has now: where it comes from; None for one that the change adds.
        self.values: dict[str, Value | None] = {
            column.name: Value(quoted(column.name), column.name) for column in table.columns
        }
        self.keys = ForeignKeys()
        self._known_keys = {rule.name for rule in table.constraints if rule.kind == "f"}

    def read(self, text: str, clone: Place) -> list[str]:
        """Return the statements that do to a clone what a text does to the table, without its foreign keys.

        Raises StepFailed with the reason for what an online change does not do.
        """
        node = self._parsed(text)
        if node.WhichOneof("node") == "rename_stmt":
            return self._rename(node, clone)
        statements = self._alter(node, text, clone)
        if self._heir:
            self.keys = ForeignKeys()  # nobody inherits those
        return statements

    def tries(self, text: str) -> bool:
        """Return whether a clone can show what a text does."""
        from postgast import pg_query_pb2 as pb

        node = parse.node(f"ALTER TABLE segue_table {text}")
        if node.WhichOneof("node") == "rename_stmt":
            return bool(node.rename_stmt.rename_type in (pb.OBJECT_COLUMN, pb.OBJECT_TABCONSTRAINT))
        if node.WhichOneof("node") != "alter_table_stmt":
            return False
        parts = [pb.AlterTableType.Name(item.alter_table_cmd.subtype) for item in node.alter_table_stmt.cmds]
        return not any(part in _REFUSED for part in parts)

    def _parsed(self, text: str) -> Any:
        node = one_alter("segue_table", text, shown=self._shown)
        kind = node.WhichOneof("node")
        if kind == "alter_object_schema_stmt":
            raise StepFailed(f"SET SCHEMA does not belong in an online change: {_ALONE}")
        if kind not in ("alter_table_stmt", "rename_stmt"):
            raise StepFailed(f'"{text}" is nothing that an online change does')
        return node

    @property
    def _shown(self) -> str:
        return f'"{self._table.schema_name}"."{self._table.name}"'

    # -- renaming

    def _rename(self, node: Any, clone: Place) -> list[str]:
        from postgast import pg_query_pb2 as pb

        statement = node.rename_stmt
        what = pb.ObjectType.Name(statement.rename_type).removeprefix("OBJECT_")
        if what == "COLUMN":
            if statement.subname in self.values:
                self.values = {
                    statement.newname if column == statement.subname else column: value
                    for column, value in self.values.items()
                }
        elif what == "TABCONSTRAINT":
            if statement.subname in self._known_keys:
                self.keys.renamed[statement.subname] = statement.newname
                return []
        else:
            raise StepFailed(f"RENAME TO does not belong in an online change: {_ALONE}")
        return [deparsed(node, clone)]

    # -- altering

    def _alter(self, node: Any, text: str, clone: Place) -> list[str]:
        from postgast import pg_query_pb2 as pb

        statement = node.alter_table_stmt
        before = dict(self.values)
        kept = []
        for item in statement.cmds:
            command = item.alter_table_cmd
            part = pb.AlterTableType.Name(command.subtype)
            if part in _REFUSED:
                raise StepFailed(f'"{text}": {_REFUSED[part]}')
            if self._stays(part, command, text, before):
                copied = pb.Node()
                copied.CopyFrom(item)
                for holder in _holders(copied):
                    # The clone is in another schema.
                    del holder.column_ref.fields[:-1]
                kept.append(copied)
        del statement.cmds[:]
        statement.cmds.extend(kept)
        return [deparsed(node, clone)] if kept else []

    def _stays(self, part: str, command: Any, text: str, before: Mapping[str, Value | None]) -> bool:
        """Follow a command; return whether it is for the clone. Foreign keys are taken out of it."""
        definition = getattr(command, "def")  # a keyword of Python, so not command.def
        if part == "AT_AddColumn":
            column = definition.column_def
            if column.colname in self.values and (command.missing_ok or self._heir):
                return True
            self.values[column.colname] = None
            self._take_inline(column)
        elif part == "AT_DropColumn":
            known = self._table.column(command.name)
            if not (self._heir and known is not None and known.local):
                self.values.pop(command.name, None)
        elif part == "AT_AlterColumnType":
            self._retype(command.name, definition.column_def, text, before)
        elif part == "AT_AddConstraint" and _is_foreign(definition.constraint):
            self._add(definition.constraint, list(strings(definition.constraint.fk_attrs)))
            return False
        elif part == "AT_ValidateConstraint" and self._is_key(command.name):
            self.keys.validated.append(command.name)
            for added in self.keys.added:
                if added["name"] == command.name:
                    added["validated"] = True
            return False
        elif part == "AT_DropConstraint":
            return self._drop_constraint(command)
        return True

    def _is_key(self, constraint: str) -> bool:
        return constraint in self._known_keys or any(added["name"] == constraint for added in self.keys.added)

    def _drop_constraint(self, command: Any) -> bool:
        from postgast import pg_query_pb2 as pb

        if command.name in self._known_keys:
            self.keys.dropped.append(command.name)
            return False
        if any(added["name"] == command.name for added in self.keys.added):
            self.keys.added = [added for added in self.keys.added if added["name"] != command.name]
            return False
        if command.behavior == pb.DROP_CASCADE:
            self.keys.cascaded.append(command.name)
        return True

    def _retype(self, column: str, definition: Any, text: str, before: Mapping[str, Value | None]) -> None:
        from postgast import pg_query_pb2 as pb

        using = definition.raw_default
        if column not in before:
            return  # the server will say so
        value = before[column]
        type_ = type_text(definition.type_name)
        if using.WhichOneof("node") is None:
            if value is not None:
                self.values[column] = Value(
                    value.expression if value.type is None else value.whole, value.follows, value.plain, type_
                )
            return
        volatile, _ = volatile_calls(using)
        if volatile:
            raise StepFailed(
                f'"{text}": {volatile[0]}() gives another value each time, and no row could be compared with its copy',
                hint="let USING depend on the row alone",
            )
        own = own_column(using)
        copied = pb.Node()
        copied.CopyFrom(using)
        self._substitute(copied, text, before)
        if value is None:
            raise StepFailed(
                f'"{text}": "{column}" is added by the change itself', hint="add it with the type that it is to have"
            )
        self.values[column] = Value(_expression(copied), value.follows, value.plain and own == column, type_)

    def _substitute(self, node: Any, text: str, before: Mapping[str, Value | None]) -> None:
        """Put what columns come from in their places."""
        for holder in _holders(node):
            fields = holder.column_ref.fields
            column = fields[-1].string.sval if fields and fields[-1].WhichOneof("node") == "string" else None
            if column is None or column not in before:
                raise StepFailed(
                    f'"{text}": USING may name columns of the table, and there is no column "{column or "*"}"',
                    hint="whole rows cannot be used",
                )
            value = before[column]
            if value is None:
                raise StepFailed(
                    f'"{text}": USING names "{column}", which the change itself adds and which has no value in the old '
                    "table",
                    hint="compute it from the old columns",
                )
            holder.CopyFrom(_parsed_expression(value.whole))

    # -- foreign keys

    def _take_inline(self, column: Any) -> None:
        """Take REFERENCES out of a column's definition, with what belongs to it."""
        from postgast import pg_query_pb2 as pb

        left: list[Any] = []
        current: Any = None
        for item in column.constraints:
            kind = str(pb.ConstrType.Name(item.constraint.contype))
            if kind == "CONSTR_FOREIGN":
                current = pb.Constraint()
                current.CopyFrom(item.constraint)
                attribute = pb.Node()
                attribute.string.sval = column.colname
                current.fk_attrs.append(attribute)
                self._add(current, [column.colname])
            elif kind.startswith("CONSTR_ATTR_") and current is not None:
                self.keys.added[-1] = self._changed(current, kind, [column.colname])
            else:
                current = None
                copied = pb.Node()
                copied.CopyFrom(item)
                left.append(copied)
        del column.constraints[:]
        column.constraints.extend(left)

    def _changed(self, constraint: Any, kind: str, columns: list[str]) -> dict[str, Any]:
        name = self.keys.added[-1]["name"]
        if kind in ("CONSTR_ATTR_DEFERRABLE", "CONSTR_ATTR_DEFERRED"):
            constraint.deferrable = True
        if kind == "CONSTR_ATTR_DEFERRED":
            constraint.initdeferred = True
        if kind == "CONSTR_ATTR_NOT_ENFORCED":
            constraint.is_enforced = False
        constraint.conname = name
        return self._described(constraint, columns)

    def _add(self, constraint: Any, columns: list[str]) -> None:
        if not constraint.conname:
            constraint.conname = self._free_name(columns)
        refers = self._resolve(table_name(constraint.pktable))
        constraint.pktable.schemaname, constraint.pktable.relname = refers.schema_name, refers.name
        self.keys.added.append(self._described(constraint, columns))

    def _described(self, constraint: Any, columns: list[str]) -> dict[str, Any]:
        from postgast import pg_query_pb2 as pb

        plain = pb.Constraint()
        plain.CopyFrom(constraint)
        plain.conname = ""
        valid = not plain.skip_validation
        plain.skip_validation = False
        plain.initially_valid = True
        holder = pb.Node()
        holder.constraint.CopyFrom(plain)
        return {
            "name": constraint.conname,
            "definition": _constraint_text(holder),
            "columns": columns,
            "refers": str(Place(schema_name=constraint.pktable.schemaname, name=constraint.pktable.relname)),
            "refers_columns": strings(constraint.pk_attrs),
            "validated": valid,
            "comment": None,
        }

    def _free_name(self, columns: Iterable[str]) -> str:
        """Return the name that the server would choose for a foreign key."""
        taken = {rule.name for rule in self._table.constraints} | {added["name"] for added in self.keys.added}
        number = 0
        while True:
            end = "_fkey" + (str(number) if number else "")
            found = shortened(self._table.name, "_".join(columns), end)
            if found not in taken:
                return found
            number += 1


def shortened(table: str, columns: str, end: str) -> str:
    """Return the parts as one name of at most 63 bytes, the longer one shortened, as the server does it."""
    room = NAME_BYTES - len(end) - (1 if columns else 0)
    one, two = table.encode(), columns.encode()
    while len(one) + len(two) > room:
        if len(one) > len(two):
            one = one[:-1]
        else:
            two = two[:-1]
    return one.decode(errors="ignore") + ("_" if columns else "") + two.decode(errors="ignore") + end


def _is_foreign(constraint: Any) -> bool:
    from postgast import pg_query_pb2 as pb

    return bool(pb.ConstrType.Name(constraint.contype) == "CONSTR_FOREIGN")


def _deparse(node: Any) -> str:
    from postgast import deparse
    from postgast import pg_query_pb2 as pb

    tree = pb.ParseResult()
    tree.stmts.add().stmt.CopyFrom(node)
    return str(deparse(tree))


def deparsed(node: Any, clone: Place) -> str:
    """Return a statement with another table in it."""
    relation = node.rename_stmt.relation if node.WhichOneof("node") == "rename_stmt" else node.alter_table_stmt.relation
    relation.schemaname, relation.relname = clone.schema_name, clone.name
    return _deparse(node)


def _constraint_text(holder: Any) -> str:
    head = "ALTER TABLE t ADD "
    node = parse.node(head + "CHECK (true)")
    getattr(node.alter_table_stmt.cmds[0].alter_table_cmd, "def").CopyFrom(holder)
    return _deparse(node).removeprefix(head)


def with_columns(definition: str, columns: Iterable[str], refers_columns: Iterable[str]) -> str:
    """Return a foreign key's definition over columns of other names."""
    from postgast import pg_query_pb2 as pb

    node = parse.node(f"ALTER TABLE t ADD {definition}")
    holder = getattr(node.alter_table_stmt.cmds[0].alter_table_cmd, "def")
    for field_, names in ((holder.constraint.fk_attrs, columns), (holder.constraint.pk_attrs, refers_columns)):
        del field_[:]
        for name in names:
            field_.append(pb.Node(string=pb.String(sval=name)))
    holder.constraint.skip_validation = False
    holder.constraint.initially_valid = True
    return _constraint_text(holder)


def type_text(type_name: Any) -> str:
    """Return a type as it was written."""
    node = parse.node("SELECT NULL::integer")
    node.select_stmt.target_list[0].res_target.val.type_cast.type_name.CopyFrom(type_name)
    return _deparse(node).removeprefix("SELECT NULL::")


def one_alter(table: str, text: str, *, shown: str) -> Any:
    """Return the tree of one ALTER TABLE of a table, from what comes after its name; `shown`: its name for people.

    Raises StepFailed for what does not parse, or is more than one statement.
    """
    sql = f"ALTER TABLE {table} {text}"
    try:
        statements = parse.statements(sql)
    except SqlSyntaxError as error:
        raise StepFailed(
            f"ALTER TABLE {shown} {text}: {error.message}",
            hint=error.hint or 'write what comes after the table\'s name, such as "ALTER id TYPE bigint"',
        ) from error
    if len(statements) != 1:
        raise StepFailed(
            f'"{text}" is more than one statement',
            hint="give each ALTER by itself; commands may be joined by commas",
        )
    return parse.node(sql)


def _parsed_expression(text: str) -> Any:
    return parse.node(f"SELECT {text}").select_stmt.target_list[0].res_target.val


def _expression(node: Any) -> str:
    holder = parse.node("SELECT 1")
    holder.select_stmt.target_list[0].res_target.val.CopyFrom(node)
    return _deparse(holder).removeprefix("SELECT ")


def own_column(node: Any) -> str | None:
    """Return the column that an expression is, cast or not; None for any other expression."""
    while node.WhichOneof("node") == "type_cast":
        node = node.type_cast.arg
    return strings(node.column_ref.fields)[-1] if node.WhichOneof("node") == "column_ref" else None


def _holders(node: Any) -> list[Any]:
    """Return the nodes of a tree that name a column."""
    found, stack = [], [node]
    while stack:
        current = stack.pop()
        if type(current).__name__ == "Node" and current.WhichOneof("node") == "column_ref":
            found.append(current)
            continue
        for field_, value in current.ListFields():
            if field_.message_type is not None:
                stack.extend([value] if hasattr(value, "ListFields") else value)
    return found


# -- partitions


def partitions(change: TableChange, table: Definition, at: Place) -> tuple[list[str], dict[str, str]]:
    """Return the statements that make a shadow's partitions, and the schema in which each is to be in the end.

    Raises StepFailed for statements that do anything else.
    """
    from postgast import pg_query_pb2 as pb

    text = change.partitions or ""
    try:
        found = parse.statements(text)
    except SqlSyntaxError as error:
        raise StepFailed(f"{change.table}: the partitions cannot be read: {error.message}", hint=error.hint) from error
    homes: dict[str, str] = {}
    made = []
    alone: dict[str, str] = {}  # a table by itself, which is one of the partitions once it is attached
    for statement in found:
        node = parse.node(statement.sql)
        kind = node.WhichOneof("node")
        if kind == "create_stmt":
            create = node.create_stmt
            for item in create.inh_relations:
                _turn(item.range_var, table, homes, at, statement.sql)
            if not create.HasField("partbound"):
                alone[create.relation.relname] = statement.sql
            homes[create.relation.relname] = create.relation.schemaname or table.schema_name
            create.relation.schemaname = at.schema_name
            create.if_not_exists = False
        elif kind == "alter_table_stmt" and all(
            pb.AlterTableType.Name(item.alter_table_cmd.subtype) == "AT_AttachPartition"
            for item in node.alter_table_stmt.cmds
        ):
            _turn(node.alter_table_stmt.relation, table, homes, at, statement.sql)
            for item in node.alter_table_stmt.cmds:
                part = getattr(item.alter_table_cmd, "def").partition_cmd.name
                if part.relname not in homes:
                    raise StepFailed(
                        f'"{statement.sql}" attaches a table that the same statements do not create',
                        hint="its rows would come on top of those that are copied",
                    )
                part.schemaname = at.schema_name
                alone.pop(part.relname, None)
        else:
            raise StepFailed(
                f'"{statement.sql}" does not create a partition',
                hint="only CREATE TABLE … PARTITION OF and ALTER TABLE … ATTACH PARTITION may stand there",
            )
        made.append(_deparse(node))
    for sql in alone.values():
        raise StepFailed(
            f'"{sql}" creates a table that is no partition of "{table.name}"',
            hint="write PARTITION OF, or ATTACH PARTITION after it; whatever else is to be made, a `sql` step makes",
        )
    return made, homes


def _turn(relation: Any, table: Definition, homes: Mapping[str, str], at: Place, text: str) -> None:
    """Turn the name of the table, or of a partition made before, to where it stands now."""
    if relation.relname != table.name and relation.relname not in homes:
        raise StepFailed(
            f'"{text}" is about "{relation.relname}"', hint=f'partitions are those of "{table.name}", or of one of them'
        )
    relation.schemaname = at.schema_name
