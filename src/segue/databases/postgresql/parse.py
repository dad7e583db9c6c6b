"""From SQL text to statements with their impact, by the server's own grammar; what cannot be run is refused here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import grammar
from segue.databases.postgresql.effects import Names
from segue.databases.postgresql.grammar import FEWER_LEVELS, TOO_DEEP
from segue.databases.postgresql.impact import judge
from segue.databases.postgresql.relations import descendants, object_name, strings, unwrapped
from segue.errors import InvalidInput, SqlSyntaxError
from segue.model.impact import Statement

if TYPE_CHECKING:
    from collections.abc import Iterator


def statements(sql: str) -> list[Statement]:
    """Split a text into its statements, each with the user's own words and what is predicted of it.

    Tables that the same text created before a statement are not counted among its locks: nobody else sees them.
    Raises SqlSyntaxError for text that does not parse, and for statements that may not be in a plan.
    """
    try:
        return _judged(sql)
    except SqlSyntaxError as error:
        error.sql = sql
        raise
    except RecursionError as error:
        raise SqlSyntaxError(TOO_DEEP, 0, sql=sql, hint=FEWER_LEVELS) from error


def node(sql: str) -> Any:
    """Return the syntax tree of one statement, for those who look at it again with a catalogue at hand."""
    return _parsed(sql).stmts[0].stmt


def tree(sql: str) -> Any:
    """Return the syntax tree of a whole text, whatever is in it. Raises SqlSyntaxError."""
    return _parsed(sql)


def _judged(sql: str) -> list[Statement]:
    tree = _parsed(sql)
    positions = _Positions(sql)
    tokens = _tokens(positions)
    names = Names()
    found = []
    for raw in tree.stmts:
        begin, end = _rim(tokens, raw.stmt_location, raw.stmt_len, len(positions.raw))
        offset = positions.character(begin)
        _refuse(raw.stmt, offset)
        try:
            effects = judge(raw.stmt, names)
        except SqlSyntaxError:
            raise
        except InvalidInput as error:
            raise SqlSyntaxError(error.message, offset, hint=error.hint) from error
        found.append(
            Statement(
                sql=positions.raw[begin:end].decode(),
                offset=offset,
                verb=effects.verb,
                locks=effects.locks(),
                duration=effects.duration,
                transactional=effects.transactional,
                index=effects.index,
                destroys=effects.destroys,
                notes=tuple(effects.notes),
            )
        )
    return found


class _Positions:
    """The parser counts bytes, people and Python count characters."""

    def __init__(self, sql: str) -> None:
        self.raw = sql.encode()

    def character(self, byte: int) -> int:
        """Return the character that begins at a byte."""
        return len(self.raw[:byte].decode("utf-8", errors="ignore"))


def _parsed(sql: str) -> Any:
    """Return the tree as postgast's own messages, which others change and write SQL from."""
    from postgast.pg_query_pb2 import ParseResult

    try:
        return grammar.tree(sql, ParseResult)
    except SqlSyntaxError as error:
        if _reads_stdin(sql[: error.offset]):
            raise SqlSyntaxError(
                "COPY … FROM STDIN with its data cannot be in a plan",
                error.offset,
                hint="load the data with a script of its own, or write INSERT",
            ) from error
        raise


def _reads_stdin(before: str) -> bool:
    """Return whether the text before a syntax error ends in a COPY that reads data lines."""
    from postgast import PgQueryError, parse, scan

    try:
        tokens = scan(before).tokens
        ends = [token.end for token in tokens if before.encode()[token.start : token.end] == b";"]
        if not ends:
            return False
        tree = parse(before.encode()[: ends[-1]].decode())
    except (PgQueryError, UnicodeDecodeError):
        return False
    last = unwrapped(tree.stmts[-1].stmt) if tree.stmts else None
    return type(last).__name__ == "CopyStmt" and bool(last) and last.is_from and not last.filename  # type: ignore[union-attr]


def _tokens(positions: _Positions) -> list[tuple[int, int]]:
    from postgast import pg_query_pb2 as pb
    from postgast import scan

    comments = (pb.SQL_COMMENT, pb.C_COMMENT)
    return [
        (token.start, token.end)
        for token in scan(positions.raw.decode()).tokens
        if token.token not in comments and positions.raw[token.start : token.end] != b";"
    ]


def _rim(tokens: list[tuple[int, int]], location: int, length: int, size: int) -> tuple[int, int]:
    """Return where a statement begins and ends without semicolon and without comments at its rim, in bytes."""
    stop = location + length if length else size
    inside = [(begin, end) for begin, end in tokens if location <= begin and end <= stop]
    return (inside[0][0], inside[-1][1]) if inside else (location, stop)


# -- what a plan may not contain --------------------------------------------------------------------------------------

OWN_SCHEMA = "segue"

