"""Looks at the target while a run goes on, keeps its data work polite, and sums up what it cost."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.errors import SegueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.ports import Sample, Target, Throttle

EVERY_SECONDS = 0.5
BEAT_SECONDS = 2.0


class Monitor:
    """Looks at the target in one thread, and speaks with the store in another; `metrics` may be asked at any time.

    A sample that fails is left out: whether the target is lost is for the lease to say. `beat` is called every few
    seconds with the metrics so far, so that a statement of hours does not look like a process that died. `say` writes
    a line into the log when the throttle's state changes. A store that is away holds up neither looks nor the pace.
    """

    def __init__(
        self,
        target: Target,
        beat: Callable[[dict[str, Any]], None],
        *,
        throttle: Throttle | None = None,
        say: Callable[[str, str], None] = lambda action, message: None,
    ) -> None:
        self._target = target
        self._gauge = target.gauge()
        self._beat = beat
        self._throttle = throttle
        self._say = say
        self._samples: list[Sample] = []
        self._first: Sample | None = None
        self._last: Sample | None = None
        self._stop = threading.Event()
        self._began = clock.ticks()
        self._rows = 0
        self._blind = False
        self._lock = threading.Lock()
        if throttle is not None:
            throttle.begin(self._gauge)
        self._threads = [
            threading.Thread(target=self._watch, name="segue monitor", daemon=True),
            threading.Thread(target=self._tell, name="segue monitor, store", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _watch(self) -> None:
        while True:
            self._look()
            if self._throttle is not None:
                self._throttle.look()
            if self._stop.wait(EVERY_SECONDS):
                return

    def _tell(self) -> None:
        beaten = -BEAT_SECONDS  # the first look is told at once
        while not self._stop.wait(EVERY_SECONDS):
            with suppress(SegueError):
                changed = self._log()
                if changed or clock.ticks() - beaten >= BEAT_SECONDS:
                    beaten = clock.ticks()
                    self._beat(self._summed())
                    if self._throttle is not None:
                        self._throttle.refresh()
        with suppress(SegueError):
            self._log()

    def _log(self) -> bool:
        """Write down what changed, and return whether anything did."""
        changes = self._throttle.changes() if self._throttle is not None else []
        for action, message in changes:
            self._say(action, message)
        return bool(changes)

    def _look(self) -> None:
        try:
            sample = self._gauge.sample()
        except SegueError:
            self._blind = True
            return
        self._blind = False
        with self._lock:
            self._first = self._first or sample
            self._last = sample
            self._samples.append(sample)
            # A run of days keeps every second sample once there are many: percentiles stay true enough.
            if len(self._samples) > 20_000:
                del self._samples[::2]

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._throttle is not None:
            self._throttle.end()
        for thread in self._threads:
            thread.join(timeout=5)
        self._gauge.close()

    def wrote(self, rows: int) -> None:
        """Count rows that the run wrote."""
        with self._lock:
            self._rows += rows

    def metrics(self) -> dict[str, Any]:
        """Return what the run has cost so far.

        `wal_bytes` is what the whole server wrote meanwhile; `latency_ms` the time of a round trip with a trivial
        query, which waits for CPU and I/O like the application's; `lock_waiters` how many sessions waited for a lock.
        """
        if not self._blind:
            self._look()
        return self._summed()

    def _summed(self) -> dict[str, Any]:
        with self._lock:
            times = sorted(sample.round_trip_ms for sample in self._samples)
            seconds = clock.ticks() - self._began
            waits = self._target.waits
            return {
                "seconds": round(seconds, 3),
                "wal_bytes": self._last.wal_bytes - self._first.wal_bytes if self._last and self._first else None,
                "rows": self._rows,
                "rows_per_s": round(self._rows / seconds, 1) if self._rows and seconds else None,
                "lock_waits": waits.slices,
                "lock_wait_ms": round(waits.seconds * 1000),
                "lock_waiters_max": max((sample.lock_waiters for sample in self._samples), default=None),
                "latency_ms": {
                    name: round(times[min(len(times) - 1, int(len(times) * share))], 2)
                    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
                }
                if times
                else None,
                **({"throttle": self._throttle.status()} if self._throttle is not None else {}),
            }
