"""Statements that the planner would run worse on the new table are named beforehand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fix_swapping import Hanging, hangings

from segue.databases.postgresql.online import planners

Hang = Callable[..., Hanging]

TABLE = """
create schema shop;
create table shop.orders (id int primary key, code text not null, day int);
create index orders_code on shop.orders (code);
insert into shop.orders select g, 'code ' || g, g % 7 from generate_series(1, 20000) as g;
analyze shop.orders;
"""
# As an administrator would show them; the embedded server has no such extension.
SEEN = """
create schema seen;
create view seen.pg_stat_statements as
select d.oid as dbid, q.query, q.time as total_exec_time from pg_database as d, (values
    ('select id from shop.orders where code = ''code 7''', 9.0),
    ('select count(*) from shop.orders as o where code like ''x%''', 8.0),
    ('update shop.orders set day = 1 where id = 7', 7.0),
    ('select relname from pg_class', 6.0),
    ('select id from orders where code = $1', 5.0),
    ('select from nowhere where cut of', 4.0)
) as q (query, time) where d.datname = current_database();
"""


def drawn(hanging: Hang, alter: str, seen: str = "") -> tuple[Hanging, Any]:
    change = hanging(TABLE + seen, {"shop.orders": alter})
    change.make()
    change.run("analyze segue_everyth1_new.orders", "set search_path = shop")
    major = change.connection.info.server_version // 10000
    site: Any = SimpleNamespace(look=change.connection, major=major)
    return change, site


def test_a_lost_index_is_told_by_the_statements_that_need_it(hanging_here: Hang) -> None:
    change, site = drawn(hanging_here, 'alter code type varchar(20) collate "C"', SEEN)
    assert planners.slower(site, change.change) == []
    change.run("drop index segue_everyth1_new.orders_code")
    found = planners.slower(site, change.change)
    assert len(found) == 3
    assert found[0].startswith("select id from shop.orders where code = 'code 7': Seq Scan instead of Index Scan")


def test_statements_that_the_server_has_seen_are_planned_whatever_their_constants(debian_database: str) -> None:
    for change in hangings(debian_database):
        found, site = drawn(change, "alter id type bigint", "create extension pg_stat_statements schema shop;")
        used = ("select id from orders where code = 'code 7' limit 3", "update orders set day = 1 where code = 'x'")
        found.run(*used, "delete from orders where day = 12 and id < 5", "select count(*) from orders")
        assert planners.slower(site, found.change) == []
        found.run("drop index segue_everyth1_new.orders_code", "update orders set day = 2 where code = 'y'")
        told = sorted(planners.slower(site, found.change))
        assert [line.split(": ")[0] for line in told] == [
            "select id from orders where code = $1 limit $2",
            "update orders set day = $1 where code = $2",
        ]
        # Nothing of it stays prepared.
        assert found.rows("select name from pg_prepared_statements") == []


def test_nothing_is_told_where_no_statements_are_known(hanging: Hang) -> None:
    change, site = drawn(hanging, "alter id type bigint")
    change.run("drop index segue_everyth1_new.orders_code")
    assert planners.slower(site, change.change) == []