_REFUSED = {
    "transaction_stmt": (
        "transaction control does not belong in a plan: Segue opens and ends the transactions itself",
        "leave it out; `transaction: true` on the step runs its statements in one transaction",
    ),
    "variable_set_stmt": (
        "SET and RESET do not belong in a plan: Segue pins the settings of its sessions",
        "use the step's fields (`timeout`, `lock_timeout`), or ALTER ROLE / ALTER DATABASE … SET",
    ),
    "discard_stmt": ("DISCARD does not belong in a plan: Segue pins its sessions", "leave it out"),
    "load_stmt": ("LOAD changes only the session, which does not outlive the statement", "leave it out"),
    "listen_stmt": ("LISTEN changes only the session, which does not outlive the statement", "leave it out"),
    "unlisten_stmt": ("UNLISTEN changes only the session, which does not outlive the statement", "leave it out"),
    "prepare_stmt": ("PREPARE changes only the session, which does not outlive the statement", "write it out"),
    "execute_stmt": ("EXECUTE needs a statement prepared in the same session", "write the statement itself"),
    "deallocate_stmt": ("DEALLOCATE changes only the session, which does not outlive the statement", "leave it out"),
    "declare_cursor_stmt": ("cursors do not belong in a plan", "use a `backfill` step to go through rows in batches"),
    "fetch_stmt": ("cursors do not belong in a plan", "use a `backfill` step to go through rows in batches"),
    "close_portal_stmt": ("cursors do not belong in a plan", "use a `backfill` step to go through rows in batches"),
}


def _refuse(node: Any, offset: int) -> None:
    kind = node.WhichOneof("node")
    statement = unwrapped(node)
    if kind in _REFUSED:
        message, hint = _REFUSED[kind]
        raise SqlSyntaxError(message, offset, hint=hint)
    if kind == "copy_stmt" and not statement.filename:
        direction = "FROM STDIN" if statement.is_from else "TO STDOUT"
        raise SqlSyntaxError(
            f"COPY … {direction} cannot be in a plan: nobody is there to send or take the data",
            offset,
            hint="load the data with a script of its own, or write INSERT",
        )
    if kind == "do_stmt" and _ends_transactions(statement):
        raise SqlSyntaxError(
            "a DO block with COMMIT or ROLLBACK cannot be taken up again after a crash",
            offset,
            hint="use a `backfill` step: it works in batches and remembers how far it came",
        )
    if _touches_own(kind, statement):
        raise SqlSyntaxError(
            'the schema "segue" is Segue\'s own: a plan that writes it would lose what was done and by whom',
            offset,
            hint="leave it out; `segue env clean` removes the schema when nobody needs it",
        )
    for call in descendants(statement, "FuncCall"):
        if strings(call.funcname)[-1:] == ["set_config"]:
            raise SqlSyntaxError(
                "set_config() does not belong in a plan: Segue pins the settings of its sessions",
                offset,
                hint="leave it out; write qualified names instead of a search_path",
            )


def _touches_own(kind: str, statement: Any) -> bool:
    """Return whether a statement writes, changes or drops something of the schema `segue`, or locks it."""
    if kind == "drop_stmt":
        return any(object_name(node)[:1] == [OWN_SCHEMA] for node in statement.objects)
    if kind in ("alter_owner_stmt", "comment_stmt") and object_name(statement.object)[:1] == [OWN_SCHEMA]:
        return True
    if kind == "rename_stmt" and statement.subname == OWN_SCHEMA:
        return True
    if kind == "create_schema_stmt" and statement.schemaname == OWN_SCHEMA:
        return True
    written = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "LockingClause", "IntoClause")
    if kind == "select_stmt" and not any(True for word in written for _ in descendants(statement, word)):
        return False
    return any(relation.schemaname == OWN_SCHEMA for relation in descendants(statement, "RangeVar"))


def _ends_transactions(statement: Any) -> bool:
    from postgast import PgQueryError, parse_plpgsql

    options = {item.def_elem.defname: item.def_elem.arg for item in statement.args}
    language = unwrapped(options["language"]).sval if "language" in options else "plpgsql"
    if language != "plpgsql" or "as" not in options:
        return False
    body = unwrapped(options["as"]).sval
    mark = "segue"
    while f"${mark}$" in body:
        mark += "_"
    try:
        tree = parse_plpgsql(
            "CREATE FUNCTION segue_block() RETURNS void LANGUAGE plpgsql AS " + f"${mark}${body}${mark}$"
        )
    except PgQueryError:
        return False
    return any(key in ("PLpgSQL_stmt_commit", "PLpgSQL_stmt_rollback") for key in _keys(tree))


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner) if isinstance(inner, dict | list) else ()
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner) if isinstance(inner, dict | list) else ()


__all__ = ["SqlSyntaxError", "statements"]
