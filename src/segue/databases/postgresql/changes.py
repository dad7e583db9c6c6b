"""From SQL text to neutral changes: each statement is read once, from its syntax tree."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import parse
from segue.databases.postgresql.alter_table import (
    _FORMS,
    _LIGHT_PARAMETERS,
    _SERIAL,
    _never_null,
)
from segue.databases.postgresql.relations import (
    mentioned,
    object_name,
    qualified,
    strings,
    table_name,
    unwrapped,
    volatile_calls,
)
from segue.errors import SqlSyntaxError
from segue.model import changes as to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Reader = Callable[[Any, int], Iterator[to.Change]]

_BEFORE = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", re.DOTALL)
_CONSTRAINTS: dict[str, to.ConstraintKind] = {
    "CONSTR_CHECK": "check",
    "CONSTR_NOTNULL": "not null",
    "CONSTR_UNIQUE": "unique",
    "CONSTR_PRIMARY": "primary key",
    "CONSTR_EXCLUSION": "exclude",
    "CONSTR_FOREIGN": "foreign key",
}


def read(sql: str) -> list[to.Changed]:
    """Return what each statement of a text does. Raises SqlSyntaxError, with the character, where it does not parse."""
    try:
        tree = parse.tree(sql)
    except SqlSyntaxError as error:
        error.sql = sql
        raise
    raw = None if sql.isascii() else sql.encode()
    found = []
    at = byte = 0  # the same place, in characters and in bytes: statements come in the text's order
    for item in tree.stmts:
        stop = item.stmt_location + item.stmt_len if item.stmt_len else None
        if raw is None:
            begin, end = item.stmt_location, stop
        else:
            begin = at + len(raw[byte : item.stmt_location].decode())
            words = raw[item.stmt_location : stop].decode()
            end = begin + len(words)
            at, byte = end, stop or len(raw)
        skipped = _BEFORE.match(sql, begin, len(sql) if end is None else end)
        offset = skipped.end() if skipped else begin
        found.append(to.Changed(sql[offset:end].rstrip(), offset, tuple(changes_of(item.stmt, offset))))
    return found


def comments(sql: str) -> list[tuple[int, str]]:
    """Return the comments of a text that parses, each with the character where it begins."""
    from postgast import pg_query_pb2 as pb
    from postgast import scan

    raw = sql.encode()
    return [
        (len(raw[: token.start].decode()), raw[token.start : token.end].decode())
        for token in scan(sql).tokens
        if token.token in (pb.SQL_COMMENT, pb.C_COMMENT)
    ]


def changes_of(node: Any, offset: int) -> Iterator[to.Change]:
    """Yield what one statement of a syntax tree does; `offset` is where it begins, in characters."""
    kind = node.WhichOneof("node")
    reader = _READERS.get(kind)
    if reader is None:
        yield to.Other(offset=offset, verb=kind.removesuffix("_stmt").replace("_", " ").upper())
    else:
        yield from reader(getattr(node, kind), offset)


@cache
def _word(enum: str, number: int) -> str:
    from postgast import pg_query_pb2 as pb

    name: str = getattr(pb, enum).Name(number)
    return name


def _objects(number: int) -> str:
    word = _word("ObjectType", number).removeprefix("OBJECT_").replace("_", " ").lower()
    return {
        "matview": "materialized view",
        "tabconstraint": "constraint",
        "domconstraint": "domain constraint",
    }.get(word, word)


def _cascades(number: int) -> bool:
    return _word("DropBehavior", number) == "DROP_CASCADE"


# -- columns and constraints ------------------------------------------------------------------------------------------


def _column(definition: Any) -> to.Column:
    type_name = strings(definition.type_name.names)
    serial = len(type_name) == 1 and type_name[0] in _SERIAL
    known: dict[str, Any] = {}
    for item in definition.constraints:
        constraint = item.constraint
        known[_word("ConstrType", constraint.contype)] = constraint
    filling: to.Filling = ""
    calls = ""
    if "CONSTR_DEFAULT" in known:
        filling, calls = _filling(known["CONSTR_DEFAULT"].raw_expr)
    generated = known.get("CONSTR_GENERATED")
    return to.Column(
        name=definition.colname,
        type=".".join(type_name[1:] if type_name[:1] == ["pg_catalog"] else type_name),
        modifiers=tuple(
            item.a_const.ival.ival for item in definition.type_name.typmods if item.WhichOneof("node") == "a_const"
        ),
        array=bool(definition.type_name.array_bounds),
        filling=filling,
        calls=calls,
        not_null="CONSTR_NOTNULL" in known or "CONSTR_PRIMARY" in known,
        serial=serial,
        identity="CONSTR_IDENTITY" in known,
        generated="" if generated is None else "virtual" if generated.generated_kind == "v" else "stored",
    )


def _filling(expression: Any) -> tuple[to.Filling, str]:
    while expression.WhichOneof("node") == "type_cast":
        expression = expression.type_cast.arg
    kind = expression.WhichOneof("node")
    if kind == "a_const":
        return ("", "") if expression.a_const.isnull else ("constant", "")
    volatile, unknown = volatile_calls(expression)
    if volatile:
        return "volatile", volatile[0]
    if unknown:
        return "unknown", unknown[0]
    return ("constant" if kind not in ("func_call", "sqlvalue_function") else "stable"), ""


def _constraint(item: Any, column: str = "") -> to.Constraint | None:
    kind = _CONSTRAINTS.get(_word("ConstrType", item.contype))
    if kind is None:
        return None
    columns = tuple(strings(item.fk_attrs if kind == "foreign key" else item.keys)) or ((column,) if column else ())
    return to.Constraint(
        kind=kind,
        name=item.conname,
        columns=columns,
        refers=table_name(item.pktable) if kind == "foreign key" else "",
        referred=tuple(strings(item.pk_attrs)),
        not_valid=item.skip_validation,
        enforced=item.is_enforced or kind in ("unique", "primary key", "exclude", "not null"),
        using_index=item.indexname,
        proves=(_never_null(item.raw_expr) or "") if kind == "check" else "",
    )


def _constraint_form(constraint: to.Constraint, inline: bool) -> str:
    kind = constraint.kind.replace(" ", "-")
    if inline:
        return {"check": "add-column-check", "foreign-key": "add-column-references"}.get(kind, f"add-{kind}")
    if constraint.using_index:
        return f"add-{kind}-using-index" + ("-nullable" if kind == "primary-key" else "")
    if not constraint.enforced and kind in ("check", "foreign-key"):
        return f"add-{kind}-not-enforced"
    return f"add-{kind}" + ("-not-valid" if constraint.not_valid else "")


def _column_form(column: to.Column) -> str:
    if column.serial:
        return "add-column-serial"
    if column.identity:
        return "add-column-identity"
    if column.generated:
        return f"add-column-{column.generated}"
    if column.filling in ("volatile", "unknown"):
        return "add-column-volatile-default"
    if column.filling:
        default = "add-column-stable-default" if column.filling == "stable" else "add-column-constant-default"
        return "add-column-not-null-default" if column.not_null else default
    return "add-column-not-null" if column.not_null else "add-column"


# -- tables -----------------------------------------------------------------------------------------------------------


def _create_table(statement: Any, offset: int) -> Iterator[to.Change]:
    columns, constraints = [], []
    for element in statement.table_elts:
        kind = element.WhichOneof("node")
        if kind == "column_def":
            columns.append(_column(element.column_def))
            of = element.column_def.colname
            constraints += [_constraint(item.constraint, of) for item in element.column_def.constraints]
        elif kind == "constraint":
            constraints.append(_constraint(element.constraint))
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
    if _objects(statement.objtype) == "table":
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
    kind = _objects(statement.objtype)
    for node in statement.cmds:
        command = node.alter_table_cmd
        word = _word("AlterTableType", command.subtype)
        part = _PARTS.get(word) if kind in ("table", "index", "foreign table") else None
        if part is not None:
            yield from part(command, getattr(command, "def"), table, offset)
            continue
        settings: tuple[str, ...] = ()
        form = _FORMS.get(word, "") if kind == "table" else ""
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
            name=command.name,
            kind=kind,
            settings=settings,
        )


def _add_column(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    item = definition.column_def
    column = _column(item)
    yield to.AddColumn(
        offset=offset, table=table, form=_column_form(column), column=column, if_not_exists=command.missing_ok
    )
    for node in item.constraints:
        constraint = _constraint(node.constraint, item.colname)
        if constraint is None or constraint.kind == "not null":
            continue
        form = _constraint_form(constraint, inline=True)
        if constraint.refers and column.filling:
            form = "add-column-references-default"
        yield to.AddConstraint(offset=offset, table=table, form=form, constraint=constraint, inline=True)


def _add_constraint(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    constraint = _constraint(definition.constraint)
    if constraint is not None:
        yield to.AddConstraint(
            offset=offset, table=table, form=_constraint_form(constraint, inline=False), constraint=constraint
        )


def _alter_type(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    from dataclasses import replace

    item = definition.column_def
    using = item.HasField("raw_default")
    yield to.AlterType(
        offset=offset,
        table=table,
        form="alter-type-using" if using else "alter-type",
        column=replace(_column(item), name=command.name),
        using=using,
        collation=qualified(strings(item.coll_clause.collname)),
    )


def _drop_column(command: Any, definition: Any, table: str, offset: int) -> Iterator[to.Change]:
    cascade = _cascades(command.behavior)
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
                cascade=_cascades(command.behavior),
            )
        ]
    ),
}


# -- indexes and other objects ----------------------------------------------------------------------------------------


def _create_index(statement: Any, offset: int) -> Iterator[to.Change]:
    concurrent = statement.concurrent
    form = "create-unique-index" if statement.unique else "create-index"
    if concurrent:
        form += "-concurrently"
    if not statement.relation.inh:
        form = "create-index-on-only"
    yield to.CreateIndex(
        offset=offset,
        table=table_name(statement.relation),
        form=form,
        name=statement.idxname,
        columns=tuple(item.index_elem.name for item in statement.index_params),
        method=statement.access_method,
        unique=statement.unique,
        concurrent=concurrent,
        if_not_exists=statement.if_not_exists,
        only=not statement.relation.inh,
        partial=statement.HasField("where_clause"),
    )


def _reindex(statement: Any, offset: int) -> Iterator[to.Change]:
    kind = _word("ReindexObjectType", statement.kind).removeprefix("REINDEX_OBJECT_").lower()
    concurrent = any(item.def_elem.defname == "concurrently" for item in statement.params)
    name = table_name(statement.relation) if statement.HasField("relation") else statement.name
    form = f"reindex-{kind}" if kind in ("index", "table", "schema") else "reindex-schema"
    if concurrent and kind in ("index", "table"):
        form += "-concurrently"
    table = name if kind == "table" else ""
    yield to.Reindex(offset=offset, table=table, form=form, kind=kind, name=name, concurrent=concurrent)


#: Kinds of objects whose DROP has a measured form of its own.
_DROPS = frozenset(
    "table index view function trigger rule policy type schema sequence publication statistics".split()
) | {"materialized view"}


def _drop(statement: Any, offset: int) -> Iterator[to.Change]:
    kind = _objects(statement.remove_type)
    cascade = _cascades(statement.behavior)
    form = f"drop-{kind.replace(' ', '-')}" if kind in _DROPS else ""
    if kind == "index" and statement.concurrent:
        form = "drop-index-concurrently"
    elif form and kind in ("schema", "table", "type", "function") and (cascade or kind == "schema"):
        form += "-cascade"
    elif kind == "domain":
        form = "drop-domain-cascade"
    elif kind == "procedure":
        form = "drop-function"
    for item in statement.objects:
        parts = object_name(item)
        of_table = kind in ("trigger", "rule", "policy")
        yield to.DropObject(
            offset=offset,
            table=qualified(parts[:-1]) if of_table else qualified(parts) if kind == "table" else "",
            form=form,
            kind=kind,
            name=parts[-1] if of_table and parts else qualified(parts),
            cascade=cascade,
            concurrent=statement.concurrent,
            if_exists=statement.missing_ok,
        )


def _rename(statement: Any, offset: int) -> Iterator[to.Change]:
    kind = _objects(statement.rename_type)
    table = table_name(statement.relation) if statement.HasField("relation") else ""
    name = statement.subname or table or qualified(object_name(statement.object))
    form = f"rename-{kind.replace(' ', '-')}"
    known = "column constraint table index trigger rule policy view sequence schema type domain".split()
    yield to.RenameObject(
        offset=offset,
        table="" if kind in ("index", "sequence") else table,
        form=form if kind in known or kind == "materialized view" else "",
        kind=kind,
        name=name,
        new=statement.newname,
    )


def _alter_enum(statement: Any, offset: int) -> Iterator[to.Change]:
    name = qualified(strings(statement.type_name))
    if statement.old_val:
        yield to.RenameObject(
            offset=offset, form="rename-enum-value", kind="enum value", name=statement.old_val, new=statement.new_val
        )
    else:
        yield to.AddEnumValue(
            offset=offset,
            form="add-enum-value",
            type=name,
            value=statement.new_val,
            placed=bool(statement.new_val_neighbor),
        )


# -- data, session, code ----------------------------------------------------------------------------------------------


def _truncate(statement: Any, offset: int) -> Iterator[to.Change]:
    cascade = _cascades(statement.behavior)
    for item in statement.relations:
        form = "truncate-cascade" if cascade else "truncate"
        yield to.Truncate(offset=offset, table=table_name(item.range_var), form=form, cascade=cascade)


def _write(verb: str) -> Reader:
    def reader(statement: Any, offset: int) -> Iterator[to.Change]:
        twice = ""
        if verb == "UPDATE":
            names = [item.res_target.name for item in statement.target_list if not item.res_target.indirection]
            twice = next((name for name in names if names.count(name) > 1), "")
        yield to.WriteData(
            offset=offset,
            table=table_name(statement.relation),
            form=verb.lower(),
            verb=verb,
            filtered=verb in ("UPDATE", "DELETE") and statement.HasField("where_clause"),
            twice=twice,
        )

    return reader


def _select(statement: Any, offset: int) -> Iterator[to.Change]:
    if statement.HasField("into_clause"):
        yield to.CreateTable(
            offset=offset, table=table_name(statement.into_clause.rel), form="select-into", filled=True
        )
        return
    first = next(iter(mentioned(statement)), "")
    yield to.Other(offset=offset, table=first, form="select", verb="SELECT")


def _set(statement: Any, offset: int) -> Iterator[to.Change]:
    values = [_value(item.a_const) for item in statement.args if item.WhichOneof("node") == "a_const"]
    setting = _word("VariableSetKind", statement.kind) == "VAR_SET_VALUE"
    yield to.SetSetting(
        offset=offset, name=statement.name, value=", ".join(values) if setting else None, local=statement.is_local
    )


def _value(constant: Any) -> str:
    kind = constant.WhichOneof("val")
    if kind == "sval":
        return str(constant.sval.sval)
    if kind == "ival":
        return str(constant.ival.ival)
    if kind == "fval":
        return str(constant.fval.fval)
    return str(constant.boolval.boolval).lower()


def _transaction(statement: Any, offset: int) -> Iterator[to.Change]:
    word = _word("TransactionStmtKind", statement.kind).removeprefix("TRANS_STMT_").lower().replace("_", " ")
    yield to.Transaction(offset=offset, verb={"start": "begin"}.get(word, word))


def _do(statement: Any, offset: int) -> Iterator[to.Change]:
    options = {item.def_elem.defname: item.def_elem.arg for item in statement.args}
    yield to.Code(
        offset=offset,
        name="",
        language=options["language"].string.sval if "language" in options else "plpgsql",
        body=options["as"].string.sval if "as" in options else "",
    )


def _function(statement: Any, offset: int) -> Iterator[to.Change]:
    options = {item.def_elem.defname: item.def_elem.arg for item in statement.options}
    body = strings(options["as"].list.items) if "as" in options else []
    yield to.Code(
        offset=offset,
        form="replace-function" if statement.replace else "create-function",
        name=qualified(strings(statement.funcname)),
        language=options["language"].string.sval if "language" in options else "sql",
        body=body[0] if body else "",
    )


def _trigger(statement: Any, offset: int) -> Iterator[to.Change]:
    form = "create-constraint-trigger" if statement.isconstraint else "create-trigger"
    yield to.CreateTrigger(
        offset=offset,
        table=table_name(statement.relation),
        form="replace-trigger" if statement.replace else form,
        name=statement.trigname,
        replace=statement.replace,
    )


def _vacuum(statement: Any, offset: int) -> Iterator[to.Change]:
    full = any(item.def_elem.defname == "full" for item in statement.options)
    verb = "ANALYZE" if not statement.is_vacuumcmd else "VACUUM FULL" if full else "VACUUM"
    form = verb.lower().replace(" ", "-")
    for item in statement.rels:
        yield to.Other(offset=offset, table=table_name(item.vacuum_relation.relation), form=form, verb=verb)
    if not statement.rels:
        yield to.Other(offset=offset, form=form, verb=verb)


def _of_relation(verb: str, form: str, field: str = "relation") -> Reader:
    def reader(statement: Any, offset: int) -> Iterator[to.Change]:
        relation = getattr(statement, field)
        yield to.Other(offset=offset, table=table_name(relation), form=form, verb=verb)

    return reader


def _view(statement: Any, offset: int) -> Iterator[to.Change]:
    replace = statement.replace
    yield to.Other(
        offset=offset,
        table=table_name(statement.view),
        form="replace-view" if replace else "create-view",
        verb="CREATE OR REPLACE VIEW" if replace else "CREATE VIEW",
    )


def _refresh(statement: Any, offset: int) -> Iterator[to.Change]:
    form = "refresh-materialized-view" + ("-concurrently" if statement.concurrent else "")
    if statement.skip_data:
        form += "-with-no-data"
    verb = "REFRESH MATERIALIZED VIEW" + (" CONCURRENTLY" if statement.concurrent else "")
    yield to.Other(offset=offset, table=table_name(statement.relation), form=form, verb=verb)


def _publication(verb: str) -> Reader:
    def reader(statement: Any, offset: int) -> Iterator[to.Change]:
        word = f"{verb} PUBLICATION"
        form = "create-publication" if verb == "CREATE" else "publication-add-table"
        found = False
        for item in statement.pubobjects:
            spec = item.publication_obj_spec
            if spec.HasField("pubtable"):
                found = True
                yield to.Other(offset=offset, table=table_name(spec.pubtable.relation), form=form, verb=word)
        if not found:
            yield to.Other(offset=offset, verb=word)

    return reader


def _grant(statement: Any, offset: int) -> Iterator[to.Change]:
    if not statement.is_grant:
        yield to.Other(offset=offset, verb="REVOKE")
        return
    public = any(_word("RoleSpecType", item.role_spec.roletype) == "ROLESPEC_PUBLIC" for item in statement.grantees)
    for item in statement.objects:
        table = table_name(item.range_var) if item.WhichOneof("node") == "range_var" else ""
        yield to.Grant(
            offset=offset,
            table=table,
            form="grant" if table and _objects(statement.objtype) == "table" else "",
            all=not statement.privileges,
            public=public,
            passed_on=statement.grant_option,
        )


_READERS: dict[str, Reader] = {
    "create_publication_stmt": _publication("CREATE"),
    "alter_publication_stmt": _publication("ALTER"),
    "grant_stmt": _grant,
    "create_stmt": _create_table,
    "create_table_as_stmt": _create_table_as,
    "alter_table_stmt": _alter_table,
    "index_stmt": _create_index,
    "reindex_stmt": _reindex,
    "drop_stmt": _drop,
    "rename_stmt": _rename,
    "alter_enum_stmt": _alter_enum,
    "truncate_stmt": _truncate,
    "insert_stmt": _write("INSERT"),
    "update_stmt": _write("UPDATE"),
    "delete_stmt": _write("DELETE"),
    "merge_stmt": _write("MERGE"),
    "select_stmt": _select,
    "variable_set_stmt": _set,
    "transaction_stmt": _transaction,
    "do_stmt": _do,
    "create_function_stmt": _function,
    "create_trig_stmt": _trigger,
    "vacuum_stmt": _vacuum,
    "refresh_mat_view_stmt": _refresh,
    "cluster_stmt": _of_relation("CLUSTER", "cluster"),
    "rule_stmt": _of_relation("CREATE RULE", "create-rule"),
    "view_stmt": _view,
    "create_policy_stmt": _of_relation("CREATE POLICY", "create-policy", "table"),
    "alter_policy_stmt": _of_relation("ALTER POLICY", "alter-policy", "table"),
}
