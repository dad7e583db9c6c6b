"""Columns and constraints as they are written."""

from __future__ import annotations

from typing import Any

from segue.databases.postgresql.alter_table import _SERIAL, _never_null
from segue.databases.postgresql.grammar import symbol
from segue.databases.postgresql.naming import constraint_name
from segue.databases.postgresql.relations import strings, table_name, volatile_calls
from segue.model import changes as to

_CONSTRAINTS: dict[str, to.ConstraintKind] = {
    "CONSTR_CHECK": "check",
    "CONSTR_NOTNULL": "not null",
    "CONSTR_UNIQUE": "unique",
    "CONSTR_PRIMARY": "primary key",
    "CONSTR_EXCLUSION": "exclude",
    "CONSTR_FOREIGN": "foreign key",
}


def column_of(definition: Any) -> to.Column:
    """Return a column of CREATE TABLE or ADD COLUMN; of CREATE DOMAIN, a column without a name of its type."""
    type_name = strings(definition.type_name.names)
    serial = len(type_name) == 1 and type_name[0] in _SERIAL
    known: dict[str, Any] = {}
    for item in definition.constraints:
        constraint = item.constraint
        known[symbol("ConstrType", constraint.contype)] = constraint
    filling: to.Filling = ""
    calls = ""
    if "CONSTR_DEFAULT" in known:
        filling, calls = _filling(known["CONSTR_DEFAULT"].raw_expr)
    generated = known.get("CONSTR_GENERATED")
    return to.Column(
        name=getattr(definition, "colname", ""),
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


def constraint_of(item: Any, table: str, column: str = "") -> to.Constraint | None:
    """Return a constraint of a table, written by itself or with a column; None for what is none."""
    kind = _CONSTRAINTS.get(symbol("ConstrType", item.contype))
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
        default_name="" if item.conname else constraint_name(table, kind, columns, item),
    )


def constraint_form(constraint: to.Constraint, inline: bool) -> str:
    """Return the key of what was measured of adding a constraint, by itself or with a column."""
    kind = constraint.kind.replace(" ", "-")
    if inline:
        return {"check": "add-column-check", "foreign-key": "add-column-references"}.get(kind, f"add-{kind}")
    if constraint.using_index:
        return f"add-{kind}-using-index" + ("-nullable" if kind == "primary-key" else "")
    if not constraint.enforced and kind in ("check", "foreign-key"):
        return f"add-{kind}-not-enforced"
    return f"add-{kind}" + ("-not-valid" if constraint.not_valid else "")


def column_form(column: to.Column) -> str:
    """Return the key of what was measured of adding a column."""
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
