"""Lets a run be stopped at a safe point: by Ctrl-C, by SIGTERM, or by a request in the store."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from segue import clock
from segue.errors import Blocked, Interrupted

# How often the store is asked, in seconds: a pause takes effect within about this time plus one batch.
ASK_SECONDS = 0.5


class PauseRequested(Blocked):
    """Somebody asked for a pause."""

    code = "S010"


class CancelRequested(Blocked):
    """Somebody asked to cancel."""

    code = "S011"


class Control:
    """Asked at every boundary; raises when the run is to stop there.

    `ask` reads the requests from the store and returns (pause, cancel); it is called at most every half second, and
    serves as the sign of life in the store.
    """

    def __init__(self, ask: Callable[[], tuple[bool, bool]], alive: Callable[[], None]) -> None:
        self._ask = ask
        self._alive = alive
        self._asked = 0.0
        self._signalled = threading.Event()

    def boundary(self) -> None:
        """Raise when the run must stop here."""
        if self._signalled.is_set():
            raise Interrupted(
                "stopped at a safe point", hint="`segue resume` continues, `segue rollback` takes it back"
            )
        self._alive()
        if clock.ticks() - self._asked < ASK_SECONDS:
            return
        pause, cancel = self._ask()
        self._asked = clock.ticks()
        if cancel:
            raise CancelRequested("cancelled on request", hint="`segue rollback` takes back what was done")
        if pause:
            raise PauseRequested("paused on request", hint="`segue resume` continues")

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
            say("stopping at the next safe point (again to stop at once)")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
