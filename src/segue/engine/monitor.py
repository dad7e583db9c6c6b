"""Looks at the target while a run goes on, and sums up what it cost."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.errors import SegueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.ports import Sample, Target

EVERY_SECONDS = 0.5
BEAT_SECONDS = 2.0


class Monitor:
    """Samples the target in a thread of its own; `metrics` may be asked at any time.

    A sample that fails is left out: whether the target is lost is for the lease to say. `beat` is called every few
    seconds with the metrics so far, so that a statement of hours does not look like a process that died.
    """

    def __init__(self, target: Target, beat: Callable[[dict[str, Any]], None]) -> None:
        self._target = target
        self._beat = beat
        self._beaten = clock.ticks()
        self._samples: list[Sample] = []
        self._first: Sample | None = None
        self._last: Sample | None = None
        self._stop = threading.Event()
        self._began = clock.ticks()
        self._rows = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="segue monitor", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            self._look()
            if clock.ticks() - self._beaten >= BEAT_SECONDS:
                self._beaten = clock.ticks()
                with suppress(SegueError):
                    self._beat(self.metrics())
            if self._stop.wait(EVERY_SECONDS):
                return

    def _look(self) -> None:
        try:
            sample = self._target.sample()
        except SegueError:
            return
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
        self._thread.join(timeout=5)

    def wrote(self, rows: int) -> None:
        """Count rows that the run wrote."""
        with self._lock:
            self._rows += rows

    def metrics(self) -> dict[str, Any]:
        """Return what the run has cost so far.

        `wal_bytes` is what the whole server wrote meanwhile; `latency_ms` the time of a round trip with a trivial
        query, which waits for CPU and I/O like the application's; `lock_waiters` how many sessions waited for a lock.
        """
        self._look()
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
            }
