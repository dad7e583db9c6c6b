"""Keeps the application out while a maintenance window lasts: closing, the time that is left, opening."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segue import clock
from segue.engine import journal, scripts
from segue.engine.control import CancelRequested, MustWait
from segue.errors import CannotTell, DriftFound, FenceLost, SegueError, StepFailed, TargetUnreachable
from segue.model.quantities import duration
from segue.ports import BACKWARD, FORWARD, Patience

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from segue.engine.record import Record
    from segue.model.fences import Downtime, FenceState
    from segue.ports import ApplicationFence, Target

T = TypeVar("T")

#: An undo is expected to take as long as what it undoes, and somewhat more: it begins only when a chunk has ended.
UNDO_SHARE = 1.25
#: What it is expected to take at least, in seconds; of a short window no more than a quarter is kept for that.
LEAST_UNDO = 5.0
#: How long the triggers of an open fence may take to go, and those that an earlier run left behind.
REMOVAL_SECONDS = 20.0
LEFTOVER_SECONDS = 2.0
#: How long to try to reach a target again that went away at its fence, and how often.
RECOVERY_SECONDS = 30.0
RECOVERIES = 5
#: How often the command that lets the application in is tried: while it fails, nobody gets in.
OPENINGS = 3


class WindowOver(CancelRequested):
    """The clock asks to cancel: the time for which the application may be kept out would not suffice for an undo."""


class Shelter:
    """The application's fence around one execution. Without a downtime it only sees to it that nobody else's stands.

    The target says how the fence stands, the store follows. A process that dies leaves a closed fence closed, since
    what it was working on is half-done: whoever goes on with the execution finds it so, and the time that is left.
    """

    def __init__(
        self, target: Target, record: Record, downtime: Downtime | None, *, words: Mapping[str, str] | None = None
    ) -> None:
        """`words` are the variables that the user's commands get beside this process's own."""
        self._target = target
        self._record = record
        self._downtime = downtime
        self._words = dict(words or {})
        self._direction = FORWARD
        self._deadline: float | None = None  # ticks; set while the fence is closed
        self._leaving = False
        self._spent = 0.0
        self._running: dict[str, float] = {}
        self._counting = threading.Lock()
        self._stopped: float | None = None
        self._warned = False

    # -- how it stands

    @property
    def closed(self) -> bool:
        """Return whether the application is kept out by this execution now, as far as this process knows."""
        return self._deadline is not None

    def left(self) -> float:
        """Return for how many seconds the application may still be kept out; below zero when that is over."""
        return self._deadline - clock.ticks() if self._deadline is not None else float("inf")

    def undo_takes(self) -> float:
        """Return how long it should take to undo what was done."""
        if self._downtime is None:
            return 0.0
        with self._counting:
            spent = self._spent + sum(clock.ticks() - began for began in self._running.values())
        return max(spent * UNDO_SHARE, min(LEAST_UNDO, self._downtime.seconds / 4))

    def boundary(self) -> None:
        """Raise WindowOver when what is left of the time is what an undo needs."""
        if not self.closed:
            return
        left = self.left()
        if self._direction == FORWARD:
            if left < self.undo_takes():
                raise WindowOver(
                    f"the application may be kept out for {duration(self._limit)} in all: of that "
                    f"{duration(max(0.0, left))} is left, which an undo may need"
                )
        elif left < 0 and not self._warned:
            self._warned = True
            self._record.log(
                "window-over",
                "the application has been kept out for longer than it may; undoing goes on, since half is done",
                level="warning",
            )

    def within(self, patience: Patience, *, effects: bool) -> Patience:
        """Return no more patience than the window has; after an effect there must be time to undo it."""
        if not self.closed or self._direction != FORWARD:
            return patience
        left = max(0.1, (self.left() - self.undo_takes()) / (2 if effects else 1))
        return Patience(locks=min(patience.locks, left), work=min(patience.work, left))

    @contextmanager
    def effect(self, step: str) -> Iterator[None]:
        """Count the time of a step that has effects: its undo may take as long."""
        with self._counting:
            self._running[step] = clock.ticks()
        try:
            yield
        finally:
            with self._counting:
                self._spent += clock.ticks() - self._running.pop(step)

    def wait(self, wait: MustWait, boundary: Callable[[], None]) -> None:
        """Stay while a step has to wait: to let go of everything would leave the application out with nobody here."""
        self._record.tell("waiting", f"waiting, with the application kept out: {wait.message}", step=wait.step)
        until = clock.ticks() + (max(0.2, (wait.due - clock.now()).total_seconds()) if wait.due else 1.0)
        while clock.ticks() < until:
            boundary()
            clock.sleep(min(0.2, max(0.0, until - clock.ticks())))

    def must_undo(self, error: BaseException) -> bool:
        """Return whether what stopped the run must not leave the application out: everything is undone then.

        Not where the next process has to look first, or a person.
        """
        if not self.closed or self._leaving:
            return False
        kept = (FenceLost, TargetUnreachable, CannotTell, DriftFound)
        return isinstance(error, Exception) and not isinstance(error, kept)

    def metrics(self) -> dict[str, Any]:
        """Return how long the application was kept out, for the execution's metrics."""
        return {"write_stop_s": round(self._stopped, 3)} if self._stopped is not None else {}

    def still_closed(self) -> str | None:
        """Return what to tell a person when a run ends with the application kept out."""
        if not self.closed:
            return None
        way = "rollback" if self._direction == BACKWARD else "resume"
        return f"the application is still kept out: `segue {way} {self._record.execution}` goes on and lets it in, " + (
            "now that undoing has begun" if self._direction == BACKWARD else "or undoes everything"
        )

    # -- in

    def enter(self, direction: str, *, needed: bool = True, before: Callable[[], None] = lambda: None) -> None:
        """Keep the application out from here on; found closed, it stays so.

        `needed`: whether there is anything to do for which it must be out; `before` is called while it is still in, and
        may raise. Raises Blocked when another execution's fence stands, LockNotGranted when the application's own
        transactions do not end in time: it is let in then.
        """
        self._direction = direction
        now = self._asked(lambda fence: fence.state())
        if now is None or now.execution != self._record.execution:
            if now is not None and now.state != "open":
                raise now.standing()
            if self._downtime is not None and needed:
                before()
                self._close(self._downtime, direction)
            elif now is not None:
                self._remove(LEFTOVER_SECONDS)
        elif self._downtime is None or (not needed and not now.shut):
            self._let_in()
        elif now.shut:
            self._found(now, self._downtime, needed)
        else:
            before()
            self._close(self._downtime, direction)

    def _found(self, now: FenceState, downtime: Downtime, needed: bool) -> None:
        """Go on behind a fence that an earlier process, or the other direction, has closed."""
        if not self.closed:
            # What an earlier process did since may all have to be undone.
            self._spent = now.since or 0.0
            self._record.log(
                "fence-found",
                f"the application is kept out since {_moment(now.closed_at)}, until {_moment(now.until)} at the latest",
                level="warning",
            )
        if now.direction != self._direction:
            now = self._asked(lambda fence: fence.adopt(self._direction))
        self._shut(now)
        if now.state == "closing" and needed:
            now = self._finish_closing(downtime)
        self._took(now)

    def _close(self, downtime: Downtime, direction: str) -> None:
        patience = Patience(locks=downtime.lock_timeout, work=downtime.lock_timeout)
        # Said to the store beforehand: whoever finds it there asks no window and no approval again.
        self._write(None, clock.now())
        journal.point("fence-announced")
        try:
            count = self._asked(
                lambda fence: fence.arm(
                    direction, downtime.tables, patience, self._note, triggers=not downtime.by_command
                )
            )
            self._shut(self._asked(lambda fence: fence.closing(downtime.seconds)))
            now = self._finish_closing(downtime)
        except BaseException as error:
            if not isinstance(error, FenceLost | TargetUnreachable | KeyboardInterrupt):
                self._let_in()
            raise
        what = "by a command" if downtime.by_command else f"writes to {count} table{'s' * (count != 1)} are refused"
        self._record.log(
            "fence-closed",
            f"the application is kept out ({what}) until {_moment(now.until)} at the latest",
            tables=count,
            until=now.until.isoformat() if now.until else None,
        )
        self._took(now)

    def _finish_closing(self, downtime: Downtime) -> FenceState:
        if downtime.by_command:
            self._call(downtime.close, downtime.timeout)
            journal.point("fence-command")
        patience = Patience(locks=downtime.lock_timeout, work=downtime.lock_timeout)
        return self._asked(
            lambda fence: fence.close(downtime.tables, patience, self._note, triggers=not downtime.by_command)
        )

    def _shut(self, now: FenceState) -> None:
        self._deadline = clock.ticks() + (now.left or 0.0)

    def _took(self, now: FenceState) -> None:
        self._shut(now)
        self._write(now.closed_at, now.until, action="fence-closed")
        journal.point("fence-recorded")

    def hold(self, step: str, target: Target) -> None:
        """Switch the fence on again where a step has switched it off, as `DISABLE TRIGGER USER` does.

        `target` is the step's own: others may run beside it.
        """
        if not self.closed or self._downtime is None or self._downtime.by_command:
            return
        patience = Patience(locks=self._downtime.lock_timeout, work=self._downtime.lock_timeout)
        opened = self._asked(lambda fence: fence.hold(patience, self._note), target)
        if opened:
            self._record.log(
                "fence-held",
                f"the step had switched the application's fence off on {', '.join(opened)}; it is closed again",
                step=step,
                level="warning",
            )

    # -- out

    def leave(self) -> None:
        """Let the application in again, and remove what kept it out; nothing where it is in."""
        if not self.closed:
            return
        self._leaving = True
        self._let_in()

    def _let_in(self) -> None:
        """Open the fence, if it is this execution's, in whatever state; also after a death in the midst of that."""
        was_closed = self.closed
        now = self._asked(lambda fence: fence.state())
        if now is not None and now.execution == self._record.execution:
            if self._downtime is not None and self._downtime.by_command and now.shut:
                self._call_open(self._downtime)
            now = self._asked(lambda fence: fence.open())
            self._stopped = now.stopped
        self._deadline = None
        news = self._write(None, None, action="fence-opened", state=now)
        if (news or was_closed) and now is not None and now.stopped is not None:
            self._record.log(
                "fence-opened",
                f"the application is let in again; it was kept out for {duration(now.stopped)}",
                seconds=now.stopped,
            )
        self._remove(REMOVAL_SECONDS)

    def _remove(self, seconds: float) -> None:
        try:
            left = self._asked(lambda fence: fence.disarm(seconds, self._note))
        except (FenceLost, TargetUnreachable):
            raise
        except SegueError as error:
            self._record.log("fence-left", f"the open fence is still there: {error.message}", level="warning")
            return
        if left:
            self._record.log(
                "fence-left",
                f"the open fence is still on {len(left)} tables, which others hold; it refuses nothing, "
                "and the next run here removes it",
                level="warning",
                details=left,
            )

    # -- parts

    @property
    def _limit(self) -> float:
        return self._downtime.seconds if self._downtime is not None else 0.0

    def _note(self, words: str) -> None:
        self._record.log("note", words)

    def _asked(self, ask: Callable[[ApplicationFence], T], target: Target | None = None) -> T:
        """Ask the target's fence; a connection that was lost is made again, since everything there may be repeated."""
        target = target or self._target
        lost = 0
        while True:
            try:
                return ask(target.application_fence())
            except FenceLost:
                raise
            except TargetUnreachable as error:
                lost += 1
                if lost > RECOVERIES:
                    raise
                self._record.log("connection-lost", error.message, level="warning")
                target.recover(RECOVERY_SECONDS)

    def _write(
        self,
        closed_at: datetime | None,
        until: datetime | None,
        *,
        action: str | None = None,
        state: FenceState | None = None,
    ) -> bool:
        """Let the store follow: since when and until when; return whether that is news, which the ledger has then."""
        from segue.store import ledger

        def write(session: Session, again: bool) -> bool:
            row = self._record.guard(session)
            news = row.fenced_at != closed_at
            row.fenced_at, row.fenced_until = closed_at, until
            if action is None or not news:
                return False
            detail: dict[str, Any] = {"closed_at": _moment(closed_at), "until": _moment(until)}
            if state is not None:
                detail = {
                    "closed_at": _moment(state.closed_at),
                    "opened_at": _moment(state.opened_at),
                    "seconds": state.stopped,
                }
            ledger.append(
                session,
                actor=self._record.actor,
                action=action,
                subject="migration_executions",
                subject_id=self._record.execution,
                detail=detail,
            )
            return True

        return self._record.written(write)

    # -- the user's commands

    def _call_open(self, downtime: Downtime) -> None:
        for attempt in range(1, OPENINGS + 1):
            try:
                self._call(downtime.open, downtime.timeout)
            except StepFailed as error:
                if attempt == OPENINGS:
                    raise
                self._record.log("fence-command-failed", error.message, level="warning", details=error.details)
                clock.sleep(1.0)
            else:
                journal.point("fence-command")
                return

    def _call(self, command: Sequence[str], timeout: float) -> None:
        """Run a command of the user's to its end; raises StepFailed with what it said.

        It ends with this process: one that went on alone could shut out an application that was let in meanwhile.
        """
        name = command[0]
        hint = "correct the command in the plan's `fence`; it may be called again at any time"
        kept = {key: value for key, value in os.environ.items() if key not in ("SEGUE_KEY", "SEGUE_STORE")}
        program = scripts.Program(list(command), Path.cwd(), {**kept, **self._words})
        output = scripts.Output((), lambda stream, line: self._record.log("fence-command", line))
        deadline = clock.ticks() + timeout

        def boundary() -> None:
            self._target.alive()
            if clock.ticks() > deadline:
                raise StepFailed(
                    f'the fence\'s command "{name}" was ended after {duration(timeout)}',
                    details=list(output.last),
                    hint=hint,
                )

        with scripts.private_folder() as folder:
            code = scripts.execute(program, boundary=boundary, output=output, remove=folder)
        if code != 0:
            raise StepFailed(
                f'the fence\'s command "{name}" ended with exit code {code}', details=list(output.last), hint=hint
            )


def _moment(at: datetime | None) -> str | None:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at is not None else None
