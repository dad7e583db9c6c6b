"""Walks a table in key order with several workers, a chunk at a time, and can stop after any chunk."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from segue import clock
from segue.errors import LockNotGranted, StepFailed
from segue.model.quantities import duration
from segue.ports import Chunk, ChunkedWork, ChunkTooSlow, ChunkWriter, Cut
from segue.rows.chunks import ChunkSize, Remainder

if TYPE_CHECKING:
    from collections.abc import Callable

# A range with fewer keys than this in each lane lies in so few pages that lanes only cost transactions.
KEYS_IN_A_LANE = 16


class Walk:
    """One walk over what is left of a table.

    Ranges are cut one after the other under a lock and handed to the workers; each works through its range in
    chunks that fit the time. An error, or `boundary` raising, stops all workers after their running chunk.
    """

    def __init__(
        self,
        work: ChunkedWork,
        left: Remainder,
        *,
        size: ChunkSize,
        workers: int,
        pause: float,
        patience: float,
        boundary: Callable[[], None],
        report: Callable[[Chunk], None],
    ) -> None:
        self._work = work
        self._size = size
        self._workers = workers
        self._pause = pause
        self._deadline = clock.ticks() + patience
        self._patience = patience
        self._boundary = boundary
        self._report = report
        self._cutting = threading.Lock()
        self._reporting = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._gaps = left.gaps
        self._after = left.after
        self._number = left.number
        self._open_end = left.open_end

    def go(self) -> None:
        """Work until nothing is left; raise the first error."""
        threads = [
            threading.Thread(target=self._labour, args=(f"worker {n}",), name=f"segue chunk {n}", daemon=True)
            for n in range(1, self._workers + 1)
        ]
        for thread in threads:
            thread.start()
        # The boundary is watched here, in the caller's thread: it raises Interrupted and reads the store.
        try:
            while any(thread.is_alive() for thread in threads):
                self._boundary()
                for thread in threads:
                    thread.join(timeout=0.1 / len(threads))
        except BaseException:
            self._stop.set()
            for thread in threads:
                thread.join()
            raise
        if self._error is not None:
            raise self._error

    def _labour(self, name: str) -> None:
        try:
            with self._work.open() as writer:
                while not self._stop.is_set() and (piece := self._next()) is not None:
                    self._do(writer, piece, name)
        except BaseException as error:  # handed to the caller's thread
            with self._reporting:
                self._error = self._error or error
            self._stop.set()

    def _next(self) -> tuple[int, Cut] | None:
        with self._cutting:
            if self._gaps:
                # A gap is one worker's: its pieces must chain up to where the next done chunk begins.
                return self._take_number(), self._gaps.pop(0)
            # Small batches go without lanes, and are no larger for that than they may be.
            size = self._size.size * (self._work.lanes if self._size.size >= KEYS_IN_A_LANE else 1)
            cut = self._work.cut(self._after, size) if self._open_end else None
            if cut is None:
                return None
            self._after = cut.until
            return self._take_number(), cut

    def _take_number(self) -> int:
        number, self._number = self._number, self._number + 1
        return number

    def _do(self, writer: ChunkWriter, piece: tuple[int, Cut], worker: str) -> None:
        """Do a range: lane after lane when it is a fresh one, in one go when it is what was left of a lane."""
        number, cut = piece
        if not cut.keys:
            self._do_lane(writer, number, cut, worker)
            return
        lanes = self._work.lanes if cut.keys >= self._work.lanes * KEYS_IN_A_LANE else 1
        slowest = (0.0, 0)
        for lane in range(lanes):
            if lane:
                with self._cutting:
                    number = self._take_number()
            whole = replace(cut, lane=lane, lanes=lanes)
            slowest = max(slowest, (self._do_lane(writer, number, whole, worker), whole.meant))
            if self._stop.is_set():
                return
        # The first lane takes longer than the others. Were each to be learnt from, the size would go up and down.
        seconds, keys = slowest
        if seconds:
            with self._cutting:
                self._size.took(keys, seconds)

    def _do_lane(self, writer: ChunkWriter, number: int, whole: Cut, worker: str) -> float:
        """Do a range's lane, in smaller chunks when it does not fit into the time.

        Return the seconds that it took in one chunk, 0 when it was not one; from others the size has learnt here.
        """
        cut = whole if whole.keys else self._within(whole)
        tries, seconds = 0, 0.0
        while not self._stop.is_set():
            started = clock.ticks()
            try:
                chunk = writer.write(number, cut, worker)
            except ChunkTooSlow as error:
                tries += 1
                self._give_way(cut, tries, error)
                cut = self._within(replace(whole, after=cut.after))
                continue
            tries, took = 0, clock.ticks() - started
            if cut is whole:
                seconds = took
            else:
                with self._cutting:
                    self._size.took(cut.meant, took)
            with self._reporting:
                self._report(chunk)
            if self._pause:
                self._stop.wait(self._pause)
            if cut.until == whole.until:
                break
            with self._cutting:
                number = self._take_number()
            cut = self._within(replace(whole, after=cut.until))
        return seconds

    def _within(self, rest: Cut) -> Cut:
        with self._cutting:
            # Down to a single key, whichever lane it is in: a row that cannot be written shall stand alone.
            size = self._size.size * (rest.lanes if self._size.size > 1 else 1)
            cut = self._work.cut(rest.after, size, rest.until)
        if cut is None:
            return replace(rest, keys=0, last=True)
        # The last piece ends where the range ends, so that the chain of done chunks has no hole.
        until = rest.until if cut.last else cut.until
        return replace(rest, until=until, keys=cut.keys, last=cut.last, shares=cut.shares)

    def _give_way(self, cut: Cut, tries: int, error: Exception) -> None:
        with self._cutting:
            self._size.too_slow(cut.meant or 1)
        if clock.ticks() > self._deadline:
            raise LockNotGranted(
                f"a chunk could not be written within {duration(self._patience)}: {error}",
                hint="a long transaction holds one of its rows; end it, or raise the step's `timeout`",
            )
        if tries > 60 and cut.keys <= 1 and "statement timeout" in str(error):
            raise StepFailed(
                "a single row takes longer to write than a chunk may last",
                hint="look at the triggers and foreign keys of the table",
            )
        self._stop.wait(min(0.05 * tries, 1.0))
