"""A walk that is broken off anywhere and gone on with writes every key exactly once, in lanes or not."""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from segue.errors import OutcomeUnknown
from segue.ports import Batch, BatchLost, Chunk, ChunkTooSlow, Cut, Pace, Position, Shared, Standing
from segue.rows import labour as labours
from segue.rows import walk as walks
from segue.rows.chunks import ChunkSize, Remainder
from segue.rows.labour import Labourer
from segue.rows.walk import Walk


class Table:
    """Chunked work on keys in memory: it loses connections before and after commits, and finds chunks too slow.

    With `trouble`, labourers are taken for dead now and then: their batches are given to others while they work on.
    """

    key = ("id",)
    holder = "test"

    def __init__(self, keys: list[int], lanes: int, seed: int, trouble: float) -> None:
        self.keys = sorted(keys)
        self.lanes = lanes
        self.random = random.Random(seed)
        self.trouble = trouble
        self.chunks: list[Chunk] = []
        self.batches: dict[int, Batch] = {}
        self.written: Counter[int] = Counter()
        self.lock = threading.RLock()
        self.going = False
        self.board = Board(self)

    def estimate(self) -> int:
        return len(self.keys)

    def progress(self, direction: str | None = None, *, loose: bool = False) -> list[Chunk]:
        return _in_order(chunk for chunk in self.chunks if not loose or chunk.batch is None)

    def between(self, after: tuple[str, ...] | None, until: tuple[str, ...] | None) -> list[int]:
        begin = 0 if after is None else bisect_right(self.keys, int(after[0]))
        end = len(self.keys) if until is None else bisect_right(self.keys, int(until[0]))
        return self.keys[begin:end]

    def cut(self, after: tuple[str, ...] | None, size: int, until: tuple[str, ...] | None = None) -> Cut | None:
        found = self.between(after, until)[:size]
        if not found:
            return None
        shares = Counter(key * 7919 % self.lanes for key in found)
        return Cut(
            after,
            (str(found[-1]),),
            len(found),
            last=len(found) < size,
            shares=tuple(shares[lane] for lane in range(self.lanes)),
        )

    @contextmanager
    def open(self, owner: str) -> Iterator[Writer]:
        yield Writer(self, owner)


