"""Reads before writes: a share goes to the target while that is level, is taken back else, and ends by itself."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psycopg
import pytest
from fix_process import Segue
from fix_standbys import Server
from fix_targets import rows, run_sql, until
from fix_wandering import LATER, TABLES, Moved, made, traffic

from segue.databases.postgresql.moving import routing

CREATE = ("move", "create", "shop", "--from", "old", "--to", "new", *(word for t in TABLES for word in ("-t", t)))
ROUTE = "SELECT writes_to, reads_percent FROM segue_routing.moves WHERE move = 'shop'"


@pytest.fixture
def moved(moving_server: Server, segue: Segue) -> Iterator[Moved]:
    """Give a move "shop" from "old" to "new" that is followed."""
    with made(moving_server, moving_server, "shop") as found:
        run_sql(found.pair.target.url, LATER)
        for name, side in (("old", found.pair.source), ("new", found.pair.target)):
            segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": side.url}).expect(0)
        segue(*CREATE).expect(0)
        segue("move", "start", "shop").expect(0)
        yield found


@pytest.mark.slow
def test_reads_go_to_the_target_only_while_it_is_level(segue: Segue, moved: Moved) -> None:
    source, target = moved.pair.source.url, moved.pair.target.url
    role = "CREATE ROLE reader LOGIN PASSWORD 'reader'"

    def routed() -> tuple[str, int]:
        found: tuple[str, int] = rows(source, ROUTE)[0]
        return found

    with psycopg.connect(target) as busy, traffic(moved, seed=21) as seen:
        busy.execute("LOCK TABLE item IN EXCLUSIVE MODE")
        until(lambda mark=seen.acknowledged: seen.acknowledged > mark + 20)
        # Behind, it is refused; and nothing is written.
        assert "behind, more than" in segue("move", "reads", "shop", "40").expect(4).stderr
        assert not _there(source)
        busy.rollback()
        until(lambda: segue("move", "status", "shop", "--json").json["caught_up"])
        keeper = segue.start("move", "reads", "shop", "40", "--max-lag", "2s")
        until(lambda: _there(source) and routed() == ("old", 40))
        busy.execute("LOCK TABLE item IN EXCLUSIVE MODE")
        until(lambda: routed() == ("old", 0))
        assert keeper.poll() is None
        busy.rollback()
        until(lambda: routed() == ("old", 40))
        # Without its process the share ends by the database's own clock.
        keeper.send_signal(signal.SIGKILL)
        keeper.wait()
        until(lambda: routed() == ("old", 0))
        # One process after the other: the last one says how much; asked to stop, it takes the share back.
        first = segue.start("move", "reads", "shop", "10", "--max-lag", "5s")
        until(lambda: routed() == ("old", 10))
        second = segue.start("move", "reads", "shop", "90", "--max-lag", "5s")
        assert first.wait(60) == 0
        assert routed() == ("old", 90)
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0
        assert routed() == ("old", 0)
        # The writes follow, and the reads with them.
        third = segue.start("move", "reads", "shop", "50", "--max-lag", "5s")
        until(lambda: routed() == ("old", 50))
        segue("move", "switch", "shop", "--budget", "20s").expect(0)
        moved.open = seen.live = moved.pair.target
        assert routed() == ("new", 100)
        assert third.wait(60) == 0
        segue("move", "reads", "shop", "5").expect(3)
        segue("move", "reverse", "shop", "--budget", "20s").expect(0)
        moved.open = seen.live = moved.pair.source
        assert routed() == ("old", 0)
    assert seen.errors == []
    run_sql(source, role)
    try:
        with psycopg.connect(source, user="reader", password="reader") as reader:
            assert reader.execute(ROUTE.encode()).fetchone() == ("old", 0)
    finally:
        run_sql(source, "DROP ROLE reader")
    segue("move", "cancel", "shop", "--yes").expect(0)
    assert not _there(source)
    assert moved.remains() == []


def test_sessions_that_listen_hear_of_every_change(segue: Segue, moved: Moved) -> None:
    source = moved.pair.source.url
    segue("move", "reads", "shop", "0").expect(0)
    keeper = segue.start("move", "reads", "shop", "40", "--max-lag", "5s")
    until(lambda: rows(source, ROUTE)[0] == ("old", 40))
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait(60) == 0
    assert rows(source, ROUTE)[0] == ("old", 0)
    with psycopg.connect(source, autocommit=True) as listener:
        listener.execute(f"LISTEN {routing.CHANNEL}")
        segue("move", "switch", "shop", "--budget", "20s").expect(0)
        segue("move", "switch", "shop", "--budget", "20s").expect(0)
        heard = [notify.payload for notify in listener.notifies(timeout=1)]
    assert heard == ["shop"]
    segue("move", "complete", "shop", "--yes").expect(0)
    # Who reads the routing is not sent back.
    assert rows(source, ROUTE)[0] == ("new", 100)


def _there(url: str) -> bool:
    return bool(rows(url, "SELECT to_regclass('segue_routing.moves') IS NOT NULL")[0][0])
