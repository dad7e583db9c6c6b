"""The storefront is a monolith with everything in it that makes migrations hard."""

from __future__ import annotations

from importlib.resources import files

import psycopg
import pytest
from fix_storefront import PASSWORD, Shop

from segue import wiring
from segue.demo import storefront
from segue.planning import planfile

KINDS = """
SELECT
  (SELECT count(*) FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace) AS views,
  (SELECT count(*) FROM pg_class WHERE relkind = 'm' AND relnamespace = 'public'::regnamespace) AS materialised,
  (SELECT count(DISTINCT partstrat) FROM pg_partitioned_table) AS partitioning,
  (SELECT count(DISTINCT confdeltype) FROM pg_constraint
    WHERE contype = 'f' AND confdeltype IN ('a', 'c', 'n')) AS deletions,
  (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal) AS triggers,
  (SELECT count(*) FROM pg_type WHERE typtype = 'e') AS enums,
  (SELECT count(*) FROM pg_type WHERE typtype = 'd' AND typnamespace = 'public'::regnamespace) AS domains,
  (SELECT count(*) FROM pg_policy) AS policies,
  (SELECT count(*) FROM pg_attribute WHERE attgenerated = 's') AS generated,
  (SELECT count(*) FROM pg_attribute WHERE attidentity <> '') AS identities,
  (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND a.atttypid = 'jsonb'::regtype) AS jsonb,
  (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND a.atttypid = 'text[]'::regtype) AS arrays
"""


def fingerprint(url: str) -> list[tuple[object, ...]]:
    with storefront.connect(url) as connection:
        return [
            (table, *row)
            for table in storefront.tables(connection)
            for row in connection.execute(f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t".encode())
            if table != "audit_log"
        ]


def check_kinds(url: str) -> None:
    with psycopg.connect(url) as connection:
        assert len(storefront.tables(connection)) >= 52
        cursor = connection.execute(KINDS)
        assert cursor.description is not None
        counts = dict(zip([column.name for column in cursor.description], cursor.fetchone() or (), strict=True))
    assert counts["partitioning"] == 3
    assert counts["deletions"] == 3
    assert all(counts.values()), counts


def test_storefront_has_everything(new_shop: Shop) -> None:
    check_kinds(new_shop.url)


def test_storefront_has_everything_on_debian(debian_database: str) -> None:
    storefront.create(debian_database, PASSWORD)
    storefront.load(debian_database, 0.001)
    check_kinds(debian_database)


def test_same_seed_gives_the_same_rows(new_shop: Shop, new_database) -> None:
    again, other = new_database(), new_database()
    for url, seed in ((again, 1), (other, 2)):
        storefront.create(url, PASSWORD)
        storefront.load(url, 0.001, seed)
    assert fingerprint(again) == fingerprint(new_shop.url)
    assert fingerprint(other) != fingerprint(new_shop.url)


def test_all_foreign_keys_hold(new_shop: Shop) -> None:
    with psycopg.connect(new_shop.url) as connection:
        rows = connection.execute(
            "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'public'::regnamespace"
        ).fetchall()
        assert len(rows) > 50
        for table, name, definition in rows:
            # Made anew, it looks at every row.
            connection.execute(
                f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {definition}".encode()
            )


def test_application_sees_only_its_customers_wishes(new_shop: Shop) -> None:
    with psycopg.connect(new_shop.url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO wishlist_items (reference, customer_id, product_id, added_at)"
            " VALUES ('a', 1, 1, now()), ('b', 2, 1, now())"
        )
    with psycopg.connect(new_shop.application_url()) as application:
        application.execute("SELECT set_config('storefront.customer_id', '1', true)")
        assert application.execute("SELECT customer_id FROM wishlist_items").fetchall() == [(1,)]


@pytest.mark.parametrize(("name", "least"), [("storefront", 12), ("tour", 4)])
def test_plans_are_valid_and_can_be_taken_back(name: str, least: int) -> None:
    parts = wiring.parts()
    text = (files("segue.demo") / "plans" / f"{name}.yaml").read_text()
    plan = planfile.read(text, source=name, kinds=parts.steps)
    assert len(plan.steps) >= least
    for step in plan.steps:
        assert parts.steps[step.kind].irreversible(step) is None
