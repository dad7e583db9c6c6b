"""Statements that the planner would run worse on the new table are named beforehand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fix_swapping import Hanging

from segue.databases.postgresql.online import planners

Hang = Callable[..., Hanging]

TABLE = """
create schema shop;
create table shop.orders (id int primary key, code text not null, day int);
create index orders_code on shop.orders (code);
insert into shop.orders select g, 'code ' || g, g % 7 from generate_series(1, 20000) as g;
analyze shop.orders;
"""
# As an administrator would show them; the extension's library is not loaded by the tests' servers.
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


def test_a_lost_index_is_told_by_the_statements_that_need_it(hanging: Hang) -> None:
    change, site = drawn(hanging, 'alter code type varchar(20) collate "C"', SEEN)
    assert planners.slower(site, change.change) == []
    change.run("drop index segue_everyth1_new.orders_code")
    found = planners.slower(site, change.change)
    assert len(found) == (2 if site.major >= 16 else 1)
    assert found[0].startswith("select id from shop.orders where code = 'code 7': Seq Scan instead of Index Scan")


def test_nothing_is_told_where_no_statements_are_known(hanging: Hang) -> None:
    change, site = drawn(hanging, "alter id type bigint")
    change.run("drop index segue_everyth1_new.orders_code")
    assert planners.slower(site, change.change) == []
