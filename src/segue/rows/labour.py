"""Claims batches that somebody offers and does them, a chunk at a time, as fast as it may."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from segue import clock
from segue.errors import InternalError, LockNotGranted, SegueError, StepFailed
from segue.model.quantities import duration
from segue.ports import BatchLost, ChunkTooSlow
from segue.rows.chunks import ChunkSize, pieces

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.ports import Batch, Cut, Shared

# How often a labourer gives a sign of life, and how long it sleeps at most in between.
BEAT_SECONDS = 1.0
NAP_SECONDS = 0.5
# Each chunk's end tells the pace. One that has rested since looks again: what it knows may be older than this at most.
STALE_SECONDS = 0.1
# Short batches are claimed together: as many as take about this long, at most so many.
CLAIM_SECONDS = 0.2
MOST_CLAIMED = 32


class Labourer:
    """One who labours on shared work, with a session of its own.

    `stop` ends it after the running chunk; what it has claimed and not done is given back. When it has nothing to do,
    or may do nothing, for `leave_after` seconds it leaves, and at once when the work is over; None: it stays until it
    is stopped. `woke` is called when it takes or ends a batch.
    """

    def __init__(
        self,
        shared: Shared,
        owner: str,
        *,
        patience: float,
        stop: threading.Event,
        leave_after: float | None = None,
        woke: Callable[[], None] = lambda: None,
    ) -> None:
        self._shared = shared
        self._owner = owner
        self._patience = patience
        self._deadline = clock.ticks() + patience
        self._stop = stop
        self._leave_after = leave_after
        self._woke = woke
        self._beaten = self._heard = 0.0
        self._seconds = CLAIM_SECONDS
        self._held: list[Batch] = []
        #: How many batches were ended by it.
        self.finished = 0

    def go(self) -> None:
        """Labour. Raises FenceLost, what made a batch fail, and OutcomeUnknown when the connection was lost."""
        idle_since: float | None = None
        nap = 0.01
        with self._shared.work.open(self._owner) as self._writer:
            while not self._stop.is_set():
                self._beat()
                held = self._writer.claim(self._most()) if self._writer.standing.may_work else []
                if held:
                    idle_since, nap = None, 0.01
                    self._woke()
                    self._do_all(held)
                    continue
                now = clock.ticks()
                idle_since = now if idle_since is None else idle_since
                if self._leave_after is not None and (
                    not self._writer.standing.going or now - idle_since >= self._leave_after
                ):
                    break
                self._stop.wait(nap)
                nap = min(NAP_SECONDS if self._leave_after is not None else 0.1, nap * 1.5)

    def _most(self) -> int:
        """Return how many batches to claim at a time: several where they are short, else one."""
        time = min(CLAIM_SECONDS, self._shared.seconds / 2)
        return max(1, min(MOST_CLAIMED, int(time / max(self._seconds, 0.001))))

    def _do_all(self, held: list[Batch]) -> None:
        self._held = self._do_together(held)
        try:
            while self._held and self._may_go_on():
                began = clock.ticks()
                try:
                    finished = self._do(self._held[0])
                except BatchLost:
                    self._held.pop(0)
                    continue
                if not finished:
                    break
                self._held.pop(0)
                self._ended(1, clock.ticks() - began)
        except (StepFailed, LockNotGranted) as error:
            self._writer.fail(self._held.pop(0), error.as_json())
            self._give_back(self._held)
            raise
        self._give_back(self._held)

    def _do_together(self, held: list[Batch]) -> list[Batch]:
        """Do small batches in one transaction, if they are; return what is left to be done."""
        # A pause after each, and chunks no larger than a plan allows, are promises.
        if len(held) < 2 or self._shared.pause or sum(batch.keys for batch in held) > self._shared.largest:
            return list(held)
        if any(batch.token > 1 or batch.lane is not None or batch.lanes > 1 for batch in held):
            return list(held)
        began = clock.ticks()
        if not self._writer.write_all(held):
            self._seconds = CLAIM_SECONDS
            return list(held)
        self._heard = clock.ticks()
        took = self._heard - began
        self._ended(len(held), took)
        self._rest(took)
        return []

    def _ended(self, count: int, seconds: float) -> None:
        self.finished += count
        self._seconds += 0.3 * (seconds / count - self._seconds)
        self._woke()

    def _give_back(self, batches: list[Batch]) -> None:
        if batches:
            # A claim that cannot be given back is lost with its labourer's signs of life.
            with suppress(SegueError):
                self._writer.give_back(batches)

    def _may_go_on(self) -> bool:
        if self._stop.is_set():
            return False
        self._beat()
        return self._writer.standing.may_work

    def _beat(self) -> None:
        now = clock.ticks()
        if now - self._beaten >= BEAT_SECONDS or now - self._heard >= STALE_SECONDS:
            self._writer.beat()
            self._beaten = self._heard = now

    # -- a batch

    def _do(self, batch: Batch) -> bool:
        """Do what is left of a batch, lane after lane; return whether it is done."""
        size = ChunkSize(batch.size, self._shared.seconds, self._shared.largest)
        left = pieces(batch, self._writer.done(batch) if batch.token > 1 else ())
        if not left:
            raise InternalError(f"batch {batch.number} is not done, and nothing of it is left")
        return all(self._do_piece(batch, piece, size, last=piece is left[-1]) for piece in left)

    def _do_piece(self, batch: Batch, whole: Cut, size: ChunkSize, *, last: bool) -> bool:
        """Do a piece of a batch, in smaller chunks when it does not fit into the time; return whether it is done."""
        cut = whole if whole.keys else self._within(whole, size)
        tries = 0
        while True:
            ends = cut.until == whole.until
            began = clock.ticks()
            try:
                # What fits is to be seen from a chunk that was written at once; else only here is it known.
                fits = size.size if size.size != batch.size or batch.lane is not None else None
                self._writer.write(batch, cut, last=last and ends, fits=fits)
            except ChunkTooSlow as error:
                tries += 1
                size.too_slow(cut.meant or 1)
                # Who waits for a row, perhaps for long, keeps no other batch from those who could do it.
                self._give_back(self._held[1:])
                del self._held[1:]
                if not self._give_way(cut, tries, error):
                    return False
                cut = self._within(replace(whole, after=cut.after), size)
                continue
            self._heard = clock.ticks()
            tries, took = 0, self._heard - began
            if cut is not whole:
                size.took(cut.meant, took)
            self._rest(took)
            if ends:
                return last or self._may_go_on()
            if not self._may_go_on():
                return False
            cut = self._within(replace(whole, after=cut.until), size)

    def _within(self, rest: Cut, size: ChunkSize) -> Cut:
        # Down to a single key, whichever lane it is in: a row that cannot be written shall stand alone.
        keys = size.size * (rest.lanes if size.size > 1 else 1)
        cut = self._writer.cut(rest.after, keys, rest.until)
        if cut is None:
            return replace(rest, keys=0, last=True)
        # The last piece ends where the range ends, so that the chain of done chunks has no hole.
        until = rest.until if cut.last else cut.until
        return replace(rest, until=until, keys=cut.keys, last=cut.last, shares=cut.shares)

    # -- waiting

    def _rest(self, worked: float) -> None:
        """Wait after a chunk: as the plan says, and for so long that the share of time at work is kept."""
        began = clock.ticks()
        while not self._stop.is_set() and self._writer.standing.going:
            # Looked at anew each time: the pace may change meanwhile, and a small share makes for a long rest.
            duty = self._writer.standing.pace.duty
            rest = worked * (1 - duty) / duty if duty > 0 else 0.0
            left = began + max(self._shared.pause, rest) - clock.ticks()
            if left <= 0:
                return
            self._stop.wait(min(left, NAP_SECONDS))
            self._beat()

    def _give_way(self, cut: Cut, tries: int, error: Exception) -> bool:
        """Wait before a chunk is tried again; return False when it is not to be."""
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
        return self._may_go_on()
