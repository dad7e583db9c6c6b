"""Measures an application's latency while work goes on: by a probe, by the server's statistics, or by asking a URL."""

from __future__ import annotations

import json
import math
import threading
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.errors import SegueError, StepFailed
from segue.model.throttling import Reading, judged, unreadable
from segue.rows.throttle import STALE, Window, statistic

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.model.throttling import ThrottleSettings
    from segue.ports import Gauge

EVERY_SECONDS = 0.5
URL_SECONDS = 2.0
MOST_BYTES = 65_536
# An application that has ended no statement for so long is taken to have nothing to do.
IDLE_SECONDS = 60.0
NAME = "latency"
#: What is asked of a URL that says more than one number, where there is no budget.
USUAL = "p95"


class Latency:
    """Measures twice a second, in a thread of its own, until it is closed."""

    def __init__(self, gauge: Gauge, settings: ThrottleSettings) -> None:
        self._budget = settings.budget
        self._gauge = gauge
        self._settings = settings
        self._window = Window()
        self._lock = threading.Lock()
        self._began = clock.ticks()
        self._asked: float | None = None
        self._answered: float | None = None
        self._last: float | None = None
        self._error = ""
        #: Where the latency comes from, in words; empty until that is known.
        self.source = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, name="segue latency", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop measuring, after what is being measured."""
        self._stop.set()

    def rebudget(self, settings: ThrottleSettings) -> bool:
        """Take another budget; False when that means to measure anew, from another source or for another statistic."""
        before = self._settings
        if (before.latency_probe, before.latency_url) != (settings.latency_probe, settings.latency_url):
            return False
        if settings.latency_url is not None and _kind(settings) != _kind(before):
            return False  # a URL is asked for one statistic
        if not measures(settings):
            return False
        with self._lock:
            self._settings, self._budget = settings, settings.budget
        return True

    def reading(self, now: float, since: float) -> Reading:
        """Return how the latency is, `since` the pace last went down, compared with the budget."""
        with self._lock:
            error, answered, asked = self._error, self._answered, self._asked
        begun = max(since, self._began)
        if error:
            return unreadable(NAME, f"the latency cannot be read: {error}", unit="ms")
        if now - max(answered if answered is not None else self._began, begun) > STALE and asked is not None:
            return unreadable(NAME, f"the latency has not been measured for {now - (answered or self._began):.0f} s")
        pending = (now - asked) * 1000 if asked is not None else 0.0
        value = self._value(now, begun, pending)
        if value is not None:
            return self._judged(value)
        if answered is not None and now - begun > STALE:
            # An application that was at work may stand still because of us: that is no room for more.
            idle = self._last is None or now - self._last > IDLE_SECONDS
            words = "the application ended no statement lately"
            return Reading(NAME, None, "ms", self._limit, "ok", words, 0.0 if idle else 0.9)
        # Neither room nor pressure: it stays as it is.
        return Reading(NAME, None, "ms", self._limit, "ok", "the latency is being measured", 0.9)

    def as_json(self, now: float) -> dict[str, Any]:
        """Return the latest statistics, in milliseconds."""
        with self._lock:
            values = self._window.since(now - Window.SECONDS)
        told = self._settings.latency_url is not None
        kinds = () if not values or told else ("p50", "p95", "p99", "avg", "max")
        return {
            "source": self.source,
            "budget": str(self._budget) if self._budget is not None else None,
            **({"told": round(values[-1], 3)} if values and told else {}),
            **{kind: round(statistic(kind, values), 3) for kind in kinds},
        }

    @property
    def _limit(self) -> float | None:
        return self._budget.milliseconds if self._budget is not None else None

    def _value(self, now: float, since: float, pending: float) -> float | None:
        kind = _kind(self._settings)
        with self._lock:
            values = self._window.since(max(since, now - Window.SECONDS))
            if self._settings.latency_url is not None:
                return values[-1] if values else None  # it is a statistic already
            found = self._window.statistic(kind, now, since, pending)
        # Where statements are rare, a few must do.
        return statistic(kind, values) if found is None and values and now - since > STALE else found

    def _judged(self, value: float) -> Reading:
        kind = _kind(self._settings)
        words = f"{kind} {value:.3g} ms" if value < 100 else f"{kind} {value:.0f} ms"
        if self._budget is not None:
            side = "over" if value >= self._budget.milliseconds else "within"
            words += f" {side} the budget of {self._budget.milliseconds:g} ms"
        return judged(NAME, value, "ms", self._limit, words)

    # -- measuring

    def _go(self) -> None:
        measure: Callable[[], float | None] | None = None
        while not self._stop.is_set():
            with self._lock:
                self._asked = clock.ticks()
            value, error = None, ""
            try:
                measure = measure or self._chosen()
                value = measure()
            except SegueError as failure:
                error = failure.message
            except Exception as failure:  # whatever it is: a latency that is not known stops the work, and says why
                error = f"{type(failure).__name__}: {failure}"
            with self._lock:
                self._asked, self._error = None, error
                if not error:
                    self._answered = clock.ticks()
                if value is not None:
                    self._last = clock.ticks()
                    self._window.add(self._last, value)
            self._stop.wait(EVERY_SECONDS)

    def _chosen(self) -> Callable[[], float | None]:
        settings, kind = self._settings, _kind(self._settings)
        if settings.latency_url is not None:
            url = settings.latency_url
            self.source = url
            return lambda: fetch(url, kind)
        if settings.latency_probe is None and self._gauge.statements_missing() is None:
            self.source = "pg_stat_statements"
            return self._gauge.statements
        self.source = "probe" if settings.latency_probe is not None else "round trip"
        return lambda: self._gauge.time(settings.latency_probe)


def measures(settings: ThrottleSettings) -> bool:
    """Return whether these settings ask for a latency at all."""
    return settings.budget is not None or settings.latency_url is not None or settings.latency_probe is not None


def _kind(settings: ThrottleSettings) -> str:
    return settings.budget.kind if settings.budget is not None else USUAL


def fetch(url: str, kind: str) -> float:
    """Ask a URL for a latency in milliseconds: a number, or a JSON object in which it stands under its kind.

    Raises StepFailed with what is wrong.
    """
    from http.client import HTTPException
    from urllib import request
    from urllib.error import HTTPError, URLError

    # Put together by hand: the usual one would follow a redirection to a file or to FTP.
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    try:
        with opener.open(url, timeout=URL_SECONDS) as answer:
            text = answer.read(MOST_BYTES).decode("utf-8", "replace").strip()
    except HTTPError as error:
        error.close()
        raise StepFailed(f"{url} answers {error.code} {error.reason}") from error
    except (URLError, HTTPException, OSError) as error:
        raise StepFailed(f"{url} does not answer: {getattr(error, 'reason', None) or error}") from error
    return number(text, kind, url)


def number(text: str, kind: str, url: str) -> float:
    """Return the milliseconds in an answer; raises StepFailed."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        if kind not in value:
            known = ", ".join(f'"{name}"' for name in value) or "nothing"
            raise StepFailed(f'{url} does not say "{kind}", but {known[:100]}')
        value = value[kind]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise StepFailed(f"{url} answers no number of milliseconds, but {json.dumps(text[:60], ensure_ascii=False)}")
    return float(value)
