"""A table that is moved to other storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AlterTable
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


_HOW = {
    "SetLogged": "written anew and into the log, so to all replicas",
    "SetUnLogged": "written anew, is empty after a crash, and is not on replicas",
    "SetTableSpace": "copied to the other tablespace",
    "SetAccessMethod": "written anew",
}


def look(change: AlterTable, at: Place) -> Iterator[Finding]:
    """Find storage changes of tables and indexes."""
    how = _HOW.get(change.action)
    if how is None or change.kind not in ("table", "index") or at.new(change.table):
        return
    index = change.kind == "index"
    yield at.find(
        change,
        f"{change.table} is {how}; reads and writes {'that use it ' if index else ''}wait until that is done",
        safe="build a second index there with CREATE INDEX CONCURRENTLY … TABLESPACE, and drop this one"
        if index
        else "copy into a new table online (`online-change` in a plan), and swap",
        form="set-index-tablespace" if index else None,
        role="index" if index else "table",
    )


RULE = Rule(
    name="alter-table-storage",
    severity=Severity.ERROR,
    rows=(55,),
    on=(AlterTable,),
    condition="a table is set LOGGED or UNLOGGED, or gets another tablespace or access method",
    effect="the whole table is written again; reads and writes wait until that is done",
    instead="an online change: a new table that is filled in batches and kept up, then a swap",
    bad="ALTER TABLE orders SET UNLOGGED;",
    good="ALTER TABLE orders SET (fillfactor = 80);",
    look=look,
)
