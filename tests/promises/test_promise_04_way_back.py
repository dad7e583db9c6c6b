"""Promise 4, a way back: a row that the old shape cannot hold fails nobody, and is named before it goes."""

from __future__ import annotations

import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import rows, run_sql, value

CHANGE = ("change", "start", "t", "ALTER v TYPE bigint", "--env", "shop", "--strategy", "shadow-table")
IRREVERSIBLE = """
plan: gone
version: 1.0.0
description: Something that nobody can take back
steps:
  - {name: gone, kind: sql, sql: DROP TABLE t}
"""


@pytest.fixture
def shop(shops: Shops, database: str) -> Shops:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
    shops.open("shop", database)
    return shops


def test_a_rollback_that_would_lose_rows_names_them_and_exits_with_5(segue: Segue, shop: Shops, database: str) -> None:
    segue(*CHANGE).expect(0)
    run_sql(
        database,
        "INSERT INTO t VALUES (4, 3000000000)",
        "UPDATE t SET v = 20 WHERE id = 2",
        "DELETE FROM t WHERE id = 1",
    )
    refused = segue("rollback", "--yes").expect(5).stderr
    assert "would lose 1 row" in refused
    assert "id = 4" in refused
    assert value(database, "SELECT pg_typeof(max(v))::text FROM t") == "bigint"
    run_sql(database, "UPDATE t SET v = 4 WHERE id = 4")
    segue("rollback", "--yes").expect(0)
    assert rows(database, "SELECT id, v, pg_typeof(v)::text FROM t ORDER BY id") == [
        (2, 20, "integer"),
        (3, 3, "integer"),
        (4, 4, "integer"),
    ]


def test_a_step_without_a_way_back_is_refused_before_anything_is_done(segue: Segue, shop: Shops, database: str) -> None:
    (segue.folder / "plan.yaml").write_text(IRREVERSIBLE)
    segue("run", "plan.yaml", "--env", "shop").expect(2)
    assert value(database, "SELECT count(*) FROM t") == 3
