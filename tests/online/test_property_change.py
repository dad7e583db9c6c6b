"""Whatever the table and its change: what eight writers were told is there, after the swap and after the way back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from fix_oracle import KEYS, Oracle, Shape
from fix_servers import fresh_databases
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import Background, rows, value
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some

from segue.embedded import Cluster


@dataclass(frozen=True)
class Column:
    """A column's type, values that it takes, what ALTER TABLE makes of it, and what is the same before and after."""

    type: str
    values: tuple[str | None, ...]
    alter: str
    alike: Callable[[str], Any] = str
    back: str | None = None


COLUMNS = (
    Column("int", ("1", "-2147483648", None), "ALTER v TYPE bigint"),
    Column("numeric", ("1", "1.50", "-0.1", None), "ALTER v TYPE numeric(12, 2)", Decimal),
    Column("text", ("", " a ", "\u00e9", "NULL", None), 'ALTER v TYPE varchar(20) COLLATE "C"'),
    Column("varchar(9)", ("", "a", None), "ALTER v TYPE text"),
    Column("jsonb", ('{"a": 1.0}', "null", "[]", None), "ALTER v TYPE json"),
    Column("real", ("0.1", "-0", "NaN", None), "ALTER v TYPE double precision USING v::text::double precision"),
    Column("timestamp", ("2024-02-29 12:00:00.000001", "infinity", None), "ALTER v TYPE timestamptz", lambda t: t[:26]),
    Column("text[]", ("{}", '{a,NULL,"NULL",""}', "[0:1]={a,b}", None), "ALTER v TYPE varchar(20)[]"),
    Column("char(5)", ("a", "abcde", None), "ALTER v TYPE char(8)", str.rstrip),
    Column("interval", ("1 day", "24:00:00", None), "ALTER v TYPE text"),
    Column("int", ("1", "-5", None), "ALTER v TYPE text USING v::text || ''", back="v::int"),
)
#: What else is altered, by key; of any.
FURTHER = (
    "ADD COLUMN more int NOT NULL DEFAULT 5",
    "ALTER n TYPE bigint",
    "SET (fillfactor = 70)",
    "ADD UNIQUE (code, n)",
)
KEYED = {
    "int": ("ALTER k1 TYPE bigint", "ALTER k1 TYPE numeric"),
    "two": ("ALTER k1 TYPE bigint", 'ALTER k2 TYPE varchar(40) COLLATE "C"'),
    "text": ('ALTER k1 TYPE text COLLATE "C"', "ALTER k1 TYPE varchar(40)"),
    "text C": ('ALTER k1 TYPE text COLLATE pg_catalog."default"',),
    "uuid": ("ALTER k1 TYPE text",),
}


SHAPE = """
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname
"""


@dataclass(frozen=True)
class Case:
    """A table and a change of it."""

    key: str
    column: Column
    alters: tuple[str, ...]
    order: bool
    chunk: int
    workers: int
    seed: int
    strategy: str = "shadow-table"

    def plan(self, name: str) -> str:
        """Return the plan as text."""
        fields: dict[str, Any] = {"table": "t", "alter": list(self.alters), "strategy": self.strategy}
        fields |= {"chunk": {"max": self.chunk, "seconds": 0.05}, "workers": self.workers}
        if self.column.back and self.column.alter in self.alters:
            fields["back"] = {"v": self.column.back}
        if self.order:
            names = ["v", "note", "big", "code", "n", *Shape(key=self.key).keys]
            more = ["more"] if FURTHER[0] in self.alters else []
            fields["columns"] = [*more, *names]
        step = {"name": "change", "kind": "online-change", **fields}
        return json.dumps({"plan": name, "version": "1.0.0", "description": "Any change", "steps": [step]})


@some.composite
def cases(draw: some.DrawFn) -> Case:
    """Draw a table and a change of it."""
    key = draw(some.sampled_from(sorted(KEYS)))
    column = draw(some.sampled_from(COLUMNS))
    further = draw(some.lists(some.sampled_from(FURTHER), unique=True, max_size=2))
    keyed = draw(some.sampled_from(["", *KEYED.get(key, ())]))
    order = draw(some.booleans())
    alters = tuple(part for part in (column.alter, keyed, *further) if part)
    return Case(
        key, column, alters, order, draw(some.integers(3, 60)), draw(some.integers(1, 3)), draw(some.integers(0, 10**6))
    )


def changed(case: Case, url: str, shops: Shops) -> Counter[str]:
    """Have a table changed and changed back between eight writers; return what they did."""
    oracle = Oracle(
        url,
        Shape(key=case.key, type=case.column.type, values=case.column.values, rows=150),
        seed=case.seed,
        pause=0.03,
        alike={"v": case.column.alike},
    )
    oracle.fill()
    before = rows(url, SHAPE)
    name = shops.open(f"shop-{rows(url, 'SELECT current_database()')[0][0][-12:]}", url)
    plan = shops.add(case.plan(name))
    with oracle.writing():
        outcome = shops.run(plan, name)
    assert oracle.judge().right, (oracle.judge(), oracle.done)
    assert rows(url, SHAPE) != before
    with oracle.writing():
        shops.rollback(outcome.execution)
    assert oracle.judge().right, (oracle.judge(), oracle.done)
    assert rows(url, SHAPE) == before
    assert value(url, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'segue\\_%'") == 0
    return oracle.done


QUIET = {
    "deadline": None,
    "database": None,
    # A case that failed is told as it is: making it smaller would take as long as finding it.
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}


@given(case=cases())
@settings(max_examples=2, derandomize=True, **QUIET)
def test_a_change_keeps_what_eight_writers_were_told(case: Case, debian_server: Cluster, shops: Shops) -> None:
    for make in fresh_databases(debian_server):
        changed(case, make(), shops)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@given(case=cases(), strategy=some.sampled_from(["shadow-table", "ghost"]))
@settings(max_examples=40, print_blob=True, **QUIET)
def test_any_change_keeps_what_eight_writers_were_told(
    case: Case, strategy: str, logical_server: Server, shops: Shops
) -> None:
    changed(replace(case, strategy=strategy), logical_server.database(), shops)


INTS = next(column for column in COLUMNS if column.type == "int")


def test_a_change_keeps_what_writers_with_prepared_transactions_were_told(logical_server: Server, shops: Shops) -> None:
    case = Case("int", INTS, ("ALTER k1 TYPE bigint", INTS.alter), order=False, chunk=20, workers=2, seed=1)
    done = changed(case, logical_server.database(), shops)
    assert done["prepared"] > 0


@pytest.mark.parametrize("round_", range(2))
def test_a_change_keeps_what_was_told_after_the_table_was_emptied(round_: int, database: str, shops: Shops) -> None:
    case = Case("int", INTS, (INTS.alter,), order=False, chunk=5, workers=1, seed=round_)
    oracle = Oracle(database, Shape(type="int", values=INTS.values, rows=400), seed=round_, pause=0.03)
    oracle.fill()
    shops.open("shop", database)
    plan = shops.add(case.plan("shop"))
    with oracle.writing():
        running = Background(lambda: shops.run(plan, "shop"))
        while running.is_alive():
            time.sleep(0.1 + 0.2 * round_)
            oracle.truncate()
        running.result()
    assert oracle.judge().right, (oracle.judge(), oracle.done)
