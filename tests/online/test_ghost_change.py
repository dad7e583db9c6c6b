"""An online change that follows the application through a slot, from its beginning to its way back, as a process."""

from __future__ import annotations

import json

import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import rows, run_sql, until, value
from fix_wal import ITEMS, Writer, writing

from segue.engine.events import nobody
from segue.services import changes
from segue.services.beginnings import Options
from segue.services.changes import Asked

WIDEN = "ALTER n TYPE bigint"
GHOST = ("--strategy", "ghost", "--env", "shop", "--json")


def left(url: str) -> tuple[int, int]:
    """Return how many slots and publications of ours there are."""
    return (
        value(url, "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'segue%'"),
        value(url, "SELECT count(*) FROM pg_publication WHERE pubname LIKE 'segue%'"),
    )


def waiting(shops: Shops) -> bool:
    with shops.store.session() as session:
        found = changes.listed(session)
        return bool(found and found[0]["waiting"])


def kind(url: str) -> str:
    return str(
        value(url, "SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'items'::regclass AND attname = 'n'")
    )


def check(writers: list[Writer], url: str) -> None:
    """See that no statement failed, and that every row is what was acknowledged of it."""
    assert [writer.failed for writer in writers] == [[]] * len(writers)
    wanted = {key: row for writer in writers for key, row in writer.rows.items()}
    assert {row[0]: row[1:] for row in rows(url, "TABLE items")} == wanted


def test_a_change_without_triggers_loses_nothing_and_leaves_neither_slot_nor_publication(
    shops: Shops, logical_server: Server
) -> None:
    url = logical_server.database()
    run_sql(url, ITEMS)
    shops.open("shop", url)
    change = Asked("items", (WIDEN,), fields={"strategy": "ghost"})
    with writing(url, seed=4) as writers:
        changes.start(shops.store, shops.settings, shops.parts, change, "shop", Options(), nobody)
        assert (kind(url), left(url)) == ("bigint", (0, 0))
        shops.rollback()
        assert kind(url) == "integer"
    check(writers, url)


@pytest.mark.slow
def test_a_change_without_triggers_is_killed_swapped_and_taken_back_under_traffic(
    segue: Segue, shops: Shops, logical_server: Server
) -> None:
    url = logical_server.database()
    run_sql(url, ITEMS)
    shops.open("shop", url)
    with writing(url, seed=3) as writers:
        process = segue.start("change", "start", "items", WIDEN, *GHOST, "--postpone-cutover")
        until(lambda: waiting(shops) or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()
        assert left(url) == (1, 1)
        assert value(url, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'items'::regclass") == 0
        process.kill()
        process.wait()
        process = segue.start("change", "start", "items", WIDEN, *GHOST, "--postpone-cutover")
        segue("change", "cutover").expect(0)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)
        assert json.loads(out)["steps"][0]["change"]["strategy"] == "ghost"
        assert (kind(url), left(url)) == ("bigint", (0, 0))
        segue("rollback", "--yes").expect(0)
        assert kind(url) == "integer"
    check(writers, url)


@pytest.mark.slow
def test_a_change_whose_slot_is_lost_begins_its_copy_anew(segue: Segue, shops: Shops, logical_server: Server) -> None:
    url = logical_server.database()
    run_sql(url, ITEMS)
    shops.open("shop", url)
    with writing(url, seed=5) as writers:
        process = segue.start("change", "start", "items", WIDEN, *GHOST, "--postpone-cutover")
        until(lambda: waiting(shops) or process.poll() is not None, 60)
        slots = "FROM pg_replication_slots WHERE slot_name LIKE 'segue%'"
        run_sql(url, f"SELECT pg_terminate_backend(active_pid, 5000), pg_drop_replication_slot(slot_name) {slots}")
        until(lambda: value(url, "SELECT round FROM segue.change") == 2 and left(url) == (1, 1) and waiting(shops), 60)
        segue("change", "cutover").expect(0)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)
        assert (kind(url), left(url)) == ("bigint", (0, 0))
    check(writers, url)
