"""The old tables of a reversible change: kept current by workers, shown by commands, and dropped when it is time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import rows, run_sql, until, value

from segue import clock
from segue.engine.events import nobody
from segue.errors import StepFailed
from segue.services import changes, upkeep
from segue.services.beginnings import Options
from segue.services.changes import Asked

WRITES = (
    "UPDATE orders SET note = 'later' WHERE id <= 100",
    "DELETE FROM orders WHERE id > 290",
    "INSERT INTO orders SELECT i, 'new' FROM generate_series(301, 310) i",
)


@pytest.fixture
def shop(shops: Shops, database: str) -> Shops:
    """Give an environment whose orders were changed, and may be changed back."""
    run_sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, note text)",
        "CREATE TABLE known (id bigint)",
        "INSERT INTO orders SELECT i, 'note ' || i FROM generate_series(1, 300) i",
    )
    shops.open("shop", database)
    asked = Asked("orders", ["ALTER id TYPE bigint"], fields={"strategy": "shadow-table"})
    changes.start(shops.store, shops.settings, shops.parts, asked, "shop", Options(), nobody)
    return shops


def set_metrics(shop: Shops, **values: Any) -> None:
    """Write into the record of the change, and let it be looked after at once."""
    with shop.store.session() as session:
        row = changes.find(session, None)
        metrics = {name: value for name, value in (row.performance_metrics or {}).items() if name != "kept"}
        row.performance_metrics = {**metrics, **values}


def phase(shop: Shops) -> str:
    with shop.store.session() as session:
        return changes.find(session, None).phase


def kept(shop: Shops) -> dict[str, Any]:
    with shop.store.session() as session:
        return dict((changes.find(session, None).performance_metrics or {}).get("kept") or {})


def log_of(database: str) -> str:
    return str(value(database, "SELECT 'segue.' || id || '_log_1_backward' FROM segue.change"))


def differing(database: str) -> int:
    """Return how many rows are in only one of the new table and the old one."""
    old = value(database, "SELECT 'segue_' || id || '_old.orders' FROM segue.change")
    both = "SELECT id::bigint, note FROM {}"
    new, old = both.format("orders"), both.format(old)
    return int(value(database, f"SELECT count(*) FROM (({new} EXCEPT {old}) UNION ALL ({old} EXCEPT {new})) AS d"))


def write_many(database: str, over: threading.Event) -> Callable[[], None]:
    """Return what touches the same rows again and again."""

    def write() -> None:
        while not over.is_set():
            run_sql(database, "UPDATE orders SET note = 'again' WHERE id BETWEEN 101 AND 150")

    return write


def eight_days_ago() -> str:
    return (clock.now() - timedelta(days=8)).isoformat()


def test_a_worker_keeps_the_old_table_current_and_drops_it_when_its_time_is_over(
    segue: Segue, shop: Shops, database: str
) -> None:
    run_sql(database, *WRITES)
    assert differing(database) == 220
    said = segue("change", "show").expect(0).stdout
    assert "120 writes wait to be brought to the old table, and no worker runs" in said
    worker = segue.start("worker")
    until(lambda: value(database, f"SELECT count(*) FROM {log_of(database)}") == 0, 40)
    assert differing(database) == 0
    until(lambda: kept(shop).get("rows") == 120, 20)
    assert "every write is in the old table too" in segue("change", "show").expect(0).stdout
    set_metrics(shop, swapped_at=eight_days_ago())
    until(lambda: phase(shop) == "completed", 40)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert rows(database, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'segue\\_%'") == []
    assert rows(database, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'orders'::regclass") == []
    assert value(database, "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_log\\_1\\_%'") == 0
    with shop.store.session() as session:
        (shadow,) = changes.describe(session, changes.find(session, None))["shadows"]
    assert (shadow["marked_for_cleanup"], shadow["active"]) == (True, False)
    assert shop.ledger("marked-for-cleanup")


def test_an_emptied_table_is_emptied_on_the_other_side_too(shop: Shops, database: str) -> None:
    run_sql(database, *WRITES, "TRUNCATE orders", "INSERT INTO orders VALUES (1, 'first'), (7, 'second')")
    assert upkeep.look(shop.store, shop.settings, shop.parts, threading.Event()) == 1
    assert differing(database) == 0
    assert upkeep.look(shop.store, shop.settings, shop.parts, threading.Event()) == 0  # it is not its turn


def test_a_target_that_somebody_drives_is_left_alone(shop: Shops, database: str) -> None:
    run_sql(database, *WRITES)
    fence = "SELECT fence FROM segue.lease WHERE role = 'fence'"
    target = shop.parts.database(database).open_target(database, execution="other", holder="me", schema="public")
    try:
        before = value(database, fence)
        assert upkeep.look(shop.store, shop.settings, shop.parts, threading.Event()) == 1
        assert (kept(shop)["why"], differing(database)) == ("somebody works on this database", 220)
    finally:
        target.close()
    set_metrics(shop)
    upkeep.look(shop.store, shop.settings, shop.parts, threading.Event())
    assert differing(database) == 0
    # Who lost the lease's connection for a moment gets it back: the fence is as it was.
    assert value(database, fence) == before


def test_another_table_under_the_same_name_is_not_taken_for_the_new_one(shop: Shops, database: str) -> None:
    run_sql(database, *WRITES, "ALTER TABLE orders RENAME TO others", "CREATE TABLE orders (LIKE others)")
    upkeep.look(shop.store, shop.settings, shop.parts, threading.Event())
    assert kept(shop)["why"] == "public.orders is not the table that the change has put in place"
    run_sql(database, "DROP TABLE orders", "ALTER TABLE others RENAME TO orders")
    set_metrics(shop)
    upkeep.look(shop.store, shop.settings, shop.parts, threading.Event())
    assert differing(database) == 0


def test_a_rollback_beside_the_upkeep_loses_nothing(shop: Shops, database: str) -> None:
    over = threading.Event()

    def keep() -> None:
        while not over.is_set():
            set_metrics(shop)
            upkeep.look(shop.store, shop.settings, shop.parts, over)

    def write() -> None:
        number = 1000
        while not over.is_set():
            number += 1
            run_sql(
                database,
                f"BEGIN; INSERT INTO orders VALUES ({number}, 'w'); INSERT INTO known VALUES ({number}); COMMIT",
            )

    threads = [threading.Thread(target=run) for run in (keep, write, write_many(database, over))]
    for thread in threads:
        thread.start()
    try:
        until(lambda: value(database, "SELECT count(*) FROM known") > 20, 30)
        shop.rollback()
        until(lambda: value(database, "SELECT count(*) FROM known") > 60, 30)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert phase(shop) == "rolled-back"
    assert rows(database, "SELECT id FROM known EXCEPT ALL SELECT id FROM orders") == []
    assert value(database, "SELECT count(*) FROM orders WHERE note = 'again'") == 50


def test_a_way_back_that_is_over_is_named_where_no_worker_runs(segue: Segue, shop: Shops) -> None:
    set_metrics(shop, swapped_at=eight_days_ago())
    assert "over: cleanup is due" in segue("change", "list").expect(0).stdout
    assert "the way back is over: `segue change cleanup --env shop`" in segue("status").expect(0).stdout
    segue("worker", "--once").expect(0)
    assert phase(shop) == "completed"


def test_an_old_table_that_is_being_dropped_never_comes_back(shop: Shops, database: str) -> None:
    run_sql(database, "UPDATE segue.change SET detail = detail || '{\"retiring\": true}'")
    with pytest.raises(StepFailed, match="the way back is being ended"):
        shop.rollback()
    assert upkeep.look(shop.store, shop.settings, shop.parts, threading.Event()) == 1
    assert kept(shop)["why"] == "the target knows of no way back of this change"
