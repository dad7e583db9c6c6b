"""What a switch refuses, undoes and leaves: sequences, TRUNCATE, DDL, long transactions, kills at each point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from fix_standbys import Server
from fix_targets import rows, run_sql, until, value
from fix_wandering import PATIENCE, Moved, made, rogue_writes, traffic

from segue.databases.postgresql.moving import live, switching
from segue.errors import Blocked, Busy, DriftFound, InvalidInput, LockNotGranted, NotCaughtUp, SafelyUndone
from segue.ports import Patience

#: Runs a function of a move in a process of its own, and kills that with -9 at a journal point.
CUT_OFF = """
import os, signal, sys
from segue.databases.postgresql.moving import live, switching
from segue.databases.postgresql.moving.support import Pair, Side
from segue.engine import journal
from segue.ports import Patience

what, point, id_, source, target, to = sys.argv[1:]

def die(name):
    if name == point:
        os.kill(os.getpid(), signal.SIGKILL)

journal.point = die
pair = Pair(id_, Side("source", source), Side("target", target))
if what == "switch":
    switching.switch(pair, getattr(pair, to), budget=10, patience=Patience(20, 20))
elif what == "recover":
    switching.recover(pair)
else:
    getattr(live, what)(pair, Patience(20, 20), print)
"""


def cut_off(moved: Moved, what: str, point: str) -> None:
    """Do something in a process that is killed at a point on the way."""
    pair = moved.pair
    arguments = [what, point, pair.id, pair.source.url, pair.target.url, moved.closed.name]
    done = subprocess.run([sys.executable, "-c", CUT_OFF, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr


@pytest.fixture(scope="module")
def fresh(moving_server: Server) -> Iterator[Moved]:
    """Give a move between two databases of one server; tests leave it followed, and open on either side."""
    with made(moving_server, moving_server) as found:
        found.begin()
        yield found


@pytest.fixture
def moved(fresh: Moved) -> Moved:
    """Give the move of this module, open on its source."""
    side = switching.recover(fresh.pair)
    fresh.open = side
    if side is fresh.pair.target:
        fresh.turn()
    return fresh


@pytest.fixture
def another(moving_server: Server) -> Iterator[Moved]:
    """Give a move of this test's own, followed."""
    with made(moving_server, moving_server) as found:
        found.begin()
        yield found


def test_ids_drawn_on_either_side_never_meet(moved: Moved) -> None:
    query = "SELECT nextval('item_id_seq'), nextval('part_id_seq')"
    drawn: list[tuple[int, ...]] = []
    for _ in range(3):
        before = [rows(moved.open.url, query)[0] for _ in range(3)]
        moved.turn()
        late = [rows(moved.closed.url, query)[0] for _ in range(3)]
        drawn += before + late + [rows(moved.open.url, query)[0] for _ in range(3)]
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == len(column)


def test_the_closed_sides_sequences_end_before_the_other_sides_begin(moved: Moved) -> None:
    moved.turn(margin=2)
    for _ in range(2):
        last = value(moved.closed.url, "SELECT nextval('item_id_seq')")
    with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
        run_sql(moved.closed.url, "SELECT nextval('item_id_seq')")
    assert value(moved.open.url, "SELECT nextval('item_id_seq')") > last


def test_emptied_tables_and_partitions_are_empty_on_the_other_side(another: Moved) -> None:
    run_sql(another.open.url, "TRUNCATE item, line", "TRUNCATE part_a", "INSERT INTO part VALUES (-5, 0, 1)")
    another.level()
    wanted = another.content(another.pair.source)
    assert wanted["item"] == {}
    assert len(wanted["part"]) == 101
    assert another.content(another.pair.target) == wanted
    another.turn()
    run_sql(another.open.url, "TRUNCATE part")
    another.level()
    assert another.content(another.closed)["part"] == {}


def test_a_long_transaction_leaves_everything_as_it_was(moved: Moved) -> None:
    with psycopg.connect(moved.open.url) as holder:
        holder.execute("UPDATE part SET n = n + 1 WHERE kind = 1")
        with pytest.raises(LockNotGranted) as refused:
            moved.turn(patience=Patience(0.5, 1))
        assert str(holder.info.backend_pid) in "".join(refused.value.details)
    assert switching.stand(moved.pair) is moved.pair.source
    run_sql(moved.open.url, "INSERT INTO part (kind) VALUES (1)")
    moved.turn()


def test_a_switch_that_exceeds_its_budget_is_undone(moved: Moved) -> None:
    # What holds the apply up begins once the sides are level: when the switch marks its drain.
    with psycopg.connect(moved.closed.url) as holder, pytest.MonkeyPatch.context() as patch:
        locked = switching.lock_all

        def late(*arguments: object, **more: object) -> float:
            holder.execute(b"LOCK TABLE part_b IN EXCLUSIVE MODE")
            run_sql(moved.open.url, "INSERT INTO part (kind) VALUES (1)")
            return locked(*arguments, **more)  # type: ignore[arg-type]

        patch.setattr(switching, "lock_all", late)
        with pytest.raises(SafelyUndone):
            moved.turn(budget=0.4)
    assert switching.stand(moved.pair) is moved.pair.source
    run_sql(moved.open.url, "INSERT INTO part (kind) VALUES (1)")
    assert rogue_writes(moved) == []
    moved.turn()


def test_a_target_that_is_behind_is_not_switched_to(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "LEVEL_SECONDS", 0.3)
    with psycopg.connect(moved.closed.url) as holder:
        holder.execute("LOCK TABLE part_b IN EXCLUSIVE MODE")
        run_sql(moved.open.url, "INSERT INTO part (kind) VALUES (1)")
        with pytest.raises(NotCaughtUp):
            moved.turn()
        lag = live.look(moved.pair, 0.2).lag
        assert lag is not None
        assert not lag.caught_up
        assert lag.seconds >= 0.2
    moved.turn()


