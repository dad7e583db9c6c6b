"""No row takes the place of another: keys stay apart on both sides, or a change is refused."""

from __future__ import annotations

import pytest
from fix_shops import Shops
from fix_targets import rows, run_sql, value

from segue.databases.postgresql.online.faithful import is_faithful
from segue.errors import StepFailed, WouldLose

PLAN = """
plan: reshape
version: 1.0.0
description: Give a table another shape
steps:
  - {name: reshape, kind: online-change, strategy: shadow-table, table: t, alter: ["ALTER k TYPE %s"]}
"""


def fill(url: str, kind: str, value_: str) -> None:
    run_sql(
        url,
        f"create table t (k {kind} primary key, v int)",
        f"insert into t select {value_}, g from generate_series(1, 50) as g",
    )


@pytest.mark.parametrize(
    ("kind", "value_", "to", "large"),
    [("int", "g", "bigint", "3000000000"), ("varchar(3)", "'k' || g", "text", "'k1234'")],
)
def test_a_key_that_the_old_table_cannot_hold_is_told_before_the_way_back(
    any_database: str, shops: Shops, kind: str, value_: str, to: str, large: str
) -> None:
    fill(any_database, kind, value_)
    shops.open("shop", any_database)
    shops.run(shops.add(PLAN % to))
    run_sql(any_database, f"insert into t values ({large}, -1)", f"update t set v = -2 where k = {large}")
    with pytest.raises(WouldLose) as raised:
        shops.rollback()
    assert large.strip("'") in str(raised.value.details)
    run_sql(any_database, f"delete from t where k = {large}", "update t set v = 0 where v = 7")
    before = rows(any_database, "select k::text, v from t order by v, k")
    shops.rollback()
    assert rows(any_database, "select k::text, v from t order by v, k") == before
    assert value(any_database, "select count(*) from t") == 50


@pytest.mark.parametrize(
    ("kind", "value_", "to"),
    [
        ("text", "g::text", "int USING k::int"),
        ("timestamptz", "timestamptz '2026-01-01 00:00:00.2+00' + g * interval '1 minute'", "timestamptz(0)"),
        ("numeric(10, 2)", "g / 4.0", "numeric(10, 1)"),
        ("text", "'k' || g", "text COLLATE alike"),
        # There and not back.
        ("int", "g", "numeric"),
        ("date", "date '2026-01-01' + g", "timestamptz"),
        ("int", "g", "text"),
    ],
)
def test_a_key_whose_values_could_become_the_same_is_refused(
    debian_database: str, shops: Shops, kind: str, value_: str, to: str
) -> None:
    run_sql(
        debian_database, "create collation alike (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    fill(debian_database, kind, value_)
    shops.open("shop", debian_database)
    with pytest.raises(StepFailed, match="no key of t survives the change"):
        shops.run(shops.add(PLAN % to))
    assert value(debian_database, "select count(*) from pg_namespace where nspname like 'segue\\_%'") == 0


NUMERIC_10_2, NUMERIC_12_2 = (10 << 16 | 2) + 4, (12 << 16 | 2) + 4


@pytest.mark.parametrize(
    ("came", "goes", "faithful"),
    [
        (("int8", -1), ("int4", -1), True),
        (("text", -1), ("varchar", 9), True),
        (("numeric", NUMERIC_10_2), ("numeric", NUMERIC_12_2), True),
        (("numeric", NUMERIC_10_2), ("numeric", -1), True),
        (("numeric", -1), ("numeric", NUMERIC_10_2), False),
        (("timestamp", -1), ("timestamptz", 3), False),
        (("timestamp", 3), ("timestamptz", -1), True),
        (("int4", -1), ("numeric", NUMERIC_10_2), True),
        (("float8", -1), ("float4", -1), False),
        (("uuid", -1), ("text", -1), True),
        (("text", -1), ("uuid", -1), False),
        (("citext", -1), ("citext", -1), True),
        (("text", -1), ("citext", -1), False),
    ],
)
def test_what_is_rounded_or_cut_does_not_keep_keys_apart(
    came: tuple[str, int], goes: tuple[str, int], faithful: bool
) -> None:
    assert is_faithful(came, goes) is faithful
