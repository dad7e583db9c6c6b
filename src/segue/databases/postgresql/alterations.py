"""Names what each part of an ALTER TABLE does, for the record of an online change."""

from __future__ import annotations

from typing import Any

from segue.errors import InvalidInput, SqlSyntaxError
from segue.model.online import Alteration
from segue.model.vocabulary import ChangeType

_KINDS = {
    "AT_AddColumn": ChangeType.ADD_COLUMN,
    "AT_DropColumn": ChangeType.DROP_COLUMN,
    "AT_AlterColumnType": ChangeType.MODIFY_COLUMN,
    "AT_ColumnDefault": ChangeType.MODIFY_COLUMN,
    "AT_SetNotNull": ChangeType.MODIFY_COLUMN,
    "AT_DropNotNull": ChangeType.MODIFY_COLUMN,
    "AT_SetExpression": ChangeType.MODIFY_COLUMN,
    "AT_DropExpression": ChangeType.MODIFY_COLUMN,
    "AT_AddIdentity": ChangeType.MODIFY_COLUMN,
    "AT_SetIdentity": ChangeType.MODIFY_COLUMN,
    "AT_DropIdentity": ChangeType.MODIFY_COLUMN,
    "AT_AddConstraint": ChangeType.ADD_CONSTRAINT,
    "AT_ValidateConstraint": ChangeType.ADD_CONSTRAINT,
    "AT_DropConstraint": ChangeType.DROP_CONSTRAINT,
    "AT_SetStorage": ChangeType.STORAGE,
    "AT_SetCompression": ChangeType.STORAGE,
    "AT_SetLogged": ChangeType.STORAGE,
    "AT_SetUnLogged": ChangeType.STORAGE,
    "AT_SetTableSpace": ChangeType.STORAGE,
    "AT_SetAccessMethod": ChangeType.STORAGE,
    "AT_SetRelOptions": ChangeType.STORAGE,
    "AT_ResetRelOptions": ChangeType.STORAGE,
    "AT_ClusterOn": ChangeType.STORAGE,
}
_OF_COLUMNS = (ChangeType.ADD_COLUMN, ChangeType.DROP_COLUMN, ChangeType.MODIFY_COLUMN)
_UNIQUE = ("CONSTR_UNIQUE", "CONSTR_EXCLUSION")


def alterations(sql: str) -> list[Alteration]:
    """Return what the parts of an ALTER TABLE do, in their order; raises InvalidInput for what is no SQL."""
    from postgast import pg_query_pb2 as pb

    from segue.databases.postgresql.parse import node

    statement = node(sql)
    if statement.WhichOneof("node") != "alter_table_stmt":
        return []
    commands = [part.alter_table_cmd for part in statement.alter_table_stmt.cmds]
    return [_alteration(pb.AlterTableType.Name(command.subtype), command) for command in commands]


def alter_tables(sql: str) -> list[tuple[str, str]]:
    """Split ALTER TABLE statements into the table, as it is written there, and what comes after it.

    Raises InvalidInput for any other statement, SqlSyntaxError for what is no SQL.
    """
    from postgast import scan

    from segue.databases.postgresql.parse import node, statements

    found = []
    for statement in statements(sql):
        tree = node(statement.sql)
        if tree.WhichOneof("node") == "rename_stmt":
            raise InvalidInput(
                "a rename needs no online change: it takes a moment",
                hint="give it a plan of its own, with a step of the kind `sql`",
            )
        if tree.WhichOneof("node") != "alter_table_stmt" or statement.verb != "ALTER TABLE":
            raise InvalidInput(
                f"an online change is an ALTER TABLE, not {statement.verb}",
                hint="give any other statement a plan of its own, with a step of the kind `sql`",
            )
        relation = tree.alter_table_stmt.relation
        if not relation.inh:
            raise InvalidInput("an online change is of a whole table: leave out ONLY")
        raw = statement.sql.encode()
        tokens = [(token.start, token.end) for token in scan(statement.sql).tokens if token.start >= relation.location]
        # The name is one word, or several with dots between them; an asterisk after it says what goes without saying.
        at = 0
        while raw[tokens[at + 1][0] : tokens[at + 1][1]] == b".":
            at += 2
        end = at + 1 if raw[tokens[at + 1][0] : tokens[at + 1][1]] == b"*" else at
        found.append((raw[relation.location : tokens[at][1]].decode(), raw[tokens[end][1] :].decode().strip()))
    if not found:
        raise SqlSyntaxError("there is no statement", 0, sql=sql)
    return found


def _alteration(name: str, command: Any) -> Alteration:
    from postgast import pg_query_pb2 as pb

    kind = _KINDS.get(name, ChangeType.ALTER_TABLE)
    definition = getattr(command, "def")  # a keyword of Python, so not command.def
    if name == "AT_AddColumn":
        return Alteration(kind, definition.column_def.colname)
    if name == "AT_AddConstraint":
        constraint = definition.constraint
        what = pb.ConstrType.Name(constraint.contype)
        if what == "CONSTR_PRIMARY":
            return Alteration(ChangeType.CHANGE_KEY, None, constraint.conname or constraint.indexname or None)
        if what in _UNIQUE:
            return Alteration(ChangeType.ADD_INDEX, None, constraint.conname or constraint.indexname or None)
        return Alteration(kind)
    return Alteration(kind, command.name or None if kind in _OF_COLUMNS or kind is ChangeType.STORAGE else None)
