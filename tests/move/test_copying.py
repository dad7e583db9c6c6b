"""The copy of a move: in ranges at one moment, each of them once, whatever becomes of the connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fix_standbys import Server
from fix_targets import Background, run_sql, until, value
from fix_wandering import LATER, TABLES, Moved, made

from segue.databases.postgresql.moving import ranges, snapshot
from segue.databases.postgresql.moving.copying import copy
from segue.errors import DriftFound

WAITING = "SELECT max(pid) FROM pg_stat_activity WHERE application_name LIKE 'segue move%' AND wait_event_type = 'Lock'"


@pytest.fixture
def moved(moving_server: Server) -> Iterator[Moved]:
    """Give a move whose target has claimed tables with their keys."""
    with made(moving_server, moving_server) as found:
        run_sql(found.pair.target.url, LATER)
        with found.pair.open(found.pair.target) as target:
            snapshot.claim(found.pair, target, names())
        yield found


def names() -> list[str]:
    return [f"public.{table}" for table in TABLES]


@contextmanager
def copying(moved: Moved, workers: int = 1) -> Iterator[Callable[[], dict[str, int]]]:
    """Give what copies, page by page, at the moment when this begins."""
    with psycopg.connect(moved.pair.source.url) as keeper:
        keeper.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = keeper.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        kept = str(row[0])
        yield lambda: copy(moved.pair, kept, names(), workers, moved.notes.append, portion=1)


@contextmanager
def held_up(moved: Moved, run: Callable[[], Any]) -> Iterator[Background]:
    """Run a copy that waits for a lock on the target until this ends."""
    with psycopg.connect(moved.pair.target.url) as lock:
        lock.execute("LOCK TABLE item")
        running = Background(run)
        until(lambda: value(moved.pair.target.url, WAITING))
        yield running
        lock.rollback()


@pytest.mark.parametrize("workers", [1, 3])
def test_ranges_have_each_row_of_their_moment_once(moved: Moved, workers: int) -> None:
    before = moved.content(moved.pair.source)
    with copying(moved, workers) as run:
        run_sql(moved.pair.source.url, "UPDATE item SET n = n + 1", "DELETE FROM line", "DELETE FROM part")
        assert run() == {"public.item": 400, "public.line": 200, "public.part": 200}
    assert moved.content(moved.pair.target) == before
    with moved.pair.open(moved.pair.target) as target:
        assert ranges.counted(moved.pair, target)["public.item"] == 400
        assert value(moved.pair.target.url, f"SELECT count(*) FROM {moved.pair.name}.range") > 6


def test_a_lost_connection_costs_its_range_alone(moved: Moved) -> None:
    with copying(moved) as run:
        with held_up(moved, run) as running:
            pid = value(moved.pair.target.url, WAITING)
            run_sql(moved.pair.target.url, f"SELECT pg_terminate_backend({pid})")
            until(lambda: value(moved.pair.target.url, WAITING) not in (None, pid))
        running.result()
    assert moved.content(moved.pair.target) == moved.content(moved.pair.source)
    assert len([note for note in moved.notes if "this range again" in note]) == 1


def test_a_table_that_is_rewritten_meanwhile_stops_the_copy(moved: Moved) -> None:
    def rewrite() -> None:
        with psycopg.connect(moved.pair.source.url, autocommit=True) as connection:
            connection.execute("VACUUM FULL item")

    blocked = "SELECT count(*) FROM pg_stat_activity WHERE query = 'VACUUM FULL item' AND wait_event_type = 'Lock'"
    with copying(moved) as run:
        with held_up(moved, run) as running:
            rewriting = Background(rewrite)
            until(lambda: value(moved.pair.source.url, blocked) == 1)
        with pytest.raises(DriftFound, match=r"public\.item was rewritten"):
            running.result()
        rewriting.result()
