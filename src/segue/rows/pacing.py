"""Keeps the data work of one execution polite: signals and latency to the controller, its pace to the labourers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.errors import SegueError
from segue.model.online import usual_sessions
from segue.model.throttling import Reading, Signals, ThrottleSettings, unreadable
from segue.ports import Pace
from segue.rows.latency import Latency, measures
from segue.rows.throttle import FREE, SLOWED, STOPPED, Bounds, Controller

if TYPE_CHECKING:
    from segue.ports import Gauge

# The signals of the server are read about so often; the latency is looked at each time.
SIGNALS_SECONDS = 0.9
# A state that comes and goes is not logged more often than this.
QUIET_SECONDS = 10.0
OFF = "off"
_OFF_WORDS = "the throttle is turned off"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What people have set, all levels together, and which replicas must be there.

    `wrong` says what cannot be read of it: nothing goes on then.
    """

    settings: ThrottleSettings = field(default_factory=ThrottleSettings)
    replicas: Sequence[str] = ()
    wrong: str = ""


class Pacing:
    """See `segue.ports.Throttle`. `read` returns what is wanted now; `workers` is what each step asks for."""

    def __init__(self, read: Callable[[], Wanted], *, workers: Sequence[int | None]) -> None:
        self._read = read
        self._workers = workers
        self._wanted = read()
        self._lock = threading.Lock()
        self._controller = Controller(self._bounds(), gently=self._wanted.settings.budget is not None)
        self._gauge: Gauge | None = None
        self._latency: Latency | None = None
        self._signals = Signals((), {})
        self._read_at: float | None = None
        self._readings: list[Reading] = []
        self._said = FREE
        self._said_at: dict[str, float] = {}
        self._retuned = False

    def begin(self, gauge: Gauge) -> None:
        """Take a first look."""
        self._gauge = gauge
        self._latency = self._measured()
        self.look()

    def end(self) -> None:
        """Stop looking."""
        if self._latency is not None:
            self._latency.close()

    def look(self) -> None:
        """Look at the target; whatever goes wrong with that stops the work, and says why."""
        try:
            readings = self._look()
        except SegueError as error:
            self._read_at = None
            readings = [unreadable("signals", f"the target's signals cannot be read: {error.message}")]
        except Exception as error:  # a mistake of ours must not leave the work without a watch
            self._read_at = None
            readings = [unreadable("signals", f"the target's signals cannot be read: {type(error).__name__}: {error}")]
        with self._lock:
            self._readings = readings
            self._controller.feed(clock.ticks(), readings)

    def pace(self) -> Pace:
        """Return how fast data work may go now."""
        with self._lock:
            if self._off:
                bounds = self._controller.bounds
                return Pace(bounds.duty, bounds.workers, _OFF_WORDS)
            pace = self._controller.pace(clock.ticks())
            return replace(pace, watched=self._wanted.settings.budget is not None)

    def refresh(self) -> None:
        """Take over what people have set since; a store that is away changes nothing."""
        wanted = self._read()
        before = self._wanted
        if wanted == before:
            return
        new, old = wanted.settings, before.settings
        measured_anew = any(
            getattr(new, name) != getattr(old, name) for name in ("latency_budget", "latency_probe", "latency_url")
        )
        with self._lock:
            self._wanted = wanted
            self._controller.bounds = self._bounds()
            if new.budget is not None and new.budget != old.budget:
                self._controller.begin_gently()
            self._read_at = None
            self._retuned = True
            if measured_anew and not (self._latency is not None and self._latency.rebudget(new)):
                gone, self._latency = self._latency, self._measured()
                if gone is not None:
                    gone.close()

    def changes(self) -> list[tuple[str, str]]:
        """Return what is to be logged."""
        now = clock.ticks()
        with self._lock:
            said = []
            if self._retuned:
                self._retuned = False
                said.append(("throttle-tuned", f"re-tuned: {self._words()}"))
            pace = self._controller.pace(now)
            state = self._state(pace)
            if state == self._said or now - self._said_at.get(state, -QUIET_SECONDS) < QUIET_SECONDS:
                return said
            self._said = state
            self._said_at[state] = now
        words = {
            FREE: "at full speed again",
            SLOWED: f"slowed down to {pace.duty:.0%} of the time{_workers(pace)}: {pace.reason}",
            STOPPED: f"stopped: {pace.reason}",
            OFF: _OFF_WORDS,
        }
        return [*said, (f"throttle-{state}", words[state])]

    def status(self) -> dict[str, Any]:
        """Return pace, reason and readings as JSON values."""
        pace = self.pace()
        with self._lock:
            latency = self._latency
            return {
                "at": clock.now().isoformat(),
                "settings": self._wanted.settings.given,
                "state": self._state(pace),
                "duty": round(pace.duty, 4),
                "workers": pace.workers,
                "reason": pace.reason,
                "readings": [reading.as_json() for reading in self._readings],
                "unseen": dict(self._signals.unseen),
                "latency": latency.as_json(clock.ticks()) if latency is not None else None,
            }

    # -- parts

    @property
    def _off(self) -> bool:
        return self._wanted.settings.enabled is False and not self._wanted.wrong

    def _state(self, pace: Pace) -> str:
        return OFF if self._off else STOPPED if pace.duty == 0 else self._controller.state

    def _bounds(self) -> Bounds:
        settings = self._wanted.settings
        watched = settings.budget is not None
        most = max((usual_sessions(workers, watched=watched) for workers in self._workers), default=1)
        return Bounds(duty=settings.duty or 1.0, workers=settings.workers, wanted=most)

    def _measured(self) -> Latency | None:
        settings = self._wanted.settings
        return Latency(self._gauge, settings) if measures(settings) and self._gauge is not None else None

    def _look(self) -> list[Reading]:
        wanted, latency, now = self._wanted, self._latency, clock.ticks()
        if self._gauge is not None and (self._read_at is None or now - self._read_at >= SIGNALS_SECONDS):
            self._signals = self._gauge.signals(wanted.settings, wanted.replicas)
            self._read_at = now
        readings = list(self._signals.readings)
        if wanted.wrong:
            readings.append(unreadable("settings", wanted.wrong))
        if latency is not None:
            readings.append(latency.reading(clock.ticks(), self._controller.eased))
        return readings

    def _words(self) -> str:
        given = self._wanted.settings.given
        return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in given.items()) or "as built in"


def _workers(pace: Pace) -> str:
    return "" if pace.workers is None else f" of {pace.workers} worker{'s' * (pace.workers != 1)}"