@pytest.mark.parametrize(
    ("ddl", "back"),
    [
        ("ALTER TABLE item ADD extra integer", "ALTER TABLE item DROP extra"),
        ("ALTER TABLE part_a ALTER n SET NOT NULL", "ALTER TABLE part_a ALTER n DROP NOT NULL"),
        ("CREATE TABLE part_c PARTITION OF part FOR VALUES IN (2)", "DROP TABLE part_c"),
        ("ALTER TABLE line REPLICA IDENTITY NOTHING", "ALTER TABLE line REPLICA IDENTITY DEFAULT"),
    ],
)
@pytest.mark.parametrize("side", ["open", pytest.param("closed", marks=pytest.mark.slow)])
def test_ddl_meanwhile_refuses_a_switch_until_it_is_taken_back(moved: Moved, ddl: str, back: str, side: str) -> None:
    url = getattr(moved, side).url
    run_sql(url, ddl)
    try:
        with pytest.raises(DriftFound):
            moved.turn()
        assert switching.stand(moved.pair) is moved.pair.source
    finally:
        run_sql(url, back)
    moved.turn()


def test_one_process_at_a_time_works_on_a_move(moved: Moved) -> None:
    with moved.pair.open(moved.pair.target) as session:
        live.alone(moved.pair, session)
        with pytest.raises(Busy):
            moved.turn()
    moved.turn()


@pytest.mark.parametrize("table", ["CREATE TABLE odd (id int)", "CREATE UNLOGGED TABLE odd (id int PRIMARY KEY)"])
def test_what_cannot_be_followed_is_refused_before_anything_is_made(moving_server: Server, table: str) -> None:
    with made(moving_server, moving_server) as found:
        run_sql(found.pair.source.url, table)
        with pytest.raises(InvalidInput):
            live.begin(found.pair, ["item", "odd"], PATIENCE, found.notes.append)
        assert found.remains() == []


@pytest.mark.parametrize(
    ("point", "finish", "to"),
    [
        pytest.param("move-locked", True, "source", marks=pytest.mark.slow),
        pytest.param("move-drained", True, "source", marks=pytest.mark.slow),
        ("move-fenced", True, "target"),
        ("move-fenced", False, "source"),
        pytest.param("move-opened", False, "target", marks=pytest.mark.slow),
    ],
)
def test_a_killed_switch_is_finished_or_undone_by_a_new_process(
    moved: Moved, point: str, finish: bool, to: str
) -> None:
    with traffic(moved, seed=3) as seen:
        until(lambda: seen.acknowledged > 20)
        cut_off(moved, "switch", point)
        moved.open = seen.live = switching.recover(moved.pair, finish=finish)
        assert moved.open.name == to
        mark = seen.acknowledged
        until(lambda: seen.acknowledged > mark + 20)
        assert rogue_writes(moved) == []
    moved.level()
    assert seen.errors == []
    assert seen.wanted() == moved.content(moved.open) == moved.content(moved.closed)


@pytest.mark.slow
@pytest.mark.parametrize("finish", [True, False])
def test_a_killed_reverse_between_two_versions_is_finished_or_undone(
    moving_debian_server: Server, moving_server: Server, finish: bool
) -> None:
    with made(moving_debian_server, moving_server) as found, traffic(found, seed=4) as seen:
        found.begin()
        found.turn()
        seen.live = found.open
        cut_off(found, "switch", "move-fenced")
        found.open = seen.live = switching.recover(found.pair, finish=finish)
        assert found.open.name == ("source" if finish else "target")
        mark = seen.acknowledged
        until(lambda: seen.acknowledged > mark + 20)
        found.turn()
        seen.live = found.open
        until(lambda: seen.acknowledged > mark + 40)
        seen.stop()
        found.level()
        assert seen.errors == []
        assert seen.wanted() == found.content(found.open) == found.content(found.closed)


def test_complete_and_cancel_leave_nothing_behind(another: Moved) -> None:
    with pytest.raises(Blocked):
        live.complete(another.pair, PATIENCE, another.notes.append)
    another.turn()
    with pytest.raises(Blocked):
        live.cancel(another.pair, PATIENCE, another.notes.append)
    cut_off(another, "complete", "move-unsubscribed")
    live.complete(another.pair, PATIENCE, another.notes.append)
    assert another.remains() == []
    run_sql(another.pair.target.url, "INSERT INTO item (code) VALUES ('after')")


def test_a_move_is_cancelled_at_any_point_before_it_switches(moving_server: Server) -> None:
    with made(moving_server, moving_server) as found:
        keeper = live.begin(found.pair, found.tables, PATIENCE, found.notes.append)
        assert keeper.alive
        keeper.close()
        assert not keeper.alive
        live.cancel(found.pair, PATIENCE, found.notes.append)
        assert found.remains() == []
    with made(moving_server, moving_server) as found:
        found.begin()
        cut_off(found, "cancel", "move-removed")
        live.cancel(found.pair, PATIENCE, found.notes.append)
        assert found.remains() == []


def test_passwords_reach_no_log_that_takes_every_statement(moving_server: Server) -> None:
    with made(moving_server, moving_server) as found:
        for side in (found.pair.source, found.pair.target):
            name = psycopg.conninfo.conninfo_to_dict(side.url)["dbname"]
            run_sql(side.url, f"ALTER DATABASE {name} SET log_statement = 'all'")
        found.begin()
        written = moving_server.cluster.log().read_text(errors="replace")
        assert found.pair.channel(found.pair.source) in written
        assert psycopg.conninfo.conninfo_to_dict(found.pair.source.url)["password"] not in written