class Board:
    """See `segue.ports.Board`."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def open(self, pace: Pace) -> Position:
        with self.table.lock:
            self.close(ended=False)
            self.table.going = True
            batches = self.table.batches
            return Position(
                [batch for batch in batches.values() if batch.state != "done"],
                batches[max(batches)] if batches else None,
            )

    def offer(self, batches: Sequence[Batch]) -> None:
        with self.table.lock:
            for batch in batches:
                assert batch.number not in self.table.batches, "a batch's number is taken twice"
                self.table.batches[batch.number] = batch

    def look(self, numbers: Sequence[int]) -> list[Batch]:
        with self.table.lock:
            return [self.table.batches[number] for number in numbers if number in self.table.batches]

    def publish(self, pace: Pace, lowest: int) -> None:
        assert all(batch.state == "done" for batch in self.table.batches.values() if batch.number < lowest)

    def labourers(self) -> list[str]:
        return []

    def known(self) -> list[Batch]:
        return list(self.table.batches.values())

    def close(self, *, ended: bool) -> None:
        with self.table.lock:
            self.table.going = False
            for batch in self.table.batches.values():
                if batch.state != "done":
                    assert not ended, "the work is called done, and a batch is not"
                    self.table.batches[batch.number] = replace(batch, state="pending", token=batch.token + 1)


class Writer:
    """See `segue.ports.ChunkWriter`."""

    def __init__(self, table: Table, owner: str) -> None:
        self.table = table
        self.owner = owner

    @property
    def standing(self) -> Standing:
        return Standing(going=self.table.going)

    def beat(self) -> Standing:
        return self.standing

    def claim(self, most: int) -> list[Batch]:
        found: list[Batch] = []
        with self.table.lock:
            for number, batch in sorted(self.table.batches.items()):
                taken = batch.state == "claimed" and self.table.random.random() < self.table.trouble
                if len(found) < most and self.table.going and (batch.state == "pending" or taken):
                    claimed = replace(batch, state="claimed", owner=self.owner, token=batch.token + 1)
                    self.table.batches[number] = claimed
                    found.append(claimed)
        return found

    def done(self, batch: Batch) -> list[Chunk]:
        return _in_order(chunk for chunk in self.table.chunks if chunk.batch == batch.number)

    def cut(self, after: tuple[str, ...] | None, size: int, until: tuple[str, ...] | None) -> Cut | None:
        return self.table.cut(after, size, until)

    def write(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        table = self.table
        if table.trouble:
            time.sleep(0.0001)  # lets others in, who may take the batch away
        with table.lock:
            chance = table.random.random()
            if chance < table.trouble:
                raise ChunkTooSlow("canceling statement due to lock timeout")
            if chance < table.trouble * 1.3:
                raise OutcomeUnknown("lost before the commit")
            now = table.batches[batch.number]
            if (now.state, now.token, now.owner) != ("claimed", batch.token, self.owner):
                raise BatchLost
            keys = [
                key
                for key in table.between(cut.after, cut.until)
                if cut.lanes == 1 or key * 7919 % table.lanes == cut.lane
            ]
            number = len(table.chunks) + 1
            chunk = Chunk(
                number, cut.after, cut.until, len(keys), len(keys), 1, self.owner, cut.lane, cut.lanes, batch.number
            )
            table.written.update(keys)
            table.chunks.append(chunk)
            table.batches[batch.number] = replace(
                now, state="done" if last else "claimed", written=now.written + len(keys), fits=fits
            )
            if chance > 1 - table.trouble * 0.3:
                raise OutcomeUnknown("lost after the commit")

    def write_all(self, batches: Sequence[Batch]) -> bool:
        with self.table.lock:
            if self.table.random.random() < 2 * self.table.trouble:
                return False
            for batch in batches:
                now = self.table.batches[batch.number]
                if (now.state, now.token, now.owner) != ("claimed", batch.token, self.owner):
                    return False
            trouble, self.table.trouble = self.table.trouble, 0
            for batch in batches:
                self.write(batch, Cut(batch.after, batch.until, batch.keys, last=False), last=True, fits=None)
            self.table.trouble = trouble
            return True

    def give_back(self, batches: Sequence[Batch]) -> None:
        with self.table.lock:
            for batch in batches:
                now = self.table.batches[batch.number]
                if (now.state, now.token) == ("claimed", batch.token):
                    self.table.batches[batch.number] = replace(now, state="pending")

    def fail(self, batch: Batch, error: Mapping[str, Any]) -> None:
        raise AssertionError(error)


def _in_order(chunks: Iterable[Chunk]) -> list[Chunk]:
    return sorted(chunks, key=lambda chunk: (chunk.after is not None, _number(chunk.after), chunk.lane))


def _number(key: tuple[str, ...] | None) -> int:
    return int(key[0]) if key else 0


def walk(work: Table, left: Remainder, size: int, workers: int) -> None:
    Walk(
        Shared(work, 0.3, max(size, 40)),
        left,
        size=size,
        workers=workers,
        patience=60,
        boundary=lambda: None,
        pace=Pace,
        slots=lambda wanted: wanted,
        note=lambda batches: None,
    ).go()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lanes for a few keys too, and no pause before a chunk is tried again, or the batches are looked at.
    monkeypatch.setattr(walks, "KEYS_IN_A_LANE", 2)
    monkeypatch.setattr(walks, "RUSH_SECONDS", 0)
    monkeypatch.setattr(labours, "NAP_SECONDS", 0.01)
    monkeypatch.setattr(Labourer, "_give_way", lambda self, cut, tries, error: True)


TABLES = {
    "keys": st.sets(st.integers(-50, 50) | st.integers(-(2**62), 2**62), max_size=80),
    "lanes": st.sampled_from([1, 4, 8]),
    "seed": st.integers(0, 2**32),
    "trouble": st.sampled_from([0.0, 0.05, 0.3]),
    "size": st.integers(1, 25),
    "workers": st.integers(1, 4),
}


def _until_done(work: Table, left_of: object, size: int, workers: int) -> None:
    for attempt in range(200):
        if attempt == 190:
            work.trouble = 0
        try:
            walk(work, left_of(), size, workers)  # type: ignore[operator]
        except OutcomeUnknown:
            continue
        return
    raise AssertionError("it does not come to an end")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**TABLES)
def test_every_key_is_written_once(
    keys: set[int], lanes: int, seed: int, trouble: float, size: int, workers: int
) -> None:
    work = Table(sorted(keys), lanes, seed, trouble)
    _until_done(work, lambda: Remainder.of(work.progress(loose=True)), size, workers)
    assert work.written == Counter(keys)
    left = Remainder.of(work.progress())
    assert left.gaps == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.integers(1, 12), **TABLES)
def test_an_undo_takes_back_what_was_written_and_nothing_else(
    keys: set[int], lanes: int, seed: int, trouble: float, size: int, workers: int, stop: int
) -> None:
    work = Table(sorted(keys), lanes, seed, 0.2)
    for _ in range(stop):
        try:
            walk(work, Remainder.of(work.progress(loose=True)), size, workers)
        except OutcomeUnknown:
            continue
    undo = Table(sorted(keys), lanes, seed + 1, trouble)
    _until_done(undo, lambda: Remainder.within(work.progress(), undo.progress(loose=True)), size, workers)
    assert undo.written == work.written


@settings(max_examples=300, deadline=None)
@given(
    bounds=st.sets(st.integers(1, 60), min_size=1, max_size=20),
    lost=st.sets(st.integers(0, 20)),
    numbers=st.randoms(use_true_random=False),
)
def test_any_pattern_of_done_chunks_leaves_exactly_the_rest(
    bounds: set[int], lost: set[int], numbers: random.Random
) -> None:
    ends = sorted(bounds)
    ranges = list(zip([None, *ends], ends, strict=False))
    done = [pair for place, pair in enumerate(ranges) if place not in lost]
    taken = numbers.sample(range(1, 100), len(done))  # gaps are taken up later, with later numbers
    chunks = [
        Chunk(number, _key(after), _key(until), 1, 1, 1) for number, (after, until) in zip(taken, done, strict=True)
    ]
    left = Remainder.of(chunks)
    covered = Counter[int]()
    for after, until in done:
        covered.update(range((after or 0) + 1, (until or 0) + 1))
    for gap in left.gaps:
        covered.update(range(_number(gap.after) + 1, _number(gap.until) + 1))
    assert covered == Counter(range(1, _number(left.after) + 1))
    assert left.number > max(taken, default=0)
    assert bisect_left(ends, _number(left.after)) <= len(ends)


def _key(number: int | None) -> tuple[str, ...] | None:
    return None if number is None else (str(number),)


@given(st.lists(st.tuples(st.integers(1, 50_000), st.floats(0, 2)), max_size=50))
def test_a_size_stays_within_its_bounds_and_grows_slowly(chunks: list[tuple[int, float]]) -> None:
    size = ChunkSize(1000, 0.3, 50_000)
    for keys, seconds in chunks:
        before = size.size
        size.took(min(keys, before), seconds)
        assert 1 <= size.size <= min(50_000, before * 1.5 + 1)
        if seconds > 1:
            size.too_slow(keys)
            assert 1 <= size.size <= max(1, before)


def test_batches_that_are_gone_are_no_end() -> None:
    work = Table(list(range(100)), 1, 0, 0)
    work.board.offer = lambda batches: None  # type: ignore[method-assign]  # as a target that was set back
    with pytest.raises(OutcomeUnknown, match="does not show"):
        walk(work, Remainder(), 10, 1)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.sets(st.integers(0, 30)), **TABLES)
def test_what_an_older_version_left_is_gone_on_with(
    lost: set[int], keys: set[int], lanes: int, seed: int, trouble: float, size: int, workers: int
) -> None:
    work = Table(sorted(keys), lanes, seed, 0)
    walk(work, Remainder(), size, 1)
    # As that version left it: chunks of no batch, and of those some that were never written.
    kept = [replace(chunk, batch=None) for place, chunk in enumerate(work.chunks) if place not in lost]
    again = Table(sorted(keys), lanes, seed, trouble)
    for chunk in kept:
        again.chunks.append(chunk)
        again.written.update(
            key
            for key in again.between(chunk.after, chunk.until)
            if chunk.lanes == 1 or key * 7919 % lanes == chunk.lane
        )
    # It wrote lane after lane, so that no lane was ahead of the first.
    fronts = [
        max((_number(c.until) for c in kept if c.lanes == 1 or c.lane == n), default=-(2**63)) for n in range(lanes)
    ]
    assume(all(front <= fronts[0] for front in fronts))
    _until_done(again, lambda: Remainder.of(again.progress(loose=True)), size, workers)
    assert again.written == Counter(keys)
