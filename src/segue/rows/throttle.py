"""Decides how fast data work may go: readings in, a pace out; no clock, no connection, no thread.

One number is steered, the *level*: which share of its full load the work puts on the target. Under pressure it falls
at once, by as much as the pressure asks for; it rises slowly, and not to where it had to fall before until some time
has passed. Between "room" and "pressure" it stays, so that it comes to rest instead of swinging.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from segue.model.throttling import Reading
from segue.ports import Pace

# Below this share of what is allowed there is room for more.
ROOM = 0.8
# A signal that stopped the work lets it go on only from this share of what stopped it.
RELEASE = 0.75
# How much the level rises in a second where there is no pressure at all, as a factor on top of 1.
RISE = 0.25
# The least that is worked while nothing stops it: a twentieth of one worker's time.
LEAST = 0.05
# Where work begins under a latency budget, and the most it goes on with after a stop.
GENTLE = 0.25
# How long a step down is left to show its effect, in seconds, before the next, unless things get worse meanwhile.
SETTLE = 4.0
# How long the level stays away from where it had to fall, in seconds: at first, and at most.
WARY = 15.0
WARY_AT_MOST = 120.0
# Without a look at the target for so long nobody knows how it is: work stops.
STALE = 5.0

FREE, SLOWED, STOPPED = "free", "slowed", "stopped"
_GENTLY = "it begins gently, because a latency budget is to hold"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the pace may not exceed, whatever the signals say. `wanted`: the most workers that any step has."""

    duty: float = 1.0
    workers: int | None = None
    wanted: int = 1

    @property
    def most(self) -> int:
        """Return the most workers there can be."""
        return max(1, min(self.wanted, self.workers or self.wanted))


