"""Tries for locks that somebody keeps leave the application nearly all of its time, also from call to call."""

from __future__ import annotations

import threading

import pytest
from fix_targets import Open, run_sql, session

from segue import clock
from segue.databases.postgresql import locking, parse
from segue.errors import LockNotGranted
from segue.ports import Patience


def test_tries_against_an_idle_session_block_the_application_for_a_small_share_of_the_time_over_many_calls(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    target = open_target(database)
    statements = parse.statements("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    rests: list[float] = []
    sleep = clock.sleep

    def rested(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            rests.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(clock, "sleep", rested)

    def attempt(piece: float) -> None:
        with target._work.transaction():
            locking.take_locks(target._work, statements, piece)

    def call(locks: float) -> None:
        with pytest.raises(LockNotGranted):
            locking.lock_in_slices(
                target._work, target._look, statements, Patience(locks, 1), target.waits, attempt, lambda _: None
            )

    with session(database, "SELECT FROM t"):
        call(0.8)
        rests.clear()
        before = target.waits.seconds
        for _ in range(4):
            call(1.0)
    blocked = target.waits.seconds - before
    assert target.waits.slices > 3
    assert blocked < 0.15 * (sum(rests) + blocked)
    locking.lock_in_slices(
        target._work, target._look, statements, Patience(5, 1), target.waits, attempt, lambda _: None
    )
    assert target.waits.pause == 0
