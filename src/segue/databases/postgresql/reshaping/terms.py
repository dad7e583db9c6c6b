"""What an expression of a shape file uses, from its syntax tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.parse import node, tree
from segue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Functions of the grammar whose value depends on when they are called.
_MOMENTS = "its value depends on the moment"
#: And texts that are a moment where a date is expected.
_SOON = {"now", "today", "tomorrow", "yesterday"}


def columns_used(text: str) -> set[tuple[str, ...]]:
    """Return the columns that an expression names, each as its parts; `*` stands for all. Raises SqlSyntaxError."""
    return {
        tuple("*" if f.WhichOneof("node") == "a_star" else f.string.sval for f in one.fields)
        for one in _all(_value(text), "ColumnRef")
    }


def functions_used(text: str) -> set[str]:
    """Return the names of the functions that an expression calls, without their schemas."""
    return {one.funcname[-1].string.sval for one in _all(_value(text), "FuncCall")}


def wrong(text: str) -> str | None:
    """Return why an expression cannot stand for a value of one row by itself; None when it can."""
    value = _value(text)
    if any(True for _ in _all(value, "SubLink")):
        return "a query inside an expression reads what is not followed: use `lookup`"
    if any(True for _ in _all(value, "SQLValueFunction")):
        return _MOMENTS
    if any(one.funcname[-1].string.sval == "age" and len(one.args) == 1 for one in _all(value, "FuncCall")):
        return _MOMENTS
    for one in _all(value, "A_Const"):
        if (word := one.sval.sval.strip()).lower() in _SOON:
            return f"'{word}' may be a moment: write the date itself, or '{word[:1]}' || '{word[1:]}' for the text"
    return None


def plain_column(text: str) -> tuple[str, str] | None:
    """Return alias and column where an expression is a column and nothing more, a cast aside."""
    value = _uncast(_value(text))
    if value.WhichOneof("node") != "column_ref":
        return None
    names = [f.string.sval for f in value.column_ref.fields]
    return (names[0], names[1]) if len(names) == 2 and all(names) else None


def is_bare(text: str) -> bool:
    """Tell whether an expression is a column without a cast."""
    return bool(_value(text).WhichOneof("node") == "column_ref")


def is_constant(text: str) -> bool:
    """Tell whether an expression is a literal, a cast aside."""
    return bool(_uncast(_value(text)).WhichOneof("node") == "a_const")


def equated(text: str, alias: str) -> set[str]:
    """Return the columns of an alias that a condition sets equal to something else, whatever else it demands."""
    found: set[str] = set()
    waiting = [_value(text)]
    while waiting:
        one = waiting.pop()
        kind = one.WhichOneof("node")
        if kind == "bool_expr" and one.bool_expr.boolop == 1:  # AND
            waiting += one.bool_expr.args
        elif kind == "a_expr" and [n.string.sval for n in one.a_expr.name] == ["="]:
            for side, other in ((one.a_expr.lexpr, one.a_expr.rexpr), (one.a_expr.rexpr, one.a_expr.lexpr)):
                names = _names(side)
                if len(names) == 2 and names[0] == alias and not any(n[0] == alias for n in _refs(other)):
                    found.add(names[1])
    return found


def _names(value: Any) -> list[str]:
    return [f.string.sval for f in value.column_ref.fields] if value.WhichOneof("node") == "column_ref" else []


def _refs(value: Any) -> list[list[str]]:
    return [[f.string.sval for f in one.fields] for one in _all(value, "ColumnRef")]


def _value(text: str) -> Any:
    """Return the tree of a text that is one value, by itself and in parentheses; raises InvalidInput."""
    alone = tree(f"select\n{text}").stmts
    node(f"select cast(\n{text}\nas text)")
    found = alone[0].stmt.select_stmt
    others = {field.name for field, _ in found.ListFields()} - {"target_list", "limit_option", "op"}
    if len(alone) != 1 or others or len(found.target_list) != 1 or found.target_list[0].res_target.name:
        raise InvalidInput("this is more than one value")
    return found.target_list[0].res_target.val


def _uncast(value: Any) -> Any:
    while value.WhichOneof("node") == "type_cast":
        value = value.type_cast.arg
    return value


def _all(message: Any, name: str) -> Iterator[Any]:
    """Find the messages of a type at or below one."""
    if message.DESCRIPTOR.name == name:
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                yield from _all(one, name)
