"""A table that is emptied while it is compared, and filled with too much for the log, is copied anew."""

from __future__ import annotations

from typing import Any

import pytest
from fix_shops import Shops
from fix_targets import rows, run_sql

from segue.databases.postgresql.online import change, verify

PLAN = """
plan: reshape
version: 1.0.0
description: Give a table another shape
steps:
  - name: reshape
    kind: online-change
    strategy: shadow-table
    table: t
    alter: [ALTER id TYPE bigint]
"""


def test_a_table_that_is_emptied_while_it_is_compared_is_copied_anew(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(
        database,
        "create table t (id int primary key, v text)",
        "create index t_v on t (v)",
        "insert into t select g, 'v' from generate_series(1, 500) as g",
    )
    shops.open("shop", database)
    monkeypatch.setattr(change, "FRESH", 0)
    run = verify.Verifier.run
    emptied = []

    def between(self: verify.Verifier, **more: Any) -> Any:
        if not emptied:
            emptied.append(True)
            run_sql(database, "truncate t", "insert into t select g, 'w' from generate_series(1, 7) as g")
        return run(self, **more)

    monkeypatch.setattr(verify.Verifier, "run", between)
    copied = change.PostgresChange.copied
    indexes = []

    def look(self: change.PostgresChange) -> None:
        indexes.append(rows(database, "select schemaname like 'segue%' from pg_indexes where indexname = 't_v'"))
        copied(self)

    monkeypatch.setattr(change.PostgresChange, "copied", look)
    shops.run(shops.add(PLAN))
    assert emptied
    assert indexes == [[(False,)], [(False,)]]
    assert rows(database, "select count(*) from pg_indexes where indexname = 't_v' and tablename = 't'")[0] == (2,)
    assert rows(database, "select count(*), max(v), pg_typeof(max(id))::text from t") == [(7, "w", "bigint")]
