"""What is said beforehand of an online change: how it is done, what goes along, its locks, time and room."""

from __future__ import annotations

import pytest
from fix_shops import Shops
from fix_targets import run_sql

from segue.model.facts import ChangeFacts
from segue.planning.assessment import AssessedStep
from segue.services import assessments, changes
from segue.services.changes import Asked

TABLES = (
    "CREATE TABLE customers (id int PRIMARY KEY)",
    "CREATE TABLE orders (id int PRIMARY KEY, customer int CONSTRAINT of REFERENCES customers, code text)",
    "CREATE INDEX ON orders (code)",
    "CREATE TABLE items (id int PRIMARY KEY, order_id int CONSTRAINT item_of REFERENCES orders)",
    "CREATE TABLE loose (a int)",
    "INSERT INTO customers SELECT generate_series(1, 100)",
    "INSERT INTO orders SELECT g, 1 + g % 100, 'code ' || g FROM generate_series(1, 20000) g",
    "INSERT INTO items SELECT g, g FROM generate_series(1, 5000) g",
    "ANALYZE",
)


@pytest.fixture
def shop(shops: Shops, database: str) -> Shops:
    """Give an environment with orders, and tables on both ends of their foreign keys."""
    run_sql(database, *TABLES)
    shops.open("shop", database)
    return shops


def foreseen(shop: Shops, url: str, table: str, *alter: str, **fields: str) -> tuple[AssessedStep, ChangeFacts]:
    with shop.store.session() as session:
        plan = changes.planned(session, shop.parts, Asked(table, alter, fields=fields), "shop").plan
    found = assessments.look(shop.parts, plan, "shop", url)
    assert found.assessed, found.unknown
    (step,) = found.steps
    assert step.change is not None
    assert found.as_json()["steps"][0]["change"] == step.change.as_json()
    return step, step.change


def test_a_copy_is_foreseen_with_its_tables_locks_seconds_and_room(shop: Shops, database: str) -> None:
    step, change = foreseen(shop, database, "orders", "ALTER id TYPE bigint")
    assert (change.strategy, change.tables, change.rows) == ("shadow-table", ("orders", "items"), 25_000)
    assert "rewrites 20,000 rows of orders" in "; ".join(change.reasons)
    touched = {one.table: (one.lock.value, one.why) for one in step.touched}
    assert touched == {
        "orders": ("ACCESS EXCLUSIVE", ""),
        "items": ("ACCESS EXCLUSIVE", "its foreign key goes along"),
        "customers": ("ACCESS EXCLUSIVE", "in the swap, for of"),
    }
    assert list(change.seconds) == ["copy", "indexes", "comparison"]
    assert step.seconds is not None
    assert step.seconds >= change.total > 0
    # Held for a moment, however long the copy takes.
    assert step.held is not None
    assert step.held < change.total
    assert change.disk > change.bytes > 25_000 * 8
    assert (step.risk, step.does[:19]) == ("low", "copies 25,000 rows ")


def test_what_the_server_does_online_is_foreseen_by_its_statements(shop: Shops, database: str) -> None:
    step, change = foreseen(shop, database, "orders", "ADD CONSTRAINT one UNIQUE (code)")
    assert (change.strategy, change.seconds) == ("native-online", {})
    assert [one.statement.verb for one in step.facts] == ["CREATE UNIQUE INDEX CONCURRENTLY", "ALTER TABLE"]
    assert "builds an index over 20,000 rows" in step.does
    assert step.rows == 20_000


def test_what_would_be_refused_is_foreseen(shop: Shops, database: str) -> None:
    step, change = foreseen(shop, database, "loose", "ALTER a TYPE bigint")
    assert change.refused == (
        "public.loose has neither a primary key nor a unique index over columns that are NOT NULL",
    )
    assert step.risk == "high"
    _, change = foreseen(shop, database, "orders", "ALTER id TYPE bigint", strategy="native-online")
    assert change.refused[0] == "PostgreSQL has no online form of this change"