class Controller:
    """The state of the throttle. `feed` it a look at all signals about once or twice a second."""

    def __init__(self, bounds: Bounds = Bounds(), *, gently: bool = False) -> None:
        self.bounds = bounds
        #: free, slowed or stopped.
        self.state = FREE
        self.reason = ""
        #: When the pace last went down: what was measured before says nothing about the pace since.
        self.eased = -math.inf
        self._level = 1.0
        self._cause = ""
        self._held: set[str] = set()
        self._fed: float | None = None
        self._moved = -math.inf
        self._cut = -math.inf
        self._pressure = 0.0
        self._ceiling = math.inf
        self._wary = WARY
        if gently:
            self.begin_gently()

    def begin_gently(self) -> None:
        """Go down to where a budget on the application's latency is approached from."""
        if self._level > GENTLE:
            self._level = GENTLE
            self._cause = _GENTLY
            self._settle()

    def feed(self, now: float, readings: Sequence[Reading]) -> Pace:
        """Learn from a look at the signals, `now` in seconds of any clock; return the pace from here on."""
        if self._fed is None:
            self._moved = now
        self._fed = now
        stopping = [reading for reading in readings if self._stops(reading)]
        self._held = {reading.name for reading in stopping}
        if stopping:
            self._stop(now, stopping)
            return self.pace(now)
        if self.state == STOPPED:
            self._moved = now
        worst = max(readings, key=lambda reading: reading.pressure, default=None)
        pressure = worst.pressure if worst is not None else 0.0
        words = ""
        if worst is not None and pressure >= 1:
            words = self._cause = worst.words
            self._lower(now, pressure)
        elif worst is not None and pressure >= ROOM:
            words = worst.words if worst.value is None else f"near its limit: {worst.words}"
        else:
            self._raise(now, pressure)
        self._settle(words)
        return self.pace(now)

    def pace(self, now: float) -> Pace:
        """Return the pace that holds now; without a recent look it is a stop."""
        if self._fed is None:
            return Pace(0.0, None, "the target's signals have not been read yet")
        if now - self._fed > STALE:
            return Pace(0.0, None, f"the target's signals have not been read for {now - self._fed:.0f} s")
        if self.state == STOPPED:
            return Pace(0.0, None, self.reason)
        if self._level >= 1:
            held = f"held to {self.bounds.duty:.0%} of the time" if self.bounds.duty < 1 else ""
            return Pace(self.bounds.duty, self.bounds.workers, held)
        load = self._level * self.bounds.most
        workers = max(1, min(self.bounds.most, math.ceil(load - 1e-9)))
        return Pace(min(self.bounds.duty, self.bounds.duty * load / workers), workers, self.reason)

    # -- moving

    @property
    def _least(self) -> float:
        return LEAST / self.bounds.most

    def _stops(self, reading: Reading) -> bool:
        if reading.state in ("stop", "unknown"):
            return True
        return reading.name in self._held and reading.pressure > RELEASE * reading.brake

    def _stop(self, now: float, stopping: Sequence[Reading]) -> None:
        if self.state != STOPPED:
            self.eased = now
            # A replica that is gone or a signal that cannot be read says nothing about how much load is too much.
            if any(math.isfinite(reading.pressure) for reading in stopping):
                self._remember(now)
                self._level *= 0.5
            self._level = max(self._least, min(self._level, GENTLE))
        self.state = STOPPED
        self.reason = self._cause = "; ".join(dict.fromkeys(reading.words for reading in stopping))

    def _lower(self, now: float, pressure: float) -> None:
        worse = pressure > 1.2 * self._pressure
        if now - self._cut < (1.0 if worse else SETTLE):
            return
        self._pressure = pressure
        self._remember(now)
        self._level = max(self._least, self._level * min(0.8, max(0.3, 0.8 / pressure)))
        self._cut = self._moved = self.eased = now

    def _remember(self, now: float) -> None:
        """Keep where the level had to fall. Falling at the same place again makes more wary; elsewhere less."""
        here = self._level
        again = math.isfinite(self._ceiling) and abs(here - self._ceiling) <= 0.2 * self._ceiling
        self._wary = min(WARY_AT_MOST, self._wary * 2) if again else WARY
        self._ceiling = max(here, self._least)
        self._cut = now

    def _raise(self, now: float, pressure: float) -> None:
        since = now - self._moved
        if self._level >= 1 or since < 1 or now - self._cut < SETTLE:
            return
        wanted = self._level * (1 + RISE * min(since, 2.0) * (1 - pressure / ROOM))
        # First up to just below where it had to fall; once the time is over, further and further.
        beyond = max(0.0, now - self._cut - self._wary)
        allowed = 0.9 * self._ceiling * 1.03 ** min(beyond, 1000.0) if math.isfinite(self._ceiling) else 1.0
        self._level = min(1.0, max(self._level, min(wanted, allowed)))
        self._moved = now

    def _settle(self, words: str = "") -> None:
        """Say how it stands; `words`: what keeps the level from rising just now."""
        if self._level >= 1:
            self.state, self.reason, self._cause = FREE, "", ""
            self._ceiling = math.inf
            return
        self.state = SLOWED
        self.reason = words or (self._cause if self._cause == _GENTLY else f"slower since {self._cause}")


class Window:
    """The latencies of the last seconds, in milliseconds, each with when it was measured."""

    SECONDS = 12.0
    #: Fewer say nothing.
    ENOUGH = 4

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=10_000)

    def add(self, now: float, milliseconds: float) -> None:
        """Take a measurement."""
        self._samples.append((now, milliseconds))
        while self._samples[0][0] < now - self.SECONDS:
            self._samples.popleft()

    def since(self, moment: float) -> list[float]:
        """Return what was measured since a moment, at most as long ago as the window is."""
        return [value for at, value in list(self._samples) if at >= moment]

    def statistic(self, kind: str, now: float, since: float = -math.inf, pending: float = 0.0) -> float | None:
        """Return a measure of the latencies; None when too few are known.

        `pending`: how long something that is being measured has taken by now; it counts where it makes things worse.
        """
        values = self.since(max(since, now - self.SECONDS))
        if len(values) < self.ENOUGH:
            return None
        known = statistic(kind, values)
        return max(known, statistic(kind, [*values, pending])) if pending > known else known


def statistic(kind: str, values: Sequence[float]) -> float:
    """Return a measure (p50, p95, p99, avg, max) of values, of which there is at least one; percentiles are of them."""
    if kind == "avg":
        return sum(values) / len(values)
    share = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}[kind]
    return sorted(values)[math.ceil(share * len(values)) - 1]
