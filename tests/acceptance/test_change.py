"""`segue change` as a process: start, watch, set, cut over, repair what does not fit, take back, clean up."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import rows, run_sql, until
from sqlalchemy import select

from segue.engine.events import nobody
from segue.errors import InvalidInput, SegueError, UsageError
from segue.services import changes, plans
from segue.services.beginnings import Options
from segue.services.changes import Asked
from segue.services.plans import Checked
from segue.store.tables.online import ShadowTableRow

WIDEN = "ALTER id TYPE bigint"
#: So that the server's own online forms are not chosen.
SHADOW = ("--strategy", "shadow-table")


@pytest.fixture
def shop(shops: Shops, database: str) -> Shops:
    """Give a store whose environment "shop" has a few hundred orders, two of them with the same code."""
    run_sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, code text, note text)",
        "INSERT INTO orders SELECT i, 'c' || (i % 299), 'note ' || i FROM generate_series(1, 300) i",
    )
    shops.open("shop", database)
    return shops


def latest(shop: Shops) -> dict[str, Any]:
    with shop.store.session() as session:
        found = changes.listed(session)
        return found[0] if found else {"phase": None, "waiting": None}


def begun(segue: Segue, shop: Shops, *words: str) -> subprocess.Popen[str]:
    """Start a change, and return it when its swap waits."""
    process = segue.start("change", "start", *words, "--env", "shop", "--json")
    until(lambda: latest(shop)["waiting"] or process.poll() is not None, 60)
    assert process.poll() is None, process.communicate()
    return process


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def asked(shop: Shops, *words: str, **more: Any) -> Checked:
    with shop.store.session() as session:
        return changes.planned(session, shop.parts, Asked(words[0], words[1:], **more), "shop")


# -- asking


@pytest.mark.parametrize(
    "words",
    [
        ("orders", "ALTER TABLE orders ALTER id TYPE bigint"),
        ("ALTER TABLE orders ALTER id TYPE bigint",),
        ("alter table if exists orders ALTER id TYPE bigint;",),
    ],
)
def test_a_whole_alter_table_asks_the_same_as_its_commands(shop: Shops, words: tuple[str, ...]) -> None:
    assert asked(shop, *words).digest == asked(shop, "orders", WIDEN).digest


def test_several_alters_are_one_copy_and_several_tables_one_swap(shop: Shops) -> None:
    one = asked(shop, "orders", WIDEN, "ADD x int").plan.steps[0]
    assert one.alter == [WIDEN, "ADD x int"]  # type: ignore[attr-defined]
    two = asked(shop, "ALTER TABLE orders DROP note; ALTER TABLE items ADD y int").plan.steps[0]
    assert [table.table for table in two.tables] == ["orders", "items"]  # type: ignore[attr-defined]


def test_the_same_change_asked_otherwise_is_the_next_version(shop: Shops) -> None:
    first = asked(shop, "orders", WIDEN)
    with shop.store.session() as session:
        plans.add(session, shop.settings, first)
    assert asked(shop, "orders", WIDEN).plan.version == "1.0.0"
    other = asked(shop, "orders", WIDEN, fields={"workers": 2})
    assert (other.plan.plan, other.plan.version) == (first.plan.plan, "1.0.1")
    with shop.store.session() as session:
        plans.add(session, shop.settings, other)
    assert asked(shop, "orders", WIDEN, fields={"workers": 2}).plan.version == "1.0.1"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("orders", "ALTER id TYPE"), InvalidInput, "ALTER TABLE orders ALTER id TYPE: syntax error"),
        (("orders", "CREATE INDEX i ON orders (id)"), InvalidInput, "an online change is an ALTER TABLE"),
        (("ALTER TABLE orders RENAME code TO c",), InvalidInput, "a rename needs no online change"),
        (("ALTER TABLE ONLY orders ADD x int",), InvalidInput, "leave out ONLY"),
        (("orders ADD x int",), UsageError, '"orders ADD x int" is no table'),
        (("orders",), InvalidInput, "nothing is to change"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_stored(
    shop: Shops, words: tuple[str, ...], error: type[SegueError], said: str
) -> None:
    with pytest.raises(error, match=said):
        changes.start(shop.store, shop.settings, shop.parts, Asked(words[0], words[1:]), "shop", Options(), nobody)
    with shop.store.session() as session:
        assert plans.listed(session) == []


def test_a_dry_run_prints_a_plan_file_and_stores_nothing(segue: Segue, shop: Shops) -> None:
    printed = segue("change", "start", "orders", WIDEN, "--env", "shop", "--workers", "2", "--dry-run").expect(0)
    checked = plans.check(printed.stdout, "<stdin>", shop.parts)
    assert checked.digest == asked(shop, "orders", WIDEN, fields={"workers": 2}).digest
    with shop.store.session() as session:
        assert plans.listed(session) == []


# -- running


def test_a_change_of_a_moment_is_done_in_place_and_taken_back(segue: Segue, shop: Shops, database: str) -> None:
    words = ("change", "start", "orders", "ADD x int", "--env", "shop")
    done = segue(*words, "--json").expect(0).json
    change = done["steps"][0]["change"]
    assert (change["strategy"], change["type"], change["column"], change["phase"]) == (
        "native-online",
        "add-column",
        "x",
        "completed",
    )
    assert "nothing to do" in segue(*words).expect(0).stderr
    segue("rollback", "--yes").expect(0)
    assert latest(shop)["phase"] == "rolled-back"
    assert rows(database, "SELECT 1 FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'x'") == []


def test_a_postponed_swap_waits_is_set_and_cut_over(segue: Segue, shop: Shops, database: str) -> None:
    process = begun(segue, shop, "orders", WIDEN, *SHADOW, "--postpone-cutover", "--retention-days", "3")
    status = segue("status").expect(0).stdout
    assert "swapping 98 %" in status
    assert "waits for `segue change cutover`" in status
    assert "chunk-seconds: 0.1" in segue("change", "set", "orders", "--chunk-seconds", "0.1").expect(0).stdout
    segue("throttle", "--limit", "lock-waiters=none").expect(0)
    assert latest(shop)["set"] == {"chunk_seconds": 0.1}
    segue("change", "cutover").expect(0)
    change = ended(process)["steps"][0]["change"]
    assert (change["phase"], change["percent"], change["rows_copied"]) == ("reversible", 100.0, 300)
    assert change["metrics"]["swap_lock_ms"] > 0
    assert [(one["sync"], one["active"], one["retention_days"]) for one in change["shadows"]] == [("synced", True, 3)]
    assert "has swapped already" in segue("change", "cutover").expect(3).stderr
    assert "nothing left to set" in segue("change", "set", "--workers", "2").expect(3).stderr

    segue("rollback", "--yes").expect(0)
    assert latest(shop)["phase"] == "rolled-back"
    assert not latest(shop)["shadows"][0]["active"]
    assert rows(
        database,
        "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'id'",
    ) == [("integer",)]


def test_rows_that_do_not_fit_are_listed_with_repairs(segue: Segue, shop: Shops, database: str) -> None:
    process = begun(segue, shop, "orders", "ALTER id TYPE bigint, ADD CONSTRAINT one_code UNIQUE (code)", *SHADOW)
    said = segue("change", "conflicts", "orders").expect(1)
    assert "id = 300" in said.stdout
    found = segue("change", "conflicts", "--json").expect(1).json
    assert (found["count"], found["conflicts"][0]["key"]) == (1, {"id": "300"})
    assert latest(shop)["conflicts"] == 1
    run_sql(database, found["conflicts"][0]["repairs"][0])
    assert ended(process)["steps"][0]["change"]["phase"] == "reversible"
    assert "every row" in segue("change", "conflicts").expect(0).stderr


def test_a_way_back_ends_when_it_is_over_or_a_person_says_so(segue: Segue, shop: Shops, database: str) -> None:
    segue("change", "start", "orders", WIDEN, *SHADOW, "--env", "shop").expect(0)
    cleanup = ("change", "cleanup", "--env", "shop")
    assert "no change's way back is over" in segue(*cleanup).expect(0).stderr
    assert "it is open until" in segue(*cleanup, "orders").expect(3).stderr
    assert "nobody is here to confirm" in segue(*cleanup, "orders", "--now").expect(64).stderr
    assert "would be dropped" in segue(*cleanup, "orders", "--now", "--dry-run").expect(0).stdout
    assert segue(*cleanup, "orders", "--now", "--yes").expect(0).stdout.rstrip().endswith("public.orders  dropped")
    assert rows(database, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'segue\\_%'") == []
    with shop.store.session() as session:
        shadow = session.scalars(select(ShadowTableRow)).one()
        assert (shadow.marked_for_cleanup, shadow.is_active) == (True, False)
    assert latest(shop)["phase"] == "completed"
    assert "rollback window" in segue("rollback", "--yes").expect(3).stderr
    assert "completed" in segue("change", "list").expect(0).stdout


def test_looking_at_changes_that_are_not_there_says_what_to_do(segue: Segue, shop: Shops) -> None:
    assert "`segue change start" in segue("change", "list").expect(0).stderr
    assert "there is no online change yet" in segue("change", "show").expect(2).stderr
    assert "--now is about one change" in segue("change", "cleanup", "--env", "shop", "--now").expect(64).stderr
    assert (
        "is not one of" in segue("change", "start", "orders", WIDEN, "-e", "shop", "--strategy", "x").expect(64).stderr
    )
