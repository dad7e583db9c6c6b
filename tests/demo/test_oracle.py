"""The oracle sees what a migration could do to the data."""

from __future__ import annotations

import psycopg
import pytest
from fix_storefront import Shop

from segue.demo import oracle


def damage(shop: Shop, statement: str) -> oracle.Verdict:
    """Change the data behind everybody's back, with no constraint or trigger in the way."""
    with psycopg.connect(shop.url) as connection:
        connection.execute("SET session_replication_role = replica")
        assert connection.execute(statement.encode()).rowcount != 0
    return shop.judge()


def test_traffic_alone_loses_nothing(shop: Shop) -> None:
    verdict = shop.judge()
    assert verdict.ok, verdict.details
    assert verdict.acknowledged > 100


@pytest.mark.parametrize("whose", ["1", "(SELECT max(id) FROM orders)"])
def test_a_lost_row_is_found(shop: Shop, whose: str) -> None:
    verdict = damage(shop, f"DELETE FROM orders WHERE id = {whose}")
    assert verdict.lost == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE customers SET last_name = 'Nobody' WHERE id = 7",
        "UPDATE orders SET status = 'cancelled' WHERE id = (SELECT max(id) FROM orders)",
        "UPDATE orders SET notes = 'gone' WHERE id = 11",
        "UPDATE order_items SET quantity = quantity + 1, unit_cents = 0 WHERE id = (SELECT max(id) FROM order_items)",
        "UPDATE inventory SET on_hand = on_hand - 1 WHERE id = 3",
        "UPDATE products SET keywords = '{}' WHERE id = 3",
        "UPDATE web_sessions SET agent = NULL WHERE id = 3",
        "UPDATE customer_preferences SET settings = '{}' WHERE customer_id = 990",
    ],
)
def test_a_changed_value_is_found(shop: Shop, statement: str) -> None:
    verdict = damage(shop, statement)
    assert verdict.wrong
    assert not verdict.lost


def test_a_duplicated_row_is_found(shop: Shop) -> None:
    verdict = damage(
        shop,
        "INSERT INTO payments (reference, order_id, method, status, amount_cents, paid_at)"
        " SELECT reference, order_id, method, 'failed', amount_cents, paid_at FROM payments WHERE id = 1",
    )
    assert (verdict.lost, verdict.duplicated, verdict.wrong) == (0, 1, 0)


def test_a_row_that_nobody_wrote_is_found(shop: Shop) -> None:
    verdict = damage(shop, "INSERT INTO settings VALUES ('surprise', '1')")
    assert verdict.wrong == 1


def test_a_deleted_row_that_came_back_is_found(shop: Shop) -> None:
    verdict = damage(
        shop,
        "INSERT INTO cart_items (id, reference, cart_id, variant_id, quantity)"
        " SELECT n, 'again', 1, 1, 1 FROM generate_series(1, (SELECT max(id) FROM cart_items)) n"
        " WHERE NOT EXISTS (SELECT 1 FROM cart_items c WHERE c.id = n) LIMIT 1",
    )
    assert verdict.wrong == 1


def test_an_unbalanced_ledger_is_found(shop: Shop) -> None:
    verdict = damage(shop, "UPDATE accounting_entries SET amount_cents = amount_cents + 1 WHERE id = 2")
    assert "all entries do not sum to zero" in " ".join(verdict.details)
    assert "a booking does not sum to zero" in " ".join(verdict.details)


def test_a_trigger_that_did_not_fire_is_found(shop: Shop) -> None:
    verdict = damage(shop, "DELETE FROM order_status_history WHERE id = (SELECT max(id) FROM order_status_history)")
    assert verdict.wrong or verdict.lost


def test_renamed_columns_are_followed(shop: Shop) -> None:
    with psycopg.connect(shop.url) as connection:
        connection.execute("ALTER TABLE customers RENAME COLUMN fax TO fax_retired")
    renamed = {"customers": {"fax": "fax_retired"}}
    assert oracle.judge(shop.url, shop.folder / "before", shop.folder / "journal", renamed=renamed).ok


def test_percentiles_are_of_their_span_only() -> None:
    latencies = [(float(moment), float(moment)) for moment in range(1, 101)]
    assert oracle.percentiles(latencies) == {"p50": 51.0, "p95": 96.0, "p99": 100.0}
    assert oracle.percentiles(latencies, 10, 12) == {"p50": 11.0, "p95": 11.0, "p99": 11.0}
    assert oracle.percentiles([]) == {"p50": 0.0, "p95": 0.0, "p99": 0.0}
