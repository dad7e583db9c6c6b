"""Indexes, triggers, views, types and the like: made, dropped, renamed, granted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.changes.words import cascades, kind_of, of_relation
from segue.databases.postgresql.grammar import symbol
from segue.databases.postgresql.relations import object_name, qualified, table_name
from segue.model import changes as to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.databases.postgresql.changes.words import Reader


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
    kind = symbol("ReindexObjectType", statement.kind).removeprefix("REINDEX_OBJECT_").lower()
    concurrent = any(item.def_elem.defname == "concurrently" for item in statement.params)
    name = table_name(statement.relation) if statement.HasField("relation") else statement.name
    form = f"reindex-{kind}" if kind in ("index", "table", "schema") else "reindex-schema"
    if concurrent and kind in ("index", "table"):
        form += "-concurrently"
    table = name if kind == "table" else ""
    yield to.Reindex(offset=offset, table=table, form=form, kind=kind, name=name, concurrent=concurrent)


_DROPS = frozenset(
    "table index view function trigger rule policy type schema sequence publication statistics".split()
) | {"materialized view"}


def _drop(statement: Any, offset: int) -> Iterator[to.Change]:
    kind = kind_of(statement.remove_type)
    cascade = cascades(statement.behavior)
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
    kind = kind_of(statement.rename_type)
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


def _trigger(statement: Any, offset: int) -> Iterator[to.Change]:
    form = "create-constraint-trigger" if statement.isconstraint else "create-trigger"
    yield to.CreateTrigger(
        offset=offset,
        table=table_name(statement.relation),
        form="replace-trigger" if statement.replace else form,
        name=statement.trigname,
        replace=statement.replace,
    )


def _view(statement: Any, offset: int) -> Iterator[to.Change]:
    replace = statement.replace
    yield to.Other(
        offset=offset,
        table=table_name(statement.view),
        form="replace-view" if replace else "create-view",
        verb="CREATE OR REPLACE VIEW" if replace else "CREATE VIEW",
    )


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
    public = any(symbol("RoleSpecType", item.role_spec.roletype) == "ROLESPEC_PUBLIC" for item in statement.grantees)
    for item in statement.objects:
        table = table_name(item.range_var) if item.WhichOneof("node") == "range_var" else ""
        yield to.Grant(
            offset=offset,
            table=table,
            form="grant" if table and kind_of(statement.objtype) == "table" else "",
            all=not statement.privileges,
            public=public,
            passed_on=statement.grant_option,
        )


READERS: dict[str, Reader] = {
    "index_stmt": _create_index,
    "reindex_stmt": _reindex,
    "drop_stmt": _drop,
    "rename_stmt": _rename,
    "create_trig_stmt": _trigger,
    "view_stmt": _view,
    "rule_stmt": of_relation("CREATE RULE", "create-rule"),
    "create_policy_stmt": of_relation("CREATE POLICY", "create-policy", "table"),
    "alter_policy_stmt": of_relation("ALTER POLICY", "alter-policy", "table"),
    "create_publication_stmt": _publication("CREATE"),
    "alter_publication_stmt": _publication("ALTER"),
    "grant_stmt": _grant,
}
