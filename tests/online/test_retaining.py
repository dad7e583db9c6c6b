"""What the server's log keeps back for a change that follows it: shown, limited, and survived when it is lost."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import rows, run_sql, until, value
from fix_wal import ITEMS, logical

from segue.services import changes, upkeep

START = ("change", "start", "items", "ALTER n TYPE bigint", "--strategy", "ghost", "--env", "shop", "--json")
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
#: A hundred megabytes of log that nobody reads.
LOG = ("SELECT pg_logical_emit_message(false, 'test', repeat('x', 10000000)) FROM generate_series(1, 10)",)


@pytest.fixture(scope="module")
def forgetful_server() -> Iterator[Server]:
    """Give a server that keeps little of its log for anybody."""
    with logical(None, max_slot_wal_keep_size="48MB", min_wal_size="32MB", max_wal_size="48MB") as server:
        yield server


def opened(shops: Shops, server: Server) -> str:
    url = server.database()
    run_sql(url, ITEMS, "INSERT INTO items SELECT g, 'c' || g, g FROM generate_series(1, 500) g")
    shops.open("shop", url)
    return url


def latest(shops: Shops) -> dict[str, Any]:
    with shops.store.session() as session:
        found = changes.listed(session)
        return found[0] if found else {"waiting": None}


def waiting(segue: Segue, shops: Shops, *words: str) -> subprocess.Popen[str]:
    """Start a change whose swap waits."""
    process = segue.start(*START, "--postpone-cutover", *words)
    until(lambda: latest(shops)["waiting"] or process.poll() is not None, 60)
    assert process.poll() is None, process.communicate()
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def swapped(segue: Segue, shops: Shops, url: str, *words: str) -> None:
    """Go on with the change to its end, and see that nothing is missing."""
    process = waiting(segue, shops, *words)
    segue("change", "cutover").expect(0)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    assert rows(url, "SELECT count(*), sum(n)::bigint, pg_typeof(max(n))::text FROM items") == [(501, 125249, "bigint")]
    assert value(url, SLOTS) == 0


def test_the_log_that_is_kept_back_is_shown_while_it_goes_on(
    segue: Segue, shops: Shops, logical_server: Server
) -> None:
    opened(shops, logical_server)
    process = waiting(segue, shops, "--wal-limit", "5GB")
    until(lambda: latest(shops)["wal"], 30)
    assert "of at most 5.0 GB" in segue("change", "show").expect(0).stdout
    assert "log kept back: " in segue("status").expect(0).stdout
    killed(process)


def test_a_slot_that_nobody_reads_is_given_up_at_its_limit_and_the_copy_begins_anew(
    segue: Segue, shops: Shops, logical_server: Server
) -> None:
    url = opened(shops, logical_server)
    killed(waiting(segue, shops, "--wal-limit", "64MB"))
    upkeep.look(shops.store, shops.settings, shops.parts, threading.Event())
    assert (latest(shops)["wal"]["given_up"], value(url, SLOTS)) == (False, 1)
    run_sql(url, *LOG, "INSERT INTO items VALUES (501, 'late', -1)")
    with shops.store.session() as session:
        row = changes.find(session, None)
        row.performance_metrics = {**(row.performance_metrics or {}), "kept": {}}
    upkeep.look(shops.store, shops.settings, shops.parts, threading.Event())
    assert (latest(shops)["wal"]["given_up"], value(url, SLOTS)) == (True, 0)
    assert "given up: the replication slot is gone" in segue("change", "show").expect(0).stdout
    swapped(segue, shops, url, "--wal-limit", "64MB")


def test_a_slot_that_the_server_invalidates_makes_the_copy_begin_anew(
    segue: Segue, shops: Shops, forgetful_server: Server
) -> None:
    url = opened(shops, forgetful_server)
    killed(waiting(segue, shops))
    run_sql(url, *LOG, "INSERT INTO items VALUES (501, 'late', -1)", "CHECKPOINT")
    until(
        lambda: value(
            url, "SELECT bool_and(wal_status = 'lost') FROM pg_replication_slots WHERE database = current_database()"
        ),
        30,
    )
    swapped(segue, shops, url)


def test_a_limit_that_is_too_small_for_anything_ends_the_change_with_words(
    segue: Segue, shops: Shops, logical_server: Server
) -> None:
    url = opened(shops, logical_server)
    failed = segue(*START, "--wal-limit", "1").expect(2)
    assert "this has happened 3 times" in failed.stdout
    segue("rollback", "--yes").expect(0)
    assert value(url, SLOTS) == 0


@pytest.mark.parametrize("size", ["many", "-1", "8XB"])
def test_a_limit_that_is_no_size_is_refused(segue: Segue, shops: Shops, size: str) -> None:
    assert "is not a size; write for example 64MB" in segue(*START, f"--wal-limit={size}").expect(64).stdout


def test_what_a_change_that_is_gone_has_left_behind_is_found_by_cleaning(
    segue: Segue, shops: Shops, logical_server: Server
) -> None:
    url = opened(shops, logical_server)
    killed(waiting(segue, shops))
    assert "an execution on it has not ended" in segue("env", "clean", "shop", "--yes").expect(3).stderr
    # Somebody drops Segue's schema, or takes a copy of the database that was made without it.
    segue("rollback", "--yes").expect(0)
    run_sql(
        url,
        "DROP SCHEMA segue CASCADE",
        "SELECT pg_create_logical_replication_slot('segue_gone1', 'pgoutput')",
        "CREATE PUBLICATION segue_gone1 FOR TABLE items",
        "COMMENT ON PUBLICATION segue_gone1 IS 'segue: follows an online change'",
        "CREATE PUBLICATION theirs FOR TABLE items",
        "SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')",
        "CREATE SCHEMA segue_gone1_old CREATE TABLE items (id int)",
    )
    cleaned = segue("env", "clean", "shop", "--yes", "--json").expect(0).json
    assert cleaned["dropped"] == ["replication slot segue_gone1", "publication segue_gone1"]
    assert cleaned["left"] == ["schema segue_gone1_old with 1 tables"]
    assert value(url, "SELECT string_agg(pubname, ' ') FROM pg_publication") == "theirs"
    assert value(url, SLOTS) == 1
    run_sql(url, "SELECT pg_drop_replication_slot('theirs')")
