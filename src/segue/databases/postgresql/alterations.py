"""Names what each part of an ALTER TABLE does, for the record of an online change."""

from __future__ import annotations

from typing import Any

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
