"""Walks a table in key order: offers ranges a little ahead of whoever labours on them, here and elsewhere."""

from __future__ import annotations

import threading
from math import ceil
from typing import TYPE_CHECKING

from segue import clock
from segue.errors import FenceLost, LockNotGranted, OutcomeUnknown, SegueError, StepFailed
from segue.ports import Batch, Pace
from segue.rows.chunks import ChunkSize, Remainder
from segue.rows.labour import Labourer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.ports import Shared

# A range with fewer keys than this in each lane lies in so few pages that lanes only cost transactions.
KEYS_IN_A_LANE = 16
# Work for about so long lies ready for each labourer, in at most so many batches.
AHEAD_SECONDS = 0.3
MOST_AHEAD = 32
# How often the driver looks at the batches when nobody here wakes it, and at most.
LOOK_SECONDS = 0.1
RUSH_SECONDS = 0.005
# How often all labourers are told the pace though it is the same, and those elsewhere are counted.
TELL_SECONDS = 1.0
COUNT_SECONDS = 3.0


class Walk:
    """One walk over what is left of a table.

    Ranges are cut one after the other and offered; `slots` says how many labour here when so many are wanted, and asks
    for others elsewhere. An error of a labourer's, or `boundary` raising, stops all of them after their running chunk.
    """

    def __init__(
        self,
        shared: Shared,
        left: Remainder,
        *,
        size: int,
        workers: int,
        patience: float,
        boundary: Callable[[], None],
        pace: Callable[[], Pace],
        slots: Callable[[int], int],
        note: Callable[[Sequence[Batch]], None],
    ) -> None:
        self._work = shared.work
        self._board = shared.work.board
        self._shared = shared
        self._left = left
        self._size = ChunkSize(size, shared.seconds, shared.largest)
        self._workers = workers
        self._patience = patience
        self._boundary = boundary
        self._ask_pace = pace
        self._ask_slots = slots
        self._note = note
        #: How many rows were changed since this walk began.
        self.rows = 0
        self._pace = Pace()
        self._asked = self._told = self._counted = 0.0
        self._seconds = AHEAD_SECONDS
        self._others = 0
        self._open: dict[int, Batch] = {}
        self._number = left.number
        self._after = left.after
        self._more = True
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def go(self) -> None:
        """Offer, and labour, until nothing is left; raise the first error."""
        self._pace = self._ask_pace()
        self._take_up()
        try:
            self._offer()
            if self._open:
                self._hire()
            while self._open or self._more:
                self._wake.wait(LOOK_SECONDS)
                # Several that end short batches at about the same time are looked at together.
                clock.sleep(RUSH_SECONDS)
                self._wake.clear()
                self._boundary()
                if self._error is not None:
                    raise self._error
                self._look()
                self._offer()
                self._tell()
        except BaseException as error:
            self._dismiss()
            self._close_after(error)
            raise
        self._dismiss()
        self._board.close(ended=True)

    # -- beginning and ending

    def _take_up(self) -> None:
        """Go on where the target says that the last offer came to."""
        position = self._board.open(self._pace)
        last = position.last
        if last is not None and last.number >= self._number:
            self._number = last.number + 1
            # A range of the open walk is offered with all its lanes, what was left of an older version's is not.
            if last.lane is None:
                self._after = last.until
        self._open = {batch.number: batch for batch in position.unfinished}
        self._note(position.unfinished)

    def _hire(self) -> None:
        """Begin to labour here."""
        here = self._ask_slots(self._workers)
        self._counted = clock.ticks()
        for number in range(1, here + 1):
            labourer = Labourer(
                self._shared,
                f"{self._work.holder} labourer {number}",
                patience=self._patience,
                stop=self._stop,
                woke=self._wake.set,
            )
            thread = threading.Thread(
                target=self._labour, args=(labourer,), name=f"segue labourer {number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _labour(self, labourer: Labourer) -> None:
        try:
            labourer.go()
        except BaseException as error:  # handed to the caller's thread
            self._error = self._error or error
            self._wake.set()

    def _dismiss(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _close_after(self, error: BaseException) -> None:
        """Let nobody go on elsewhere with what has stopped here, as far as the target can be reached."""
        if isinstance(error, FenceLost):
            return  # it is another driver's by now
        try:
            self._board.close(ended=False)
            self._look()
        except SegueError:
            return  # whoever drives it next takes everything back

    # -- going on

    def _look(self) -> None:
        """See how the batches stand, learn from those that are done, and raise what made one fail."""
        if not self._open:
            return
        seen = self._board.look(list(self._open))
        if len(seen) < len(self._open):
            raise OutcomeUnknown(
                "the target does not show batches that were offered there", hint="was it set back? It is looked at anew"
            )
        changed = [batch for batch in seen if batch != self._open[batch.number]]
        for batch in changed:
            self.rows += batch.rows - self._open[batch.number].rows
            if batch.state == "done":
                del self._open[batch.number]
                self._learn(batch)
            else:
                self._open[batch.number] = batch
        if changed:
            self._note(changed)
        for batch in changed:
            if batch.failure is not None and not self._stop.is_set():
                raise _failure(batch)

    def _learn(self, batch: Batch) -> None:
        if batch.fits is not None:
            self._size.heard(batch.size, batch.fits)
        elif batch.slowest_keys:
            self._size.took(batch.slowest_keys, batch.slowest / 1000)
        self._seconds += 0.3 * (batch.milliseconds / 1000 + self._shared.pause - self._seconds)

    def _offer(self) -> None:
        """Have enough lie ready for whoever labours, and no more: the size of later batches follows what comes."""
        labourers = max(self._others, len(self._threads), 1)
        each = max(1, min(MOST_AHEAD, ceil(AHEAD_SECONDS / max(self._seconds, 0.001))))
        ready = sum(batch.state == "pending" for batch in self._open.values())
        fresh: list[Batch] = []
        while ready + len(fresh) < labourers * each and (batch := self._next()) is not None:
            fresh.append(batch)
        if fresh:
            self._board.offer(fresh)
            self._open.update((batch.number, batch) for batch in fresh)
            self._note(fresh)

    def _next(self) -> Batch | None:
        place = self._number - self._left.number
        if place < len(self._left.gaps):
            gap = self._left.gaps[place]
            # One labourer's as a whole: its pieces must chain up to where the next done chunk begins.
            batch = Batch(self._number, gap.after, gap.until, 0, gap.lanes, gap.lane, size=self._size.size)
        else:
            # Small batches go without lanes, and are no larger for that than they may be.
            in_lanes = self._size.size >= KEYS_IN_A_LANE
            size = self._size.size * (self._work.lanes if in_lanes else 1)
            cut = self._work.cut(self._after, size) if self._more and self._left.open_end else None
            if cut is None:
                self._more = False
                return None
            self._after = cut.until
            lanes = self._work.lanes if cut.keys >= self._work.lanes * KEYS_IN_A_LANE else 1
            shares = cut.shares if lanes > 1 else ()
            batch = Batch(self._number, cut.after, cut.until, cut.keys, lanes, shares=shares, size=self._size.size)
        self._number += 1
        return batch

    def _tell(self) -> None:
        """Tell the pace, and ask for labourers elsewhere while there are too few of them."""
        now = clock.ticks()
        if now - self._asked < LOOK_SECONDS:
            return
        pace, self._asked = self._ask_pace(), now
        if pace != self._pace or now - self._told >= TELL_SECONDS:
            self._pace, self._told = pace, now
            self._board.publish(pace, min(self._open, default=self._number))
        wanted = self._workers if pace.workers is None else min(self._workers, pace.workers)
        wanted = wanted if pace.duty > 0 else 0
        if len(self._threads) < self._workers and now - self._counted >= COUNT_SECONDS:
            self._counted = now
            self._others = len(self._board.labourers())
            if self._others < wanted and self._open:
                self._ask_slots(wanted - self._others + 1)


def _failure(batch: Batch) -> SegueError:
    """Return the error that a labourer met in a batch, wherever it was."""
    said = dict(batch.failure or {})
    kind = LockNotGranted if said.get("code") == LockNotGranted.code else StepFailed
    return kind(str(said.get("message")), hint=str(said.get("hint") or ""), details=list(said.get("details") or ()))
