"""Types of one's own: domains and enums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.changes.columns import column_of
from segue.databases.postgresql.grammar import symbol
from segue.databases.postgresql.relations import qualified, strings
from segue.model import changes as to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.databases.postgresql.changes.words import Reader

#: What ALTER DOMAIN does, by the tree's letter for it, and the key of what was measured.
_ACTIONS: dict[str, tuple[to.DomainAction, str]] = {
    "C": ("add constraint", "domain-add-check"),
    "V": ("validate constraint", "domain-validate"),
    "X": ("drop constraint", "domain-drop-constraint"),
    "O": ("set not null", "domain-set-not-null"),
    "N": ("drop not null", "domain-drop-not-null"),
}


def _create_domain(statement: Any, offset: int) -> Iterator[to.Change]:
    kinds = {symbol("ConstrType", item.constraint.contype) for item in statement.constraints}
    yield to.CreateDomain(
        offset=offset,
        form="create-domain",
        name=qualified(strings(statement.domainname)),
        base=column_of(statement),
        constrained=bool(kinds & {"CONSTR_CHECK", "CONSTR_NOTNULL"}),
    )


def _alter_domain(statement: Any, offset: int) -> Iterator[to.Change]:
    name = qualified(strings(statement.type_name))
    if statement.subtype == "T":
        dropped = not statement.HasField("def")
        form = "domain-drop-default" if dropped else "domain-set-default"
        yield to.AlterDomain(offset=offset, form=form, name=name, action="default")
        return
    action, form = _ACTIONS[statement.subtype]
    not_valid, constraint = False, statement.name
    if action == "add constraint":
        item = getattr(statement, "def").constraint
        not_valid, constraint = item.skip_validation, item.conname
        if symbol("ConstrType", item.contype) == "CONSTR_NOTNULL":
            form = "domain-set-not-null"
    yield to.AlterDomain(
        offset=offset,
        form=f"{form}-not-valid" if not_valid else form,
        name=name,
        action=action,
        constraint=constraint,
        not_valid=not_valid,
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


READERS: dict[str, Reader] = {
    "create_domain_stmt": _create_domain,
    "alter_domain_stmt": _alter_domain,
    "alter_enum_stmt": _alter_enum,
}
