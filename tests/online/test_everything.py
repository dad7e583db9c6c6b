"""A table with everything goes through a whole change, as people ask for one, and back."""

from __future__ import annotations

import psycopg
from fix_hostile import administrator
from fix_shops import Shops
from fix_swapping import WIDER, everything
from fix_targets import run_sql, value

from segue.engine.events import nobody
from segue.services import changes
from segue.services.beginnings import Options
from segue.services.changes import Asked

TYPE = "select pg_typeof(id)::text from shop.orders limit 1"
#: Everything of the application's in the schema that a view, a policy or a trigger may be lost from.
COUNTS = """
select (select count(*) from pg_policy),
    (select count(*) from pg_trigger where not tgisinternal and tgname !~ '^segue'),
    (select count(*) from pg_views where schemaname = 'shop'), (select count(*) from pg_matviews),
    (select count(*) from pg_constraint where contype = 'f' and convalidated
        and connamespace = 'shop'::regnamespace), (select count(*) from pg_publication_rel),
    (select count(*) from pg_statistic_ext), (select count(*) from pg_rules where schemaname = 'shop')
"""
#: What is the same before and after: of the columns all but the types that are changed, indexes, options, places.
FACTS = """
select c.relname, (select array_agg(o order by o) from unnest(c.reloptions) as o), c.relreplident,
    t.spcname, pg_get_userbyid(c.relowner), pg_get_indexdef(c.oid),
    i.indisclustered, obj_description(c.oid), null, null, null, null
from pg_class as c left join pg_tablespace as t on t.oid = c.reltablespace
left join pg_index as i on i.indexrelid = c.oid
where c.relnamespace = 'shop'::regnamespace and c.relkind in ('r', 'i')
union all
select a.attname, a.attoptions, a.attstorage::"char", a.attcompression::text::name, a.attidentity::text::name,
    case when a.attname not in ('id', 'number', 'parent_id') then format_type(a.atttypid, a.atttypmod) end,
    a.attnotnull,
    col_description(a.attrelid, a.attnum), a.attcollation::regcollation::text, a.attacl::text,
    greatest(a.attstattarget, -1)::text, pg_get_expr(d.adbin, d.adrelid)
from pg_attribute as a left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = 'shop.orders'::regclass and a.attnum > 0 and not a.attisdropped and a.attname <> 'extra'
order by 1, 6
"""


def test_a_table_with_everything_is_changed_and_taken_back(shops: Shops, any_database: str) -> None:
    url = administrator(any_database)
    with psycopg.connect(url, autocommit=True) as connection:
        everything(connection)
        before, facts = connection.execute(COUNTS).fetchone(), connection.execute(FACTS).fetchall()
        shops.open("shop", url)
        asked = Asked("shop.orders", (WIDER,), fields={"strategy": "shadow-table"})
        changes.start(shops.store, shops.settings, shops.parts, asked, "shop", Options(), nobody)
        assert value(url, TYPE) == "bigint"
        assert connection.execute(FACTS).fetchall() == facts
        assert connection.execute("select shop.total(1)").fetchone() is not None
        shops.rollback()
        assert value(url, TYPE) == "integer"
        assert (connection.execute(COUNTS).fetchone(), connection.execute(FACTS).fetchall()) == (before, facts)
    said = shops.noted()
    assert any(line.startswith("swapped back") for line in said)
    assert [line for line in said if "not as before" in line] == []


def test_what_is_not_as_before_is_told_on_the_way_back(shops: Shops, database: str) -> None:
    url = administrator(database)
    run_sql(url, "CREATE TABLE t (id int PRIMARY KEY, v text)", "COMMENT ON COLUMN t.v IS 'as it was'")
    shops.open("shop", url)
    asked = Asked("t", ("ALTER id TYPE bigint",), fields={"strategy": "shadow-table"})
    changes.start(shops.store, shops.settings, shops.parts, asked, "shop", Options(), nobody)
    old = value(url, "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname LIKE 'segue%old'")
    run_sql(url, f"COMMENT ON COLUMN {old}.t.v IS 'touched'")
    shops.rollback()
    assert [line for line in shops.noted() if "not as before" in line] == [
        'not as before: public.t: comment on column "v" is touched instead of as it was'
    ]
