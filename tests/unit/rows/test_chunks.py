"""What is left after an interruption, and how large the next chunk is."""

from __future__ import annotations

from segue.ports import Chunk, Cut
from segue.rows.chunks import GROWTH, ChunkSize, Remainder


def done(number: int, after: str | None, until: str, lane: int = 0, lanes: int = 1) -> Chunk:
    return Chunk(number, (after,) if after else None, (until,), 10, 10, 1, "", lane, lanes)


def left(after: str | None, until: str, lane: int = 0, lanes: int = 1) -> Cut:
    return Cut((after,) if after else None, (until,), 0, last=False, lane=lane, lanes=lanes)


def test_nothing_done_leaves_everything() -> None:
    assert Remainder.of([]) == Remainder(gaps=[], after=None, number=1)


def test_range_of_a_dead_worker_is_a_gap() -> None:
    chunks = [done(1, None, "b"), done(3, "c", "d")]
    assert Remainder.of(chunks) == Remainder(gaps=[left("b", "c")], after=("d",), number=4)


def test_range_before_every_other_is_a_gap_too() -> None:
    assert Remainder.of([done(2, "b", "c")]).gaps == [left(None, "b")]


def test_lane_that_is_behind_is_a_gap_up_to_the_first() -> None:
    chunks = [done(1, None, "b", 0, 2), done(2, None, "b", 1, 2), done(3, "b", "c", 0, 2)]
    assert Remainder.of(chunks) == Remainder(gaps=[left("b", "c", 1, 2)], after=("c",), number=4)


def test_piece_of_a_lane_leaves_the_rest_of_it_to_the_others() -> None:
    # The first lane did not fit at once, and came as far as b.
    assert Remainder.of([done(1, None, "b", 0, 2)]) == Remainder(gaps=[left(None, "b", 1, 2)], after=("b",), number=2)


def test_small_range_without_lanes_counts_for_all_of_them() -> None:
    chunks = [done(1, None, "b"), done(2, "b", "c", 0, 2), done(3, "b", "c", 1, 2)]
    assert Remainder.of(chunks) == Remainder(gaps=[], after=("c",), number=4)


def test_range_that_no_lane_has_touched_is_a_gap_in_each() -> None:
    chunks = [done(3, "b", "c", 0, 2), done(4, "b", "c", 1, 2)]
    assert Remainder.of(chunks).gaps == [left(None, "b", 0, 2), left(None, "b", 1, 2)]


def test_undo_goes_lane_by_lane_where_the_work_has_been() -> None:
    forward = [done(1, None, "b", 0, 2), done(2, None, "b", 1, 2), done(3, "b", "d", 0, 2)]
    back = [done(1, None, "b", 0, 2), done(2, "b", "c", 0, 2)]
    remainder = Remainder.within(forward, back)
    assert remainder.gaps == [left(None, "b", 1, 2), left("c", "d", 0, 2)]
    assert (remainder.number, remainder.open_end) == (3, False)


def test_size_grows_slowly_and_shrinks_at_once() -> None:
    size = ChunkSize(1000, 0.3, 50_000)
    size.took(1000, 0.01)
    assert size.size == round(1000 * GROWTH)
    size.took(1500, 3.0)
    assert size.size == 150
    size.too_slow(150)
    assert size.size == 75


def test_size_learns_nothing_from_a_remnant_and_stays_within_its_limits() -> None:
    size = ChunkSize(1000, 0.3, 1200)
    size.took(10, 3.0)
    assert size.size == 1000
    size.took(1000, 0.0)
    assert size.size == 1200
    for _ in range(20):
        size.too_slow(size.size)
    assert size.size == 1
