"""A split of one database into several: what it cuts, the moves that it becomes, and what is probed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from fix_crash import Crasher
from fix_process import Segue
from fix_standbys import Server
from fix_targets import rows, run_sql, until, value

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
    reads: [countries]
  catalogue:
    to: catalogue
    tables: [products]
    reads: [countries]
shared: [countries]
"""
SUBSCRIPTIONS = """
SELECT subname FROM pg_subscription
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def split(moving_server: Server, segue: Segue) -> Iterator[tuple[str, ...]]:
    """Give the URLs of the environments "monolith", "customers" and "catalogue", and a split file beside them."""
    urls = tuple(moving_server.database() for _ in range(3))
    for name, url in zip(("monolith", "customers", "catalogue"), urls, strict=True):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": url}).expect(0)
    run_sql(urls[0], SHOP, ROWS)
    Path(segue.folder, "split.yaml").write_text(FILE)
    yield urls
    # The moves of the next test have the same names, and slots are the whole server's.
    for url in urls:
        for (name,) in rows(url, SUBSCRIPTIONS):
            run_sql(url, f"ALTER SUBSCRIPTION {name} DISABLE", f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
            run_sql(url, f"DROP SUBSCRIPTION {name}")
    until(lambda: not value(urls[0], "SELECT count(*) FROM pg_replication_slots WHERE active"))
    run_sql(urls[0], "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


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
    assert [copy["name"] for copy in found["copies"]] == ["customerreads", "cataloguereads"]
    shown = segue("move", "survey", "split.yaml").expect(0)
    assert "ON DELETE CASCADE has to be told by an event" in shown.stdout
    assert "local in customer again, on its copy; probed" in shown.stdout
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
    assert '<stdin>:10:24: "orders" has a home already, in line 6' in told
    assert '<stdin>:13:1: unknown key "sharde"' in told
    segue("move", "survey", "missing.yaml").expect(2)
    segue("move", "survey", "-", text="").expect(2)


def test_a_key_that_was_cut_is_probed_between_the_databases(segue: Segue, split: tuple[str, str, str]) -> None:
    monolith, _, catalogue = split
    assert segue("move", "split", "split.yaml", "--json").expect(0).json["moves"][:2] == ["customer", "catalogue"]
    segue("move", "split", "split.yaml").expect(3)
    assert segue("move", "probe", "split.yaml", "--json").expect(0).json["details"][0]["seen"] is None
    run_sql(catalogue, "CREATE TABLE products (id int PRIMARY KEY, name text, country text)")
    segue("move", "start", "catalogue").expect(0)
    assert "drop constraint items_product" in segue("move", "switch", "catalogue").expect(3).stderr
    run_sql(monolith, "DROP TRIGGER stock ON items", "ALTER TABLE items DROP CONSTRAINT items_product")
    segue("move", "switch", "catalogue", "--budget", "20s").expect(0)
    probed = segue("move", "probe", "split.yaml", "--json").expect(0).json
    assert probed["invariants"] == dict.fromkeys(
        ("items_product", "orders_country_fkey", "products_country_fkey"), True
    )
    seen = probed["details"][0]["seen"]
    assert (seen["holds"], seen["values"]) == (True, 20)
    run_sql(monolith, "INSERT INTO items VALUES (1, 3, 4711), (1, 4, NULL)")
    broken = segue("move", "probe", "split.yaml", "--json").expect(1).json
    assert [name for name, holds in broken["invariants"].items() if not holds] == ["items_product"]
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
        orders.replace(" REFERENCES countries", ""),
        items.replace(" CONSTRAINT items_product REFERENCES products ON DELETE CASCADE", ""),
    )
    run_sql(split[2], countries, products.replace(" REFERENCES countries", ""))
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
    assert all(segue("move", "probe", "split.yaml", "--json").expect(0).json["invariants"].values())
    run_sql(split[0], "INSERT INTO countries VALUES ('NZ')")
    for place in split[1:]:
        until(lambda place=place: value(place, "SELECT count(*) FROM countries") == 2)
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
    assert "`cut-catalogue` (sql)" in " ".join(text.split())
    assert "Writes stop until the other side has everything." in text


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["last", "every"])
def test_a_shared_table_is_read_everywhere_and_written_at_its_home(
    segue: Segue, split: tuple[str, str, str], new_crasher: Callable[..., Crasher], *, every: bool
) -> None:
    monolith, customers, catalogue = split
    file = Path(segue.folder, "split.yaml")
    file.write_text(FILE.replace("[products]\n    reads: [countries]", "[products, countries]"))
    segue("move", "split", "split.yaml").expect(0)
    refers = "CREATE TABLE countries (code text PRIMARY KEY); CREATE TABLE near (code text REFERENCES countries)"
    run_sql(customers, refers)
    assert "drop constraint near_code_fkey" in segue("move", "start", "customerreads").expect(2).stderr
    run_sql(customers, "DROP TABLE near", "INSERT INTO countries VALUES ('XX')")
    assert "has rows" in segue("move", "start", "customerreads").expect(2).stderr
    run_sql(customers, "DELETE FROM countries")
    crasher = new_crasher(**segue.env)
    points = ("move-published", "mirror-closed", "move-slot", "move-subscribed", "mirror-level")
    for point in points if every else points[-1:]:
        killed = crasher("move", "start", "customerreads", kill=(point, 1))
        assert killed["status"] == -9, (point, killed)
    segue("move", "start", "customerreads").expect(0)
    assert segue("move", "status", "customerreads", "--json").expect(0).json["caught_up"] is True
    for verb in ("switch", "reverse", "complete"):
        segue("move", verb, "customerreads", *(["--yes"] if verb == "complete" else [])).expect(3)
    # A change of the home's definition is told, and mended by the same change of the copy.
    run_sql(monolith, "ALTER TABLE countries ADD name text", "INSERT INTO countries VALUES ('NZ', 'New Zealand')")
    assert 'no column "name"' in segue("move", "status", "customerreads", "--json").expect(0).json["problem"]
    run_sql(customers, "ALTER TABLE countries ADD name text")
    count = "SELECT count(*) FROM countries"
    until(lambda: value(customers, count) == 2)
    # The home moves: the copy follows through the old one at first, and directly before that ends.
    run_sql(catalogue, "CREATE TABLE products (id int PRIMARY KEY, name text, country text)")
    run_sql(catalogue, "CREATE TABLE countries (code text PRIMARY KEY, name text)")
    run_sql(monolith, "DROP TRIGGER stock ON items", "ALTER TABLE items DROP CONSTRAINT items_product")
    run_sql(monolith, "ALTER TABLE orders DROP CONSTRAINT orders_country_fkey")
    segue("move", "start", "catalogue").expect(0)
    segue("move", "switch", "catalogue", "--budget", "20s").expect(0)
    run_sql(catalogue, "DELETE FROM countries", "INSERT INTO countries VALUES ('IT'), ('AT'), ('NZ')")
    until(lambda: value(customers, count) == 3)
    assert "segue move rehome customerreads" in segue("move", "complete", "catalogue", "--yes").expect(3).stderr
    points = ("move-unsubscribed", "mirror-left", "mirror-level")
    for point in points if every else points[-1:]:
        killed = crasher("move", "rehome", "customerreads", kill=(point, 1))
        assert killed["status"] == -9, (point, killed)
    done = segue("move", "rehome", "customerreads", "--json").expect(0).json
    assert done["home"] == "catalogue"
    segue("move", "complete", "catalogue", "--yes").expect(0)
    run_sql(catalogue, "DELETE FROM countries WHERE code = 'IT'")
    until(lambda: value(customers, count) == 2)
    segue("move", "cancel", "customerreads", "--yes").expect(0)
    for url in split:
        assert value(url, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'segue_move%'") == 0
