"""Nudges reach workers, do not pile up, survive what happens to the store, and are never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fix_targets import Background, run_sql, terminate, until, value

from segue.engine.queue import Queue, serve
from segue.errors import ConfigurationError
from segue.model.vocabulary import WorkQueue
from segue.store import Store
from segue.store.tables.workers import WorkerRow

JOBS = "select count(*) from segue_queue.procrastinate_jobs"


class Taker:
    """Takes nudges in a thread; `heard` holds what came, `act` is done for each."""

    def __init__(self, url: str, act: Callable[[WorkQueue], object] = lambda queue: None) -> None:
        self.heard: list[tuple[WorkQueue, dict[str, Any]]] = []
        self._act = act
        self._url = url
        self._leaving: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.thread = Background(lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        leaving = asyncio.Event()
        self._leaving = asyncio.get_running_loop(), leaving

        async def work(queue: WorkQueue, words: Mapping[str, Any]) -> None:
            self.heard.append((queue, dict(words)))
            await asyncio.to_thread(self._act, queue)

        concurrency = {WorkQueue.EXECUTIONS: 2, WorkQueue.SLOTS: 2}
        await serve(self._url, concurrency=concurrency, work=work, prepare=Queue(self._url).prepare, leaving=leaving)

    def stop(self) -> None:
        loop, leaving = until(lambda: self._leaving)
        loop.call_soon_threadsafe(leaving.set)
        self.thread.result(20)


@contextmanager
def taking(url: str, act: Callable[[WorkQueue], object] = lambda queue: None) -> Iterator[Taker]:
    taker = Taker(url, act)
    try:
        yield taker
    finally:
        taker.stop()


def test_nudge_reaches_a_worker_and_leaves_nothing_behind(store: Store) -> None:
    queue = Queue(store.url)
    with taking(store.url) as taker:
        queue.nudge_execution("e1")
        queue.nudge_slots("e1", "fill", "forward", 2)
        until(lambda: len(taker.heard) == 3)
        until(lambda: value(store.url, JOBS) == 0)
    assert (WorkQueue.EXECUTIONS, {"execution": "e1"}) in taker.heard
    slot = {"execution": "e1", "step": "fill", "direction": "forward", "number": 1}
    assert (WorkQueue.SLOTS, slot) in taker.heard
    assert value(store.url, "select count(*) from segue_queue.procrastinate_workers") == 0
    assert value(store.url, "select count(*) from segue_queue.procrastinate_events") == 0


def test_nudges_do_not_pile_up_and_one_at_work_keeps_none_out(store: Store) -> None:
    queue = Queue(store.url)
    for _ in range(3):
        queue.nudge_executions(["e1", "e2", "e1"])
    assert value(store.url, JOBS) == 2
    going = threading.Event()
    try:
        with taking(store.url, lambda queue: queue is WorkQueue.SLOTS or going.wait(20)) as taker:
            until(lambda: len(taker.heard) == 2)
            queue.nudge_execution("e1")
            queue.nudge_execution("e1")
            assert value(store.url, JOBS + " where status = 'todo'") == 1
            going.set()
            until(lambda: len(taker.heard) == 3)
    finally:
        going.set()


def test_nudge_for_later_keeps_none_for_now_out(store: Store) -> None:
    queue = Queue(store.url)
    queue.nudge_execution("e1", delay=3600)
    with taking(store.url) as taker:
        queue.nudge_execution("e1")
        until(lambda: taker.heard)
    assert value(store.url, JOBS + " where scheduled_at > now() + interval '50 minutes'") == 1


def test_nudge_given_back_comes_again(store: Store) -> None:
    queue = Queue(store.url)
    with taking(store.url) as taker:
        queue.again(WorkQueue.SLOTS, {"execution": "e1", "step": "fill"}, 0.1)
        until(lambda: taker.heard == [(WorkQueue.SLOTS, {"execution": "e1", "step": "fill"})])


def test_failing_work_leaves_no_nudge_behind_and_the_next_is_taken(store: Store) -> None:
    def fail(queue: WorkQueue) -> None:
        raise RuntimeError("boom")

    queue = Queue(store.url)
    with taking(store.url, fail) as taker:
        for number in range(3):
            queue.nudge_execution(f"e{number}")
        until(lambda: len(taker.heard) == 3)
        until(lambda: value(store.url, JOBS) == 0)


def test_busy_executions_keep_no_slot_waiting(store: Store) -> None:
    queue, going = Queue(store.url), threading.Event()
    try:
        with taking(store.url, lambda queue: queue is WorkQueue.SLOTS or going.wait(20)) as taker:
            queue.nudge_executions([f"e{number}" for number in range(5)])
            until(lambda: len(taker.heard) == 2)
            queue.nudge_slots("e1", "fill", "forward", 1)
            until(lambda: taker.heard[-1][0] is WorkQueue.SLOTS)
            assert len(taker.heard) == 3
            going.set()
    finally:
        going.set()


def test_worker_whose_sessions_are_ended_comes_back_by_itself(store: Store) -> None:
    queue, going = Queue(store.url), threading.Event()
    try:
        with taking(store.url, lambda queue: queue is WorkQueue.SLOTS or going.wait(20)) as taker:
            queue.nudge_execution("long")
            until(lambda: taker.heard)
            for number in range(3):
                until(lambda: terminate(store.url, "segue queue") > 0)
                # While the long one is still at work.
                queue.nudge_slots(f"e{number}", "fill", "forward", 1)
                until(lambda number=number: len(taker.heard) == number + 2)
            going.set()
            until(lambda: value(store.url, JOBS) == 0)
    finally:
        going.set()


def test_nudge_that_fails_is_logged_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "segue.engine.queue"):
        Queue("postgresql://127.0.0.1:1/nowhere").nudge_execution("e1")
    assert "they find it by themselves" in caplog.text


def test_many_make_the_tables_at_once(store: Store) -> None:
    makers = [Background(Queue(store.url).prepare) for _ in range(6)]
    for maker in makers:
        maker.result()
    assert value(store.url, JOBS) == 0


def test_dropped_tables_are_made_again(store: Store) -> None:
    with Queue(store.url) as queue:
        queue.nudge_execution("e1")
        run_sql(store.url, "drop schema segue_queue cascade")
        queue.nudge_execution("e2")
    assert value(store.url, JOBS) == 1


def worker(store: Store, **columns: Any) -> str:
    with store.session() as session:
        row = WorkerRow(name="old", host="elsewhere", pid=1, version="0.0.9", **columns)
        session.add(row)
        session.flush()
        return row.id


def test_tables_of_another_version_are_made_anew_once_no_worker_uses_them(store: Store) -> None:
    Queue(store.url).nudge_execution("e1")
    run_sql(store.url, "comment on schema segue_queue is 'Segue''s nudges for workers (another version)'")
    mine, other = worker(store), worker(store)
    with pytest.raises(ConfigurationError, match="another version") as caught:
        Queue(store.url).prepare(worker=mine)
    assert caught.value.details == ["old on elsewhere, segue 0.0.9"]
    run_sql(
        store.url,
        f"update segue_store.workers set heartbeat_at = now() - interval '1 minute' where id = '{other}'",
    )
    Queue(store.url).prepare(worker=mine)
    assert value(store.url, JOBS) == 0


def test_somebody_elses_schema_of_that_name_is_left_alone(store: Store) -> None:
    run_sql(store.url, "create schema segue_queue", "create table segue_queue.precious ()")
    with pytest.raises(ConfigurationError, match="not Segue's"):
        Queue(store.url).prepare()
    assert value(store.url, "select to_regclass('segue_queue.precious') is not null")


def test_pruning_removes_what_the_dead_held_and_what_nobody_will_take(store: Store) -> None:
    queue = Queue(store.url)
    queue.nudge_executions(["held", "over", "new"])
    with psycopg.connect(store.url, autocommit=True) as connection:
        connection.execute("set search_path = segue_queue")
        connection.execute("insert into procrastinate_workers (last_heartbeat) values (now() - interval '61 s')")
        connection.execute("select procrastinate_fetch_job_v2(null, (select id from procrastinate_workers))")
        connection.execute(
            "update procrastinate_events set at = now() - interval '11 minutes' where job_id = "
            "(select id from procrastinate_jobs where args ->> 'execution' = 'over')"
        )
    queue.prune()
    assert value(store.url, "select string_agg(args ->> 'execution', ' ') from segue_queue.procrastinate_jobs") == "new"
