"""A split of one database into several: what it cuts, the moves that it becomes, and what is probed afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from fix_process import Segue
from fix_standbys import Server
from fix_targets import run_sql, value

from segue.databases.postgresql.splitting.invariants import probe
from segue.databases.postgresql.splitting.survey import survey
from segue.model.splits import CrossingKey
from segue.planning import splitfile

SHOP = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text);
CREATE TABLE countries (code text PRIMARY KEY);
CREATE TABLE products (id int PRIMARY KEY, name text, country text REFERENCES countries);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers,
    country text REFERENCES countries);
CREATE TABLE items (order_id bigint NOT NULL REFERENCES orders, line int NOT NULL,
    product_id bigint CONSTRAINT items_product REFERENCES products ON DELETE CASCADE, PRIMARY KEY (order_id, line));
CREATE VIEW sold AS SELECT p.name, i.order_id FROM items i JOIN products p ON p.id = i.product_id;
CREATE VIEW top AS SELECT name FROM sold;
CREATE VIEW mine AS SELECT o.id FROM orders o JOIN items i ON i.order_id = o.id;
CREATE FUNCTION stock() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE products SET name = name; RETURN NULL; END';
CREATE TRIGGER stock AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION stock();
"""
ROWS = """
INSERT INTO countries VALUES ('CH');
INSERT INTO customers SELECT g, 'c' || g FROM generate_series(1, 50) g;
INSERT INTO products SELECT g, 'p' || g, 'CH' FROM generate_series(1, 20) g;
INSERT INTO orders SELECT g, 1 + g % 50, 'CH' FROM generate_series(1, 200) g;
INSERT INTO items SELECT g, l, 1 + (g + l) % 20 FROM generate_series(1, 200) g, generate_series(1, 2) l;
"""
FILE = """\
split: shop
from: monolith
domains:
  customer:
    to: customers
    tables: [customers, orders, items]
  catalogue:
    to: catalogue
    tables: [products]
shared: [countries]
"""


@pytest.fixture
def split(moving_server: Server, segue: Segue) -> tuple[str, str, str]:
    """Give the URLs of the environments "monolith", "customers" and "catalogue", and a split file beside them."""
    urls = tuple(moving_server.database() for _ in range(3))
    for name, url in zip(("monolith", "customers", "catalogue"), urls, strict=True):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": url}).expect(0)
    run_sql(urls[0], SHOP, ROWS)
    Path(segue.folder, "split.yaml").write_text(FILE)
    return urls


def test_a_survey_finds_what_is_cut_and_nothing_else(segue: Segue, split: tuple[str, str, str]) -> None:
    found = segue("move", "survey", "split.yaml", "--json").expect(0).json
    crossing = {key["name"]: (key["to_domain"], key["actions"], key["to_shared"]) for key in found["crossing"]}
    assert crossing == {
        "items_product": ("catalogue", ["ON DELETE CASCADE"], False),
        "orders_country_fkey": ("shared", [], True),
        "products_country_fkey": ("shared", [], True),
    }
    spanning = {(one["kind"], one["what"], one["certain"]) for one in found["spanning"]}
    assert spanning == {("view", "sold", True), ("view", "top", True), ("trigger", "stock()", False)}
    assert found["tables"]["public.items"] == "customer"
    shown = segue("move", "survey", "split.yaml").expect(0)
    assert "ON DELETE CASCADE has to be told by an event" in shown.stdout
    assert "pg_stat_statements is not there" in shown.stderr


def test_statements_that_join_domains_are_found_among_those_counted(debian_database: str) -> None:
    url = debian_database
    run_sql(url, SHOP, "CREATE EXTENSION pg_stat_statements")
    run_sql(url, "SELECT name FROM products, items WHERE product_id = id AND order_id = 7", "SELECT * FROM items")
    found = [one for one in survey(url, splitfile.read(FILE, source="split.yaml")).spanning if one.kind == "statement"]
    assert [(one.calls, dict(one.tables)) for one in found] == [
        (1, {"customer": ("public.items",), "catalogue": ("public.products",)})
    ]
    assert "order_id = $1" in found[0].what


def test_every_table_has_exactly_one_home(segue: Segue, split: tuple[str, str, str]) -> None:
    run_sql(split[0], "CREATE TABLE forgotten (id int PRIMARY KEY)")
    path = Path(segue.folder, "split.yaml")
    path.write_text(FILE.replace("[products]", "[products, public.orders, nothing]"))
    found = segue("move", "survey", "split.yaml", "--json").expect(1).json
    assert found["homeless"] == ["public.forgotten"]
    assert [line.split()[0] for line in found["problems"]] == ["public.orders", "nothing"]
    assert "forgotten is in no domain" in segue("move", "split", "split.yaml").expect(2).stderr
    segue("move", "status", "customer").expect(2)


