"""A walk that is broken off anywhere and gone on with writes every key exactly once, in lanes or not."""

from __future__ import annotations

import random
import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.errors import OutcomeUnknown
from segue.ports import Chunk, ChunkTooSlow, Cut
from segue.rows import walk as walks
from segue.rows.chunks import ChunkSize, Remainder
from segue.rows.walk import Walk


class Table:
    """Chunked work on keys in memory: it loses connections before and after commits, and finds chunks too slow."""

    key = ("id",)

    def __init__(self, keys: list[int], lanes: int, seed: int, trouble: float) -> None:
        self.keys = sorted(keys)
        self.lanes = lanes
        self.random = random.Random(seed)
        self.trouble = trouble
        self.done: list[Chunk] = []
        self.written: Counter[int] = Counter()
        self._lock = threading.Lock()

    def estimate(self) -> int:
        return len(self.keys)

    def progress(self, direction: str | None = None) -> list[Chunk]:
        return sorted(self.done, key=lambda chunk: (chunk.after is not None, _number(chunk.after), chunk.lane))

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
    def open(self) -> Iterator[Table]:
        yield self

    def write(self, number: int, cut: Cut, worker: str) -> Chunk:
        with self._lock:
            chance = self.random.random()
            if chance < self.trouble:
                raise ChunkTooSlow("canceling statement due to lock timeout")
            if chance < self.trouble * 1.3:
                raise OutcomeUnknown("lost before the commit")
            keys = [
                key
                for key in self.between(cut.after, cut.until)
                if cut.lanes == 1 or key * 7919 % self.lanes == cut.lane
            ]
            assert number not in {chunk.number for chunk in self.done}, "a chunk's number is taken twice"
            chunk = Chunk(number, cut.after, cut.until, len(keys), len(keys), 1, worker, cut.lane, cut.lanes)
            self.written.update(keys)
            self.done.append(chunk)
            if chance > 1 - self.trouble * 0.3:
                raise OutcomeUnknown("lost after the commit")
            return chunk


def _number(key: tuple[str, ...] | None) -> int:
    return int(key[0]) if key else 0


def walk(work: Table, left: Remainder, size: int, workers: int) -> None:
    Walk(
        work,
        left,
        size=ChunkSize(size, 0.3, max(size, 40)),
        workers=workers,
        pause=0,
        patience=60,
        boundary=lambda: None,
        report=lambda chunk: None,
    ).go()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lanes for a few keys too, and no pause before a chunk is tried again.
    monkeypatch.setattr(walks, "KEYS_IN_A_LANE", 2)
    monkeypatch.setattr(Walk, "_give_way", lambda self, cut, tries, error: self._size.too_slow(cut.meant or 1))


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
    _until_done(work, lambda: Remainder.of(work.progress()), size, workers)
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
            walk(work, Remainder.of(work.progress()), size, workers)
        except OutcomeUnknown:
            continue
    undo = Table(sorted(keys), lanes, seed + 1, trouble)
    _until_done(undo, lambda: Remainder.within(work.progress(), undo.progress()), size, workers)
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
