"""A table with everything goes through a whole change, as people ask for one, and back."""

from __future__ import annotations

import psycopg
from fix_hostile import administrator
from fix_shops import Shops
from fix_swapping import EVERYTHING, WIDER
from fix_targets import value

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


def test_a_table_with_everything_is_changed_and_taken_back(shops: Shops, any_database: str) -> None:
    url = administrator(any_database)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(EVERYTHING.read_bytes())
        before = connection.execute(COUNTS).fetchone()
        shops.open("shop", url)
        asked = Asked("shop.orders", (WIDER,), fields={"strategy": "shadow-table"})
        said: list[object] = []
        changes.start(shops.store, shops.settings, shops.parts, asked, "shop", Options(), said.append)
        assert value(url, TYPE) == "bigint"
        assert connection.execute("select shop.total(1)").fetchone() is not None
        shops.rollback()
        assert value(url, TYPE) == "integer"
        assert connection.execute(COUNTS).fetchone() == before
    assert said
    assert "not as before" not in str(said)
