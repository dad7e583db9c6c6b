"""Tables: CREATE, and each part of ALTER."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.alter_table import _FORMS, _LIGHT_PARAMETERS
from segue.databases.postgresql.changes.columns import column_form, column_of, constraint_form, constraint_of
from segue.databases.postgresql.changes.words import cascades, kind_of
from segue.databases.postgresql.grammar import symbol
from segue.databases.postgresql.relations import qualified, strings, table_name, unwrapped
from segue.model import changes as to
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segue.databases.postgresql.changes.words import Reader


def _create_table(statement: Any, offset: int) -> Iterator[to.Change]:
    columns, constraints = [], []
    called = table_name(statement.relation)
    for element in statement.table_elts:
        kind = element.WhichOneof("node")
        if kind == "column_def":
            columns.append(column_of(element.column_def))
            of = element.column_def.colname
            constraints += [constraint_of(item.constraint, called, of) for item in element.column_def.constraints]
        elif kind == "constraint":
            constraints.append(constraint_of(element.constraint, called))
    partition_of = ""
    if statement.HasField("partbound") and statement.inh_relations:
        partition_of = table_name(unwrapped(statement.inh_relations[0]))
    known = tuple(item for item in constraints if item is not None)
    form = "create-table-foreign-key" if any(item.refers for item in known) else "create-table"
    if partition_of:
        form = "create-default-partition" if statement.partbound.is_default else "create-partition"
    yield to.CreateTable(
        offset=offset,
        table=table_name(statement.relation),
        form=form,
        columns=tuple(columns),
        constraints=known,
        partition_of=partition_of,
        partitioned=statement.HasField("partspec"),
        temporary=statement.relation.relpersistence == "t",
        if_not_exists=statement.if_not_exists,
    )


def _create_table_as(statement: Any, offset: int) -> Iterator[to.Change]:
    table = table_name(statement.into.rel)
    if kind_of(statement.objtype) == "table":
        yield to.CreateTable(
            offset=offset,
            table=table,
            form="create-table-as",
            temporary=statement.into.rel.relpersistence == "t",
            if_not_exists=statement.if_not_exists,
            filled=True,
        )
    else:
        yield to.Other(offset=offset, table=table, form="create-materialized-view", verb="CREATE MATERIALIZED VIEW")


def _alter_table(statement: Any, offset: int) -> Iterator[to.Change]:
    table = table_name(statement.relation)
    kind = kind_of(statement.objtype)
    for node in statement.cmds:
        command = node.alter_table_cmd
        word = symbol("AlterTableType", command.subtype)
        part = _PARTS.get(word) if kind in ("table", "index", "foreign table") else None
        if part is not None:
            yield from part(command, getattr(command, "def"), table, offset)
            continue
        settings: tuple[str, ...] = ()
        form = _FORMS.get(word, "") if kind == "table" else ""
        name = command.name
        if word == "AT_AlterConstraint":
            altered = getattr(command, "def").atalter_constraint
            name, form = altered.conname, _altered_constraint(altered)
        if word in ("AT_SetRelOptions", "AT_ResetRelOptions", "AT_ReplaceRelOptions"):
            settings = tuple(item.def_elem.defname for item in getattr(command, "def").list.items)
            light = all(name in _LIGHT_PARAMETERS or name.startswith("autovacuum_") for name in settings)
            if kind == "index":
                form = "set-index-fillfactor" if light else "set-index-fastupdate"
            else:
                form = "set-fillfactor" if light else "set-user-catalog-table"
        yield to.AlterTable(
            offset=offset,
            table=table,
            form=form,
            action=word.removeprefix("AT_"),
            name=name,
            kind=kind,
            settings=settings,
        )


def _altered_constraint(item: Any) -> str:
    if item.alter_enforceability:
        return "alter-constraint-enforced" if item.is_enforced else "alter-constraint-not-enforced"
    return "alter-constraint-inherit" if item.alter_inheritability else "alter-constraint-deferrable"


def _add_column(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    item = definition.column_def
    column = column_of(item)
    yield to.AddColumn(
        offset=offset, table=table, form=column_form(column), column=column, if_not_exists=command.missing_ok
    )
    for node in item.constraints:
        constraint = constraint_of(node.constraint, table, item.colname)
        if constraint is None or constraint.kind == "not null":
            continue
        form = constraint_form(constraint, inline=True)
        if constraint.refers and column.filling:
            form = "add-column-references-default"
        yield to.AddConstraint(offset=offset, table=table, form=form, constraint=constraint, inline=True)


def _add_constraint(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    constraint = constraint_of(definition.constraint, table)
    if constraint is not None:
        yield to.AddConstraint(
            offset=offset, table=table, form=constraint_form(constraint, inline=False), constraint=constraint
        )


def _alter_type(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:

    item = definition.column_def
    using = item.HasField("raw_default")
    yield to.AlterType(
        offset=offset,
        table=table,
        form="alter-type-using" if using else "alter-type",
        column=replace(column_of(item), name=command.name),
        using=using,
        collation=qualified(strings(item.coll_clause.collname)),
    )


def _drop_column(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    cascade = cascades(command.behavior)
    yield to.DropColumn(
        offset=offset,
        table=table,
        form="drop-column-cascade" if cascade else "drop-column",
        column=command.name,
        cascade=cascade,
        if_exists=command.missing_ok,
    )


def _set_default(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    dropped = definition.WhichOneof("node") is None
    form = "drop-default" if dropped else "set-default"
    yield to.SetDefault(offset=offset, table=table, form=form, column=command.name, dropped=dropped)


def _attach(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    part = definition.partition_cmd
    index = not part.HasField("bound")
    default = part.bound.is_default
    form = "attach-index-partition" if index else "attach-default-partition" if default else "attach-partition"
    yield to.AttachPartition(
        offset=offset, table=table, form=form, partition=table_name(part.name), default=default, index=index
    )


def _detach(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    part = definition.partition_cmd
    form = "detach-partition-concurrently" if part.concurrent else "detach-partition"
    yield to.DetachPartition(
        offset=offset, table=table, form=form, partition=table_name(part.name), concurrent=part.concurrent
    )


_PARTS: dict[str, Callable[[Any, Any, str, int], Iterator[to.Change]]] = {
    "AT_AddColumn": _add_column,
    "AT_AddConstraint": _add_constraint,
    "AT_AlterColumnType": _alter_type,
    "AT_DropColumn": _drop_column,
    "AT_ColumnDefault": _set_default,
    "AT_AttachPartition": _attach,
    "AT_DetachPartition": _detach,
    "AT_SetNotNull": lambda command, _, table, offset: iter(
        [to.SetNotNull(offset=offset, table=table, form="set-not-null", column=command.name)]
    ),
    "AT_DropNotNull": lambda command, _, table, offset: iter(
        [to.DropNotNull(offset=offset, table=table, form="drop-not-null", column=command.name)]
    ),
    "AT_ValidateConstraint": lambda command, _, table, offset: iter(
        [to.ValidateConstraint(offset=offset, table=table, form="validate-check", name=command.name)]
    ),
    "AT_DropConstraint": lambda command, _, table, offset: iter(
        [
            to.DropConstraint(
                offset=offset,
                table=table,
                form="drop-check",
                name=command.name,
                cascade=cascades(command.behavior),
            )
        ]
    ),
}


READERS: dict[str, Reader] = {
    "create_stmt": _create_table,
    "create_table_as_stmt": _create_table_as,
    "alter_table_stmt": _alter_table,
}