def test_a_split_file_is_told_what_is_wrong_where(segue: Segue) -> None:
    wrong = FILE.replace("customer:", "Customer-1:").replace("[products]", "[products, orders]") + "sharde: [x]\n"
    told = segue("move", "survey", "-", text=wrong).expect(2).stderr
    assert '<stdin>:4:3: "Customer-1" cannot name a domain' in told
    assert '<stdin>:9:24: "orders" has a home already, in line 6' in told
    assert '<stdin>:11:1: unknown key "sharde"' in told
    segue("move", "survey", "missing.yaml").expect(2)
    segue("move", "survey", "-", text="").expect(2)


def test_a_key_that_was_cut_is_probed_between_the_databases(segue: Segue, split: tuple[str, str, str]) -> None:
    monolith, _, catalogue = split
    assert segue("move", "split", "split.yaml", "--json").expect(0).json["moves"] == ["customer", "catalogue"]
    segue("move", "split", "split.yaml").expect(3)
    assert segue("move", "probe", "split.yaml", "--json").expect(0).json["details"][0]["seen"] is None
    run_sql(catalogue, "CREATE TABLE products (id int PRIMARY KEY, name text, country text)")
    segue("move", "start", "catalogue").expect(0)
    assert "drop constraint items_product" in segue("move", "switch", "catalogue").expect(3).stderr
    run_sql(monolith, "DROP TRIGGER stock ON items", "ALTER TABLE items DROP CONSTRAINT items_product")
    segue("move", "switch", "catalogue", "--budget", "20s").expect(0)
    seen = segue("move", "probe", "split.yaml", "--json").expect(0).json["details"][0]["seen"]
    assert (seen["holds"], seen["values"]) == (True, 20)
    run_sql(monolith, "INSERT INTO items VALUES (1, 3, 4711), (1, 4, NULL)")
    broken = segue("move", "probe", "split.yaml", "--json").expect(1).json
    assert broken["invariants"] == {"items_product": False}
    assert broken["details"][0]["seen"]["examples"] == ["4711"]
    segue("move", "reverse", "catalogue", "--budget", "20s").expect(0)
    # Both tables are in the monolith again, whose server was told to forget the key.
    segue("move", "probe", "split.yaml").expect(0)
    segue("move", "cancel", "catalogue", "--yes").expect(0)


def test_a_row_that_arrives_late_breaks_no_invariant(new_database: Callable[[], str]) -> None:
    child, parent = new_database(), new_database()
    run_sql(child, "CREATE TABLE items (product_id int)", "INSERT INTO items SELECT generate_series(1, 1000)")
    run_sql(
        parent, "CREATE TABLE products (id bigint PRIMARY KEY)", "INSERT INTO products SELECT generate_series(1, 998)"
    )
    key = CrossingKey("k", "items", ("product_id",), "a", "products", ("id",), "b")

    def later() -> None:
        run_sql(parent, "INSERT INTO products VALUES (999)")
        run_sql(child, "DELETE FROM items WHERE product_id = 1000")

    with patch("segue.clock.sleep", lambda _: later()):
        seen = probe(child, parent, key)
    assert (seen.holds, seen.values, seen.broken) == (True, 1000, 0)


def test_the_plan_of_a_split_carries_it_out_and_takes_it_back(segue: Segue, split: tuple[str, str, str]) -> None:
    customers, countries, products, orders, items, *_ = SHOP.split(";\n")
    run_sql(
        split[1],
        customers,
        countries,
        orders,
        items.replace(" CONSTRAINT items_product REFERENCES products ON DELETE CASCADE", ""),
    )
    run_sql(split[2], countries, products)
    run_sql(split[0], "DROP TRIGGER stock ON items", "DROP VIEW top, sold")
    routed = (
        "routing:\n  switch: COMMENT ON DATABASE {db} IS {{domain}}\n  reverse: COMMENT ON DATABASE {db} IS 'none'\n"
    ).format(db=value(split[0], "SELECT current_database()"))
    Path(segue.folder, "split.yaml").write_text(FILE + routed)
    Path(segue.folder, "plan.yaml").write_text(segue("move", "plan", "split.yaml").expect(0).stdout)
    segue("run", "plan.yaml", "--env", "monolith").expect(0)
    said = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
    keys = "SELECT count(*) FROM pg_constraint WHERE conname = 'items_product' AND convalidated"
    assert value(split[0], said) == "catalogue"
    assert value(split[0], keys) == 0
    run_sql(split[2], "INSERT INTO products VALUES (99, 'new')")
    assert segue("move", "probe", "split.yaml", "--json").expect(0).json["invariants"] == {"items_product": True}
    segue("rollback", "--yes").expect(0)
    assert value(split[0], said) == "none"
    assert value(split[0], keys) == 1
    assert value(split[0], "SELECT name FROM products WHERE id = 99") == "new"


def test_a_plan_is_a_document_with_six_parts(segue: Segue, split: tuple[str, str, str]) -> None:
    Path(segue.folder, "plan.yaml").write_text(segue("move", "plan", "split.yaml").expect(0).stdout)
    text = segue("plan", "document", "plan.yaml").expect(0).stdout
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == [
        "Phases",
        "Risk assessment and mitigation",
        "Testing and validation",
        "Rollback procedures",
        "Performance monitoring",
        "Communication plan",
    ]
    assert "`cut-catalogue` (sql)" in text
    assert "Writes stop until the other side has everything." in text
