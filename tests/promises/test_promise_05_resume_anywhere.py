"""Promise 5: whatever happens to a connection, looking at the target tells what took place; nothing is done twice."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fix_targets import Background, Open, apply, fill, rows, run_sql, terminate, until, value
from psycopg import conninfo

from segue.engine import journal
from segue.errors import OutcomeUnknown, TargetUnreachable
from segue.ports import Observed


class Proxy:
    """Forwards to a server, and can cut the line when a word goes by: the server gets it, its answer gets lost."""

    def __init__(self, url: str) -> None:
        parts = conninfo.conninfo_to_dict(url)
        self._server = str(Path(str(parts["host"])) / f".s.PGSQL.{parts.get('port', 5432)}")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = conninfo.make_conninfo(
            url, host="127.0.0.1", port=self._listener.getsockname()[1], sslmode="disable"
        )
        self.cut_on: bytes | None = None
        self.skip = 0
        self.cuts = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._sockets += [client, server]
                threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, towards_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if towards_server and self.cut_on is not None and self.cut_on in data and not self._let_by():
                    # Only the answer is lost: the server has the whole message.
                    self.cuts += 1
                    source.shutdown(socket.SHUT_RDWR)
                    source.close()
                    sink.sendall(data)
                    return
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _let_by(self) -> bool:
        self.skip -= 1
        if self.skip >= 0:
            return True
        self.cut_on = None
        return False

    def close(self) -> None:
        for item in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                item.close()


@pytest.fixture
def proxy(any_database: str) -> Iterator[Proxy]:
    """Give a line to an empty database that can be cut."""
    line = Proxy(any_database)
    yield line
    line.close()


def test_a_commit_whose_answer_was_lost_is_looked_up(any_database: str, proxy: Proxy, open_target: Open) -> None:
    run_sql(any_database, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (0)")
    target = open_target(proxy.url)
    proxy.cut_on = b"COMMIT"
    with pytest.raises(OutcomeUnknown):
        apply(target, "UPDATE t SET n = n + 1")
    assert proxy.cuts == 1
    target.recover(10)
    apply(target, "UPDATE t SET n = n + 1")
    assert rows(any_database, "SELECT n FROM t") == [(1,)]
    assert rows(any_database, "SELECT state FROM segue.history") == [("done",)]


def test_a_statement_whose_answer_was_lost_took_no_effect(any_database: str, proxy: Proxy, open_target: Open) -> None:
    run_sql(any_database, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (0)")
    target = open_target(proxy.url)
    proxy.cut_on = b"UPDATE t"
    with pytest.raises(TargetUnreachable):
        apply(target, "UPDATE t SET n = n + 1")
    target.recover(10)
    assert target.parts(target.lease.execution, "step", "forward") == {}
    apply(target, "UPDATE t SET n = n + 1")
    assert rows(any_database, "SELECT n FROM t") == [(1,)]


@pytest.mark.parametrize(
    "command",
    [
        "DO $$ BEGIN UPDATE t SET n = n + 1; PERFORM pg_sleep(5); END $$",
        "LOCK TABLE t IN ACCESS EXCLUSIVE MODE; UPDATE t SET n = n + (SELECT count(*) FROM pg_sleep(5))",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_session_that_is_ended_inside_a_statement_is_no_failed_step(
    any_database: str, open_target: Open, command: str, whole: bool
) -> None:
    run_sql(any_database, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (0)")
    target = open_target(any_database)
    running = Background(lambda: apply(target, command, transaction=True))
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name LIKE 'segue:%'"
    until(lambda: value(any_database, asleep))
    terminate(any_database, "segue:%" if whole else "segue:%:1")
    with pytest.raises(TargetUnreachable):
        running.result()
    target.recover(10)
    apply(target, command.replace("pg_sleep(5)", "pg_sleep(0)"), transaction=True)
    assert rows(any_database, "SELECT n FROM t") == [(1,)]


@pytest.mark.parametrize("which", [1, 3])
def test_a_chunk_whose_commit_was_not_answered_is_not_written_twice(
    any_database: str, proxy: Proxy, open_target: Open, which: int
) -> None:
    run_sql(
        any_database,
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)",
        "INSERT INTO t SELECT generate_series(1, 95)",
    )
    target = open_target(proxy.url)
    # The first transaction records the last key; the others are chunks.
    proxy.skip = which
    proxy.cut_on = b"COMMIT"
    step = {"set": {"n": "n + 1"}, "batch": {"size": 10, "max": 10}}
    with pytest.raises(TargetUnreachable):
        fill(target, "t", **step)
    assert proxy.cuts == 1
    target.recover(10)
    fill(target, "t", **step)
    assert rows(any_database, "SELECT n, count(*) FROM t GROUP BY n") == [(1, 95)]


POINTS = [
    "effect-before-commit",
    "effect-committed",
    "chunk-before-commit",
    "chunk-committed",
    "mark-before-commit",
    "mark-committed",
    "effect-begun",
    "effect-ran",
]


@pytest.mark.parametrize("occurrence", [1, 2])
@pytest.mark.parametrize("point", POINTS)
def test_sessions_that_end_at_a_journal_point_lose_and_double_nothing(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch, point: str, occurrence: int
) -> None:
    run_sql(
        database, "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)", "INSERT INTO t SELECT generate_series(1, 35)"
    )
    target = open_target(database)
    passed = 0

    def end(name: str) -> None:
        nonlocal passed
        passed += name == point
        if name == point and passed == occurrence:
            terminate(database)

    def work() -> None:
        apply(target, "ALTER TABLE t ADD COLUMN m int; UPDATE t SET n = n + 1", step="one", transaction=True)
        apply(target, "UPDATE t SET n = n + 1; UPDATE t SET n = n + 1", step="two")
        fill(target, "t", "three", set={"n": "n + 1"}, batch={"size": 10, "max": 10}, workers=2)
        apply(target, "CREATE INDEX CONCURRENTLY t_n ON t (n); CREATE INDEX CONCURRENTLY t_m ON t (m)", step="four")
        fill(target, "t", "five", set={"n": "n + 1"}, batch={"size": 10, "max": 10})

    monkeypatch.setattr(journal, "point", end)
    losses = _work_until_done(work, lambda: target.recover(10))
    assert losses == 1
    assert rows(database, "SELECT n, count(*) FROM t GROUP BY n") == [(5, 35)]
    assert value(database, "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid") == 3
    assert value(database, "SELECT count(*) FROM segue.history WHERE state <> 'done'") == 0


def _work_until_done(work: Callable[[], Any], recover: Callable[[], Any]) -> int:
    for lost in range(5):
        try:
            work()
        except TargetUnreachable:
            recover()
        else:
            return lost
    raise AssertionError("it does not come to an end")


def test_sessions_that_end_while_the_target_is_reached_again_do_no_harm(database: str, open_target: Open) -> None:
    target = open_target(database)
    ending = threading.Event()

    def end() -> None:
        while not ending.wait(0.03):
            terminate(database)

    storm = threading.Thread(target=end)
    terminate(database)
    storm.start()
    threading.Timer(1.0, ending.set).start()
    target.recover(20)
    ending.set()
    storm.join()
    _work_until_done(lambda: apply(target, "CREATE TABLE t (id int)"), lambda: target.recover(20))
    assert value(database, "SELECT to_regclass('t') IS NOT NULL")


def test_an_effect_is_the_executions_own(database: str, open_target: Open) -> None:
    first = open_target(database, "first")
    apply(first, "CREATE TABLE t (n int)")
    first.close()
    second = open_target(database, "second")
    assert second.parts("second", "step", "forward") == {}
    assert second.parts("first", "step", "forward") == {0: Observed.DONE}


def test_a_server_that_crashes_and_comes_back_is_reached_again(home: Path, open_target: Open) -> None:
    from segue.embedded import Cluster

    cluster = Cluster(home / "pg", options={"fsync": "off"})
    with cluster.use():
        url = cluster.url()
        run_sql(
            url, "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)", "INSERT INTO t SELECT generate_series(1, 200)"
        )
        target = open_target(url)
        run = _crash_while(
            cluster, lambda: fill(target, "t", set={"n": "n + 1"}, batch={"size": 10, "max": 10}, pause=0.02)
        )
        assert run
        target.recover(30)
        fill(target, "t", set={"n": "n + 1"}, batch={"size": 50})
        assert rows(url, "SELECT n, count(*) FROM t GROUP BY n") == [(1, 200)]
        target.close()


def _crash_while(cluster: Any, work: Callable[[], Any]) -> bool:
    crash = threading.Timer(0.15, cluster.kill)
    crash.start()
    try:
        work()
    except TargetUnreachable:
        crash.join()
        cluster.start()
        return True
    return False
