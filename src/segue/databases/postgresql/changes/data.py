"""Rows: written, read, emptied, packed, filled in again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.changes.words import cascades, of_relation
from segue.databases.postgresql.relations import mentioned, table_name
from segue.model import changes as to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.databases.postgresql.changes.words import Reader


def _truncate(statement: Any, offset: int) -> Iterator[to.Change]:
    cascade = cascades(statement.behavior)
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


def _vacuum(statement: Any, offset: int) -> Iterator[to.Change]:
    full = any(item.def_elem.defname == "full" for item in statement.options)
    verb = "ANALYZE" if not statement.is_vacuumcmd else "VACUUM FULL" if full else "VACUUM"
    form = verb.lower().replace(" ", "-")
    for item in statement.rels:
        yield to.Other(offset=offset, table=table_name(item.vacuum_relation.relation), form=form, verb=verb)
    if not statement.rels:
        yield to.Other(offset=offset, form=form, verb=verb)


def _refresh(statement: Any, offset: int) -> Iterator[to.Change]:
    form = "refresh-materialized-view" + ("-concurrently" if statement.concurrent else "")
    if statement.skip_data:
        form += "-with-no-data"
    verb = "REFRESH MATERIALIZED VIEW" + (" CONCURRENTLY" if statement.concurrent else "")
    yield to.Other(offset=offset, table=table_name(statement.relation), form=form, verb=verb)


READERS: dict[str, Reader] = {
    "truncate_stmt": _truncate,
    "insert_stmt": _write("INSERT"),
    "update_stmt": _write("UPDATE"),
    "delete_stmt": _write("DELETE"),
    "merge_stmt": _write("MERGE"),
    "select_stmt": _select,
    "vacuum_stmt": _vacuum,
    "refresh_mat_view_stmt": _refresh,
    "cluster_stmt": of_relation("CLUSTER", "cluster"),
}
