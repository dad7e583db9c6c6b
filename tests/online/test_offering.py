"""What is offered for rows that do not fit: for each row of each table its own, and nothing that cannot work."""

from __future__ import annotations

from fix_process import Segue
from fix_shops import Shops
from fix_targets import run_sql, until

TABLES = (
    "CREATE TABLE tags (id int PRIMARY KEY)",
    "CREATE DOMAIN must AS text NOT NULL",
    "CREATE TABLE orders (id int PRIMARY KEY, code must, note text CHECK (note IS NOT NULL))",
    "CREATE TABLE items (id int PRIMARY KEY, code text, note varchar(9))",
    "INSERT INTO orders VALUES (1, 'a', 'a'), (2, 'a', 'b'), (3, 'c', 'too long')",
    "INSERT INTO items VALUES (1, 'a', 'a'), (2, 'a', 'b'), (3, 'c', 'too long')",
)
PLAN = """
plan: stricter
version: 1.0.0
description: Two changes one after the other, the second of two tables whose keys are the same
steps:
  - {name: tags, kind: online-change, table: tags, alter: [ALTER id TYPE bigint]}
  - name: rules
    kind: online-change
    needs: [tags]
    tables:
      - {table: orders, alter: ["ADD CONSTRAINT order_code UNIQUE (code), ALTER note TYPE varchar(3)"]}
      - {table: items, alter: ["ADD CONSTRAINT item_code UNIQUE (code), ALTER note TYPE varchar(3)"]}
"""


def test_each_row_of_each_table_is_offered_what_can_work(segue: Segue, shops: Shops, database: str) -> None:
    run_sql(database, *TABLES)
    shops.open("shop", database)
    plan = segue.folder / "plan.yaml"
    plan.write_text(PLAN)
    run = segue.start("run", plan, "--env", "shop")
    until(lambda: segue("change", "conflicts", "--json").json.get("count") == 4 or run.poll() is not None, 60)
    found = segue("change", "conflicts", "orders", "--json").expect(1).json["conflicts"]
    offered = {(one["table"], one["key"]["id"]): one["repairs"] for one in found}

    def of(table: str, key: int, *values: str) -> list[str]:
        at = f'"public"."{table}"'
        where = f"where \"id\" = '{key}'::integer"
        return [*(f"update {at} set {value} {where}" for value in values), f"delete from {at} {where}"]

    assert offered == {
        # Its domain takes no NULL, and its type is not one of which another value could be made.
        ("public.orders", "2"): of("orders", 2),
        ("public.orders", "3"): of("orders", 3, '"note" = left("note", 3)'),
        ("public.items", "2"): of("items", 2, '"code" = "code" || \'-\' || "id"', '"code" = NULL'),
        ("public.items", "3"): of("items", 3, '"note" = left("note", 3)', '"note" = NULL'),
    }
    run_sql(database, *(repairs[0] for repairs in offered.values()))
    run.communicate(timeout=60)
    assert run.returncode == 0
