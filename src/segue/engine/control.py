"""Lets a run be stopped at a safe point: by Ctrl-C, by SIGTERM, or by a request in the store."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

from segue import clock
from segue.errors import Blocked, Interrupted, SegueError

# How often the store is asked, in seconds: a pause takes effect within about this time plus one batch.
ASK_SECONDS = 0.5


class PauseRequested(Blocked):
    """Somebody asked for a pause."""

    code = "S010"


class CancelRequested(Blocked):
    """Somebody asked to cancel."""

    code = "S011"


class MustWait(Blocked):
    """The run cannot go on now, and nothing is half-done: it waits for somebody or something.

    `kind`: approval, window, time, condition, worker, execution, target. `due`: when to look again; None: when told.
    """

    code = "S015"

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        due: datetime | None = None,
        hint: str = "",
        step: str | None = None,
        details: list[str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.kind = kind
        self.due = due
        self.step = step
        #: Whether the whole run waits; otherwise one step, while others go on.
        self.whole = False

    def as_waiting(self) -> dict[str, Any]:
        """Return what is waited for, as the store keeps it."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint, "step": self.step}


def _whole(wait: MustWait) -> MustWait:
    wait.whole = True
    return wait


class Halted(SegueError):
    """Another step that runs beside this one has stopped the run; this one stops at its safe point."""

    code = "S016"


class Control:
    """Asked at every boundary; raises when the run is to stop there.

    `ask` reads the requests from the store and returns (pause, cancel); it is called at most every half second, and
    serves as the sign of life in the store. `gate` raises when the execution may not go on for another reason; `drain`
    is set when this process is to give its work away.
    """

    def __init__(
        self,
        ask: Callable[[], tuple[bool, bool]],
        alive: Callable[[], None],
        *,
        gate: Callable[[], None] | None = None,
        drain: threading.Event | None = None,
    ) -> None:
        self._ask = ask
        self._alive = alive
        self._gate = gate
        self._drain = drain
        self._asked = 0.0
        self._asking = threading.Lock()
        self._signalled = threading.Event()
        self._halted = threading.Event()
        self._deaf_to_drain = self._deaf = False

    def heed(self, *, drain: bool, requests: bool) -> None:
        """Say who may stop the run from here on: its worker's end; a person.

        An application that is kept out waits for the run to end, not for somebody to go on with it.
        """
        self._deaf_to_drain, self._deaf = not drain, not requests
        if self._deaf:
            self._signalled.clear()

    def halt(self) -> None:
        """Stop every step at its next safe point, because one of them has failed."""
        self._halted.set()

    def ungate(self) -> None:
        """Let no gate stop what follows: an undo must not end half-way because a window has closed."""
        self._gate = None

    def go_on(self) -> None:
        """Take `halt` back: what follows, an undo for example, is to run."""
        self._halted.clear()

    def boundary(self) -> None:
        """Raise when the run must stop here."""
        if self._signalled.is_set() and not self._deaf:
            raise Interrupted(
                "stopped at a safe point", hint="`segue resume` continues, `segue rollback` takes it back"
            )
        self._alive()
        if self._halted.is_set():
            raise Halted("stopped because another step of the plan failed")
        if self._drain is not None and self._drain.is_set() and not self._deaf_to_drain:
            raise _whole(
                MustWait(
                    "worker",
                    "its worker was stopped; another one goes on",
                    due=clock.now(),
                    hint="`segue worker` runs one",
                )
            )
        with self._asking:
            if clock.ticks() - self._asked < ASK_SECONDS:
                return
            pause, cancel = self._ask()
            self._asked = clock.ticks()
        if cancel and not self._deaf:
            raise CancelRequested("cancelled on request", hint="`segue rollback` takes back what was done")
        if pause and not self._deaf:
            raise PauseRequested("paused on request", hint="`segue resume` continues")
        if self._gate is not None:
            try:
                self._gate()
            except MustWait as wait:
                raise _whole(wait) from None

    @contextmanager
    def signals(self, say: Callable[[str], None]) -> Iterator[None]:
        """Turn the first Ctrl-C or SIGTERM into a stop at the next safe point; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self._signalled.is_set():
                raise KeyboardInterrupt
            self._signalled.set()
            if self._deaf:
                say("going on until the application is let in again (again to stop at once)")
            else:
                say("stopping at the next safe point (again to stop at once)")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
