"""Shows a run while it goes on: a line a step, and under it the progress of the one that works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segue import clock
from segue.cli import output
from segue.cli._visible import visible
from segue.engine.events import Event, Watch
from segue.model.quantities import count, duration

_MARKS = {
    "step-completed": ("✓", "ok", "green"),
    "undo-completed": ("↶", "undone", "green"),
    "step-failed": ("✗", "failed", "red"),
    "step-warned": ("!", "warning", "yellow"),
    "step-skipped": ("-", "skipped", "dim"),
}
_WORDS = {
    "throttle-slowed",
    "throttle-free",
    "throttle-tuned",
    "throttle-off",
    "connection-lost",
    "connection-back",
    "retry",
    "note",
    "phase",
    "undoing",
    "stopping",
    "took-over",
    "drift-accepted",
    "fence-closed",
    "fence-opened",
}
# How a run ends is printed by the command, with what to do next.
_ENDS = {"failed", "paused", "cancelled"}


# So begins the sentence of somebody who waits here.
_WAITING = "waiting: "
# How far a step is comes no more often than so many seconds in a structured log.
_PROGRESS_SECONDS = 1.0


@contextmanager
def view() -> Iterator[Watch]:
    """Give a watcher that prints to stderr.

    On a terminal with a line that is drawn anew, plain lines elsewhere; with `--log-format json` an object a line.
    """
    if output.structured():
        yield _Objects()
        return
    lines = _Lines(live=output.colorful(sys.stderr) or (sys.stderr.isatty() and not output.as_json()))
    try:
        yield lines
    finally:
        lines.clear()


class _Objects:
    """Prints each event as one JSON object on stderr; a wait that goes on is said once."""

    def __init__(self) -> None:
        self._told: dict[tuple[str | None, str | None], float] = {}
        self._waiting = ""

    def __call__(self, event: Event) -> None:
        if event.action == "progress":
            step = (event.execution, event.step)
            now = clock.ticks()
            if now - self._told.get(step, -_PROGRESS_SECONDS) < _PROGRESS_SECONDS:
                return
            self._told[step] = now
        if event.action == "waiting":
            message = event.message.removeprefix(_WAITING)
            if message == self._waiting:
                return
            self._waiting = message
        output.tell(
            event.action,
            event.message,
            level=event.level,
            at=event.at,
            execution=event.execution,
            step=event.step,
            detail=event.detail,
        )


class _Lines:
    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._drawn = False
        self._progress: dict[str, int] = {}
        self._waiting = ""

    def __call__(self, event: Event) -> None:
        if output.as_json():
            return
        if event.action == "progress":
            self._show_progress(event)
            return
        if event.action == "waiting":
            self._wait(event)
        elif event.action in _MARKS:
            self.clear()
            self._step(event)
        elif event.action in _WORDS or (event.level == "warning" and event.action not in _ENDS):
            self.clear()
            prefix = f"  {event.step}: " if event.step else "  "
            output.say(prefix + event.message)
        elif event.action in ("step-started", "undo-started") and self._live:
            self._draw(f"… {event.step}")

    def _wait(self, event: Event) -> None:
        """Say what is waited for, once; where nobody waits here, the command's error says it."""
        if event.message.startswith(_WAITING) and event.message != self._waiting:
            self.clear()
            self._waiting = event.message
            hint = event.detail.get("hint")
            output.say(f"  {event.message}" + (f" ({hint})" if hint else ""))

    def _step(self, event: Event) -> None:
        mark, word, style = _MARKS[event.action]
        painted = output.paint(mark if self._live else word.ljust(7), style, sys.stderr)
        kind = str(event.detail.get("kind", ""))
        output.say(f"{painted} {event.step or '':<32} {kind:<9} {event.message}".rstrip())
        # What stops the run is said once more at its end, with the details; here only what does not stop it.
        if event.level == "warning":
            for line in event.detail.get("details", ()):
                output.say(f"    {line}")

    def _show_progress(self, event: Event) -> None:
        detail: Any = event.detail
        if "phase" in detail:
            self._show_change(event)
            return
        known = detail["percent"] is not None
        words = f"{event.step}: {count(detail['done'])} "
        if not known:
            words += "rows, more to come"
        elif detail["percent"] < 100:
            words += f"of about {count(detail['total'])} rows, {int(detail['percent'])} %"
        else:
            words += "rows, 100 %"
        if detail.get("rows_per_second"):
            words += f", {count(detail['rows_per_second'])} rows/s"
        if detail.get("seconds_left"):
            words += f", {duration(detail['seconds_left'])} left"
        if self._live:
            self._draw("… " + words)
            return
        # In a log a line for every tenth is enough; where nobody knows the whole, one whenever the rows doubled.
        mark = int(detail["percent"] // 10) if known else 100 + int(detail["done"]).bit_length()
        if self._progress.get(event.step or "") != mark:
            self._progress[event.step or ""] = mark
            output.say("  " + words)

    def _show_change(self, event: Event) -> None:
        """Show how far an online change is; its phases have lines of their own."""
        detail: Any = event.detail
        words = f"{event.step}: {int(detail['percent'])} %, {event.message}"
        if detail.get("rows_per_second"):
            words += f", {count(detail['rows_per_second'])} rows/s"
        if detail.get("seconds_left"):
            words += f", about {duration(detail['seconds_left'])} left"
        mark = int(detail["percent"] // 10)
        if self._live:
            self._draw("… " + words)
        elif self._progress.get(event.step or "") != mark:
            self._progress[event.step or ""] = mark
            output.say("  " + words)

    def _draw(self, text: str) -> None:
        import shutil

        width = shutil.get_terminal_size().columns
        sys.stderr.write("\r\x1b[K" + visible(text)[: width - 1])
        sys.stderr.flush()
        self._drawn = True

    def clear(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False
