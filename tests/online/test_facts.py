"""A statement that the server wrote is turned to other tables, and stays the same letter for letter otherwise."""

from __future__ import annotations

import pytest

from segue.databases.postgresql.online.facts import retarget, retarget_expression

NAMES = {'"shop"."orders"': '"s_new"."orders"', '"My ""S"""."Or ders"': '"s_new"."Or ders"'}
CASES = {
    "SELECT orders.id FROM (shop.orders JOIN shop.lines ON (true))": (
        'SELECT orders.id FROM ("s_new"."orders" JOIN shop.lines ON (true))'
    ),
    'SELECT x.* FROM "My ""S"""."Or ders"   x': 'SELECT x.* FROM "s_new"."Or ders"   x',
    "SELECT shop.orders FROM shop.other shop": "SELECT shop.orders FROM shop.other shop",
    "SELECT shop.orders(1), 'shop.orders' FROM orders": "SELECT shop.orders(1), 'shop.orders' FROM orders",
    "SELECT 'é', nextval('shop.orders'::regclass), $$shop.orders$$": (
        "SELECT 'é', nextval('\"s_new\".\"orders\"'::regclass), $$shop.orders$$"
    ),
    "SELECT NULL::shop.orders, '{}'::shop.orders[] FROM ONLY shop . orders": (
        'SELECT NULL::"s_new"."orders", \'{}\'::"s_new"."orders"[] FROM ONLY "s_new"."orders"'
    ),
    "CREATE TRIGGER t AFTER INSERT ON shop.orders EXECUTE FUNCTION shop.orders('shop.orders')": (
        'CREATE TRIGGER t AFTER INSERT ON "s_new"."orders" EXECUTE FUNCTION shop.orders(\'shop.orders\')'
    ),
}


@pytest.mark.parametrize("text", CASES)
def test_relations_row_types_and_regclass_constants_are_turned_and_nothing_else(text: str) -> None:
    assert retarget(text, NAMES) == CASES[text]


def test_an_expression_is_turned_without_what_is_put_around_it() -> None:
    found = retarget_expression("(id IN ( SELECT o.id\n   FROM shop.orders o))", NAMES)
    assert found == '(id IN ( SELECT o.id\n   FROM "s_new"."orders" o))'
