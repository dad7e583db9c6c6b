"""The application's traffic: what it makes of failures."""

from __future__ import annotations

import psycopg
import pytest
from fix_storefront import Shop, work


@pytest.mark.timeout(120)
def test_lost_connections_are_counted_and_nothing_is_guessed(new_shop: Shop) -> None:
    with psycopg.connect(new_shop.url, autocommit=True) as connection:
        tail = work(
            new_shop,
            4.0,
            lambda: (
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'storefront_app' AND datname = current_database() ORDER BY random() LIMIT 2"
                )
                and None
            ),
        )
    assert tail.errors
    assert tail.acknowledged > 50
    verdict = new_shop.judge()
    assert verdict.data_ok, verdict.details
    assert verdict.errors == len(tail.errors)


@pytest.mark.timeout(120)
def test_a_closed_fence_is_retried_and_counted(new_shop: Shop) -> None:
    with psycopg.connect(new_shop.url, autocommit=True) as connection:
        connection.execute(
            """
            CREATE FUNCTION fence() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              RAISE EXCEPTION 'moved' USING ERRCODE = '40001', CONSTRAINT = 'segue_fence';
            END $$;
            CREATE TRIGGER fence BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION fence();
            ALTER TABLE orders DISABLE TRIGGER fence;
            """
        )
        switch = iter(["ENABLE", *[""] * 8, "DISABLE"])

        def meanwhile() -> None:
            word = next(switch, "")
            if word:
                connection.execute(f"ALTER TABLE orders {word} TRIGGER fence".encode())

        tail = work(new_shop, 2.5, meanwhile)
    assert tail.fenced
    assert tail.errors == []
    verdict = new_shop.judge()
    assert verdict.ok, verdict.details
    assert verdict.fenced == tail.fenced
