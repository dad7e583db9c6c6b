"""Settings, transactions, and code in another language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.grammar import symbol
from segue.databases.postgresql.relations import qualified, strings
from segue.model import changes as to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.databases.postgresql.changes.words import Reader


def _set(statement: Any, offset: int) -> Iterator[to.Change]:
    values = [_value(item.a_const) for item in statement.args if item.WhichOneof("node") == "a_const"]
    setting = symbol("VariableSetKind", statement.kind) == "VAR_SET_VALUE"
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
    word = symbol("TransactionStmtKind", statement.kind).removeprefix("TRANS_STMT_").lower().replace("_", " ")
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


READERS: dict[str, Reader] = {
    "variable_set_stmt": _set,
    "transaction_stmt": _transaction,
    "do_stmt": _do,
    "create_function_stmt": _function,
}
