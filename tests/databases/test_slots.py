"""Labourers in several processes share a backfill, and write each row once, whoever dies, sleeps or is replaced."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fix_targets import Background, Open, Run, fill, rows, run_sql, session, until, value

from segue.databases.postgresql import lease
from segue.errors import FenceLost, Interrupted, StepFailed
from segue.ports import BACKWARD, FORWARD, BackfillSpec, Batch, BatchLost, ChunkTooSlow, Pace
from segue.rows.chunks import pieces
from segue.steps.backfill import STEP, BackfillParams

PROCESS = Path(__file__).with_name("slot_process.py")
FIELDS: dict[str, Any] = {"set": {"n": "n + 1"}, "batch": {"size": 10, "max": 10}, "workers": 3}


@dataclass
class Slots:
    """A table of rows that count how often they were written, and processes that labour on it."""

    url: str
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *, fence: int | None = None, kill: tuple[str, int] | None = None, **more: Any) -> Any:
        params = {"name": "fill", "table": "t", **FIELDS, **more.pop("params", {})}
        words = {"execution": "e", "direction": FORWARD, "owner": f"process {len(self.started)}", "leave": 60}
        words |= {"url": self.url, "fence": fence, "lease": 2, "kill": kill, "params": params, **more}
        process = subprocess.Popen([sys.executable, PROCESS, json.dumps(words)], stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def value(self, query: str, *parameters: Any) -> Any:
        return value(self.url, query, *parameters)

    def slow(self, when: str, seconds: float) -> None:
        """Let a trigger sleep in updates."""
        run_sql(
            self.url,
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$",
            f"CREATE TRIGGER slow BEFORE UPDATE ON t {when} EXECUTE FUNCTION slow()",
        )

    def catch(self, process: Any, owner: str) -> bool:
        """Stop a process if it has a batch just then."""
        process.send_signal(signal.SIGSTOP)
        if self.value("SELECT count(*) FROM segue.batch WHERE state = 'claimed' AND owner = %s", owner):
            return True
        process.send_signal(signal.SIGCONT)
        return False

    def counted(self) -> dict[int, int]:
        return dict(rows(self.url, "SELECT n, count(*) FROM t GROUP BY 1"))

    def chunks(self, owner: str = "%") -> int:
        return int(value(self.url, "SELECT count(*) FROM segue.chunk WHERE worker LIKE %s", owner))


@pytest.fixture
def slots(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slots]:
    run_sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)",
        "INSERT INTO t SELECT generate_series(1, 1000)",
    )
    # Silent for this long, a labourer has lost its batches: a test need not wait for the ten seconds of real ones.
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2)
    found = Slots(database)
    yield found
    for process in found.started:
        process.kill()
        process.communicate()


class Drive(Background):
    """A driver that runs in a thread; everybody stands still until `go` finds all of them there."""

    def __init__(self, slots: Slots, target: Any, *, here: int = 1, **fields: Any) -> None:
        self.slots = slots
        self.fence = target.fence
        self.run_ = Run(target, BackfillParams(name="fill", table="t", **{**FIELDS, **fields}))
        self.pace = Pace(duty=0)
        self.run_.paced = lambda: self.pace
        self.run_.hired = lambda wanted: here
        super().__init__(lambda: STEP.run(self.run_))
        until(lambda: self.run_.record.batches)

    def go(self, labourers: int, duty: float = 1) -> None:
        until(lambda: self.slots.value("SELECT count(*) FROM segue.labourer") == labourers)
        self.pace = Pace(duty=duty)


def test_batches_of_one_killed_and_of_one_stopped_are_done_by_others_once(slots: Slots, open_target: Open) -> None:
    slots.slow("FOR EACH STATEMENT", 0.05)
    driver = Drive(slots, open_target(slots.url, "e"))
    killed, stopped = (slots.start(fence=driver.fence) for _ in range(2))
    driver.go(3)
    until(lambda: slots.catch(killed, "process 0"))
    killed.kill()
    until(lambda: slots.catch(stopped, "process 1"))
    driver.result()
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(20) == 0
    assert slots.counted() == {1: 1000}
    assert slots.value("SELECT sum(retries) FROM segue.batch") >= 2
    assert driver.run_.record.rows == 1000


def test_one_that_wakes_while_its_batch_is_another_ones_writes_nothing(slots: Slots, open_target: Open) -> None:
    slots.slow("FOR EACH ROW WHEN (new.id = 5)", 0.3)
    driver = Drive(slots, open_target(slots.url, "e"), here=0)
    sleeper = slots.start(fence=driver.fence)
    driver.go(1)
    # In the middle of a chunk, and so for longer than its lease; another one does everything meanwhile.
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    until(lambda: slots.value(asleep))
    sleeper.send_signal(signal.SIGSTOP)
    slots.start(fence=driver.fence)
    until(lambda: slots.counted() == {1: 1000}, 30)
    driver.result()
    sleeper.send_signal(signal.SIGCONT)
    # The server has ended its session meanwhile, and with it the locks on the application's rows.
    out, _ = sleeper.communicate(timeout=20)
    assert out.strip() == "OutcomeUnknown"
    assert slots.counted() == {1: 1000}
    assert slots.value("SELECT retries FROM segue.batch WHERE number = 1") == 1


def test_of_two_with_one_batch_the_later_claim_writes(slots: Slots, open_target: Open) -> None:
    target = open_target(slots.url, "e")
    run = Run(target, BackfillParams(name="fill", table="t", **FIELDS))
    work = target.backfill(run.key(0), BackfillSpec("t", FIELDS["set"], None), run.patience)
    work.board.open(Pace())
    work.board.offer([Batch(1, None, ("10",), 10, size=10), Batch(2, ("10",), ("20",), 10, size=10)])
    with work.open("slow") as slow, work.open("quick") as quick:
        slow.beat()
        mine = slow.claim(2)
        assert quick.claim(2) == []
        run_sql(slots.url, "UPDATE segue.labourer SET beat_at = beat_at - interval '1 minute' WHERE owner = 'slow'")
        (other,) = quick.claim(1)
        assert (other.number, other.token, other.retries) == (1, 2, 1)
        assert not slow.write_all(mine)
        with pytest.raises(BatchLost):
            slow.write(mine[0], *pieces(mine[0]), last=True, fits=None)
        slow.give_back(mine[:1])
        quick.write(other, *pieces(other), last=True, fits=None)
        slow.write(mine[1], *pieces(mine[1]), last=True, fits=None)
    assert slots.counted() == {0: 980, 1: 20}
    assert rows(slots.url, "SELECT batch, worker FROM segue.chunk ORDER BY 1") == [(1, "quick"), (2, "slow")]


def test_small_batches_are_written_together_or_not_at_all(slots: Slots, open_target: Open) -> None:
    target = open_target(slots.url, "e")
    run = Run(target, BackfillParams(name="fill", table="t", **FIELDS))
    work = target.backfill(run.key(0), BackfillSpec("t", FIELDS["set"], None), run.patience)
    work.board.open(Pace())
    ends = [None, ("10",), ("20",), ("30",)]
    work.board.offer([Batch(n, ends[n - 1], ends[n], 10, size=10) for n in (1, 2, 3)])
    with work.open("one") as writer:
        held = writer.claim(4)
        with session(slots.url, "UPDATE t SET n = n WHERE id = 15"):
            assert not writer.write_all(held)
            assert slots.counted() == {0: 1000}
            writer.write(held[0], *pieces(held[0]), last=True, fits=None)
            with pytest.raises(ChunkTooSlow):
                writer.write(held[1], *pieces(held[1]), last=True, fits=None)
        assert writer.write_all(held[1:])
    assert slots.counted() == {0: 970, 1: 30}
    chunks = "SELECT batch, until[1], keys, rows FROM segue.chunk ORDER BY 1"
    assert rows(slots.url, chunks) == [(1, "10", 10, 10), (2, "20", 10, 10), (3, "30", 10, 10)]


def test_a_pace_of_nothing_stops_everybody_and_another_goes_on(slots: Slots, open_target: Open) -> None:
    driver = Drive(slots, open_target(slots.url, "e"), here=2)
    slots.start(fence=driver.fence)
    driver.go(3, duty=0.01)
    until(lambda: slots.chunks("process 0"))
    driver.pace = Pace(duty=0, reason="a replica is behind")
    until(lambda: slots.value("SELECT count(*) FROM segue.work WHERE duty = 0"))
    until(lambda: not slots.value("SELECT count(*) FROM segue.batch WHERE state = 'claimed'"))
    stopped = slots.chunks()
    # All three look at the pace again, and find nothing changed.
    since = slots.value("SELECT clock_timestamp()::text")
    until(lambda: slots.value("SELECT count(*) FROM segue.labourer WHERE beat_at > %s::timestamptz", since) == 3)
    assert slots.chunks() == stopped < 100
    driver.pace = Pace()
    driver.result()
    assert slots.counted() == {1: 1000}


def test_a_pace_with_one_worker_lets_the_first_go_on_alone(slots: Slots, open_target: Open) -> None:
    driver = Drive(slots, open_target(slots.url, "e"), here=3)
    driver.go(3, duty=0.01)
    driver.pace = Pace(duty=0.05, workers=1, reason="lock waits")
    first = slots.value("SELECT owner FROM segue.labourer ORDER BY joined_at, owner LIMIT 1")
    until(lambda: slots.value("SELECT count(*) FROM segue.work WHERE workers = 1"))
    claimed = "SELECT array_agg(DISTINCT owner) FROM segue.batch WHERE state = 'claimed'"
    until(lambda: slots.value(claimed) == [first])
    since, before = slots.value("SELECT clock_timestamp()::text"), slots.chunks()
    until(lambda: slots.chunks() > before + 5)
    late = "SELECT array_agg(DISTINCT worker) FROM segue.chunk WHERE at > %s::timestamptz"
    assert slots.value(late, since) == [first]
    driver.pace = Pace()
    driver.result()
    assert slots.counted() == {1: 1000}


def test_a_quarter_of_the_duty_rests_three_times_as_long_as_it_works(slots: Slots, open_target: Open) -> None:
    slots.slow("FOR EACH STATEMENT", 0.05)
    run_sql(slots.url, "DELETE FROM t WHERE id > 100")
    driver = Drive(slots, open_target(slots.url, "e"))
    until(lambda: slots.value("SELECT count(*) FROM segue.labourer"))
    driver.pace = Pace(duty=0.25)
    driver.result()
    share = (
        "SELECT sum(milliseconds) FILTER (WHERE number > (SELECT min(number) FROM segue.chunk))"
        " / (extract(epoch FROM max(at) - min(at)) * 1000) FROM segue.chunk"
    )
    assert slots.value(share) < 0.3


def test_slots_are_asked_for_while_they_are_missing(slots: Slots, open_target: Open, monkeypatch: Any) -> None:
    monkeypatch.setattr("segue.rows.walk.COUNT_SECONDS", 0.2)
    target = open_target(slots.url, "e")
    run = Run(target, BackfillParams(name="fill", table="t", **FIELDS))
    asked: list[int] = []

    def hired(wanted: int) -> int:
        asked.append(wanted)
        if len(asked) == 2:
            slots.start(fence=target.fence)
        return 1

    # Slowly, until the other one has come.
    run.hired, run.paced = hired, lambda: Pace(duty=1 if 2 in asked else 0.02)
    STEP.run(run)
    # All three at first, of which one is here; then those that are missing, and one of them when the other has come.
    assert asked[:2] == [3, 3]
    assert 2 in asked
    assert slots.counted() == {1: 1000}


def test_what_fails_elsewhere_stops_the_driver_with_the_reason(slots: Slots, open_target: Open) -> None:
    wrong = {"set": {"n": "n + 1 + 0 / (id - 500)"}}
    target = open_target(slots.url, "e")
    driver = Drive(slots, target, here=0, **wrong)
    slots.start(fence=driver.fence, params=wrong)
    driver.go(1)
    with pytest.raises(StepFailed, match="division by zero") as raised:
        driver.result()
    assert "490" in str(raised.value)
    failed = [batch for batch in driver.run_.record.batches.values() if batch.failure]
    assert [batch.after for batch in failed] in ([], [("490",)])
    fill(target, "t", **{**FIELDS, "set": {"n": "n + 1"}})
    assert slots.counted() == {1: 1000}


def test_a_stopped_driver_leaves_nobody_at_work(slots: Slots, open_target: Open) -> None:
    driver = Drive(slots, open_target(slots.url, "e"))
    helper = slots.start(fence=driver.fence)
    driver.go(2, duty=0.01)
    until(lambda: slots.chunks("process 0"))

    def stop() -> None:
        raise Interrupted("stopped")

    driver.run_.boundaries = stop
    with pytest.raises(Interrupted):
        driver.result()
    written = slots.counted()[1]
    assert helper.wait(20) == 0
    assert slots.counted()[1] == written == driver.run_.record.rows < 1000
    # Given back, or never claimed: which of the two depends on how far ahead the driver had offered.
    assert ("claimed",) not in rows(slots.url, "SELECT DISTINCT state FROM segue.batch")
    assert slots.value("SELECT count(*) FROM segue.labourer") == 0


def test_who_labours_under_an_earlier_fence_ends_by_itself(slots: Slots, open_target: Open) -> None:
    driver = Drive(slots, open_target(slots.url, "e"))
    helper = slots.start(fence=driver.fence)
    driver.go(2, duty=0.01)
    until(lambda: slots.chunks("process 0"))
    run_sql(slots.url, "UPDATE segue.lease SET fence = fence + 1, holder = 'another' WHERE role = 'fence'")
    with pytest.raises(FenceLost):
        driver.result()
    out, _ = helper.communicate(timeout=20)
    assert out.strip() == "FenceLost"
    assert set(slots.counted()) == {0, 1}


def test_what_an_older_version_began_is_upgraded_and_finished(slots: Slots, open_target: Open) -> None:
    target = open_target(slots.url, "e")
    run = Run(target, BackfillParams(name="fill", table="t", **FIELDS))

    def stop() -> None:
        if run.record.rows > 300:
            raise Interrupted("stopped")

    run.boundaries, run.paced = stop, lambda: Pace(duty=0.1)
    with pytest.raises(Interrupted):
        STEP.run(run)
    target.close()
    # As that version left it, with a chunk in the middle that was in somebody's hands.
    run_sql(
        slots.url,
        "UPDATE t SET n = 0 WHERE id BETWEEN 101 AND 110",
        "DELETE FROM segue.chunk WHERE until = array['110']",
        "DROP TABLE segue.batch, segue.work, segue.labourer",
        "ALTER TABLE segue.chunk DROP COLUMN batch",
        "DROP SEQUENCE segue.chunk_number",
        "COMMENT ON SCHEMA segue IS 'Segue: lease, history and progress of migrations (support 1)'",
    )
    before = slots.chunks()
    again = fill(open_target(slots.url, "e"), "t", **FIELDS)
    assert slots.counted() == {1: 1000}
    assert slots.value("SELECT obj_description('segue'::regnamespace) LIKE '%(support 2)%'")
    assert [batch.number for batch in again.record.batches.values() if batch.after == ("100",)] != []
    assert slots.value("SELECT count(*) FROM segue.chunk WHERE batch IS NULL") == before


PLACES = [
    ("work-opened", 1),
    ("batch-offered", 1),
    ("batch-offered", 3),
    ("batch-claimed", 1),
    ("batch-claimed", 7),
    ("chunk-before-commit", 3),
    ("chunk-committed", 4),
    ("work-closing", 1),
    ("work-closed", 1),
]


@pytest.mark.parametrize("direction", [FORWARD, pytest.param(BACKWARD, marks=pytest.mark.slow)])
def test_killed_at_any_point_it_ends_in_the_same_state(slots: Slots, open_target: Open, direction: str) -> None:
    undo = {"reverse": {"set": {"n": "n - 1"}}}
    if direction == BACKWARD:
        assert slots.start(params={**undo, "pause": 0}).wait(30) == 0
        assert slots.counted() == {1: 1000}
    killed = Counter[int]()
    for number, place in enumerate(PLACES):
        # All at once of the same piece of work, each from where the one before was killed.
        process = slots.start(kill=place, direction=direction, params={**undo, "pause": 0.02}, owner=f"driver {number}")
        killed[process.wait(30)] += 1
        assert sum(slots.counted().values()) == 1000
        assert set(slots.counted()) <= {0, 1}
    assert killed[-signal.SIGKILL] >= 7
    target = open_target(slots.url, "e")
    run = Run(target, BackfillParams(name="fill", table="t", **FIELDS, **undo), direction=direction)
    STEP.run(run) if direction == FORWARD else STEP.undo(run)
    assert slots.counted() == ({1: 1000} if direction == FORWARD else {0: 1000})
    assert value(slots.url, "SELECT count(*) FROM segue.batch WHERE state <> 'done'") == 0
