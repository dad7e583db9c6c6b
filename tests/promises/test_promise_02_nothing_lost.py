"""Promise 2, nothing lost: every acknowledged write is in the result, once, there and back again."""

from __future__ import annotations

import pytest
from fix_oracle import Oracle, Shape
from fix_process import Segue
from fix_shops import Shops
from fix_targets import until, value

from segue.services import changes

CHANGE = ("change", "start", "t", "ALTER n TYPE bigint", "--env", "shop", "--strategy", "shadow-table", "--json")


def phase(shops: Shops) -> str | None:
    with shops.store.session() as session:
        found = changes.listed(session)
        return str(found[0]["phase"]) if found else None


@pytest.mark.parametrize("key", ["int", "two"])
def test_eight_writers_find_what_was_acknowledged_to_them_after_a_kill_a_swap_and_the_way_back(
    segue: Segue, shops: Shops, database: str, key: str
) -> None:
    oracle = Oracle(database, Shape(key=key, rows=1000), seed=2)
    oracle.fill()
    shops.open("shop", database)
    with oracle.writing():
        process = segue.start(*CHANGE)
        until(lambda: phase(shops) not in (None, "pending", "creating-shadow") or process.poll() is not None)
        process.kill()
        process.wait()
        segue(*CHANGE).expect(0)
    assert value(database, "SELECT pg_typeof(max(n))::text FROM t") == "bigint"
    verdict = oracle.judge()
    assert verdict.right, verdict
    with oracle.writing():
        segue("rollback", "--yes").expect(0)
    assert value(database, "SELECT pg_typeof(max(n))::text FROM t") == "integer"
    verdict = oracle.judge()
    assert verdict.right, verdict
