"""The copy of a move: in ranges at one moment, each of them once, whatever becomes of the connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fix_process import Segue
from fix_standbys import Server
from fix_targets import Background, rows, run_sql, until, value
from fix_wandering import LATER, TABLES, Moved, made

from segue.databases.postgresql.moving import copying as copying_module
from segue.databases.postgresql.moving import piping, ranges, snapshot
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


@pytest.mark.parametrize(("workers", "piped"), [(1, 0), (3, 0), (3, 1 << 30)])
def test_ranges_have_each_row_of_their_moment_once(
    moved: Moved, workers: int, piped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying_module, "PIPED", piped)
    before = moved.content(moved.pair.source)
    with copying(moved, workers) as run:
        run_sql(moved.pair.source.url, "UPDATE item SET n = n + 1", "DELETE FROM line", "DELETE FROM part")
        assert run() == {"public.item": 400, "public.line": 200, "public.part": 200}
    assert moved.content(moved.pair.target) == before
    with moved.pair.open(moved.pair.target) as target:
        assert ranges.counted(moved.pair, target)["public.item"] == 400
        assert value(moved.pair.target.url, f"SELECT count(*) FROM {moved.pair.name}.range") > 6


@pytest.mark.parametrize("piped", [0, 1 << 30])
def test_a_lost_connection_costs_its_range_alone(moved: Moved, piped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying_module, "PIPED", piped)
    with copying(moved) as run:
        with held_up(moved, run) as running:
            pid = value(moved.pair.target.url, WAITING)
            run_sql(moved.pair.target.url, f"SELECT pg_terminate_backend({pid})")
            until(lambda: value(moved.pair.target.url, WAITING) not in (None, pid))
        running.result()
    assert moved.content(moved.pair.target) == moved.content(moved.pair.source)
    assert len([note for note in moved.notes if "this range again" in note]) == 1


def test_a_reader_that_dies_costs_its_range_alone(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying_module, "PIPED", 0)
    pass_on, deaths = piping.Pipe.pass_on, [True]

    def die(self: Any, copy_out: str, *where: Any) -> int:
        if deaths and deaths.pop():
            copy_out = "select pg_terminate_backend(pg_backend_pid())"
        return pass_on(self, copy_out, *where)

    monkeypatch.setattr(piping.Pipe, "pass_on", die)
    with copying(moved) as run:
        run()
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


def test_a_copy_of_one_moment_leaves_nothing_but_the_rows(moved: Moved, segue: Segue) -> None:
    source, target = moved.pair.source, moved.pair.target
    run_sql(target.url, f"DROP TABLE line, item, part; DROP SCHEMA {moved.pair.name} CASCADE")
    run_sql(source.url, "ALTER TABLE part ALTER n SET NOT NULL", "ALTER TABLE line DROP CONSTRAINT line_pkey")
    for name, side in (("old", source), ("new", target)):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": side.url}).expect(0)
    words = [word for table in TABLES for word in ("-t", table)]
    segue("move", "create", "shop", "--from", "old", "--to", "new", "--schema", "--once", *words).expect(0)
    done = segue("move", "start", "shop", "--json").expect(0).json
    assert done["tables"] == {"public.item": 400, "public.line": 200, "public.part": 200}
    assert moved.content(source) == moved.content(target)
    assert moved.remains() == []
    drawn = "SELECT nextval('item_id_seq'), nextval('part_id_seq')"
    assert rows(source.url, drawn) == rows(target.url, drawn) == [(401, 201)]
    segue("move", "switch", "shop").expect(2)


def test_a_table_of_one_range_is_written_frozen(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying_module, "FREEZE", 1)
    with copying(moved) as run:
        run()
    run_sql(moved.pair.target.url, "ANALYZE item, line, part")
    query = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relallvisible > 0 AND relname ~ '^(item|line|part)'"
    assert {row[0] for row in rows(moved.pair.target.url, query)} == {"part_a", "part_b"}


def test_ranges_that_a_crashed_server_has_lost_are_copied_again(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = ranges.settle
    crashes = ["UPDATE {}.range SET rows = NULL WHERE part = 'public.part_a'"]

    def crash(pair: Any, target: Any) -> set[int]:
        if crashes:
            target.execute(crashes.pop().format(pair.name).encode())
            target.execute("TRUNCATE part_a")
        return settle(pair, target)

    monkeypatch.setattr(ranges, "settle", crash)
    with copying(moved) as run:
        run()
    assert moved.content(moved.pair.target) == moved.content(moved.pair.source)
