"""Stays with an execution until its end: a screen on a terminal, elsewhere a line or an object for each change."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from segue import clock
from segue.cli import _changes, _picture, _standing, output
from segue.cli._picture import Look
from segue.errors import Busy, ExitCode, Interrupted, TargetUnreachable
from segue.model.quantities import count, duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from segue.store import Store

T = TypeVar("T")

#: How often the store is asked, and how often the screen is drawn, in seconds.
EVERY_SECONDS = 1.0
DRAWN_SECONDS = 0.5
#: How many lines of the log a view begins with, and how many it keeps at most.
LINES = 100
#: The rate that is shown is that of so many seconds.
RATE_SECONDS = 12.0
#: The exit code of each end; without an end the view goes on.
ENDS = {
    "completed": ExitCode.DONE,
    "rolled-back": ExitCode.DONE,
    "failed": ExitCode.FAILED,
    "cancelled": ExitCode.BLOCKED,
}


def stay(store: Store, execution: str | None) -> int:
    """Show an execution until its end; return the exit code that belongs to it.

    Nothing is asked of the execution. A store that goes away is waited for. Raises NotFound, and Interrupted when
    somebody leaves before the end.
    """
    reader = _Reader(store, execution)
    try:
        if output.as_json():
            item = _stream(reader)
        elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            item = _screen(reader)
        else:
            item = _lines(reader)
    except KeyboardInterrupt:
        raise Interrupted("left; the execution was not touched") from None
    return int(ENDS[item["status"]])


def patiently(read: Callable[[], T]) -> T:
    """Read from the store, again and again while it is away; that it is away is said once."""
    told = False
    while True:
        try:
            return read()
        except (TargetUnreachable, Busy) as error:
            if not told:
                output.say(f"{error.message}; looking again")
            told = True
            clock.sleep(EVERY_SECONDS)


class _Reader:
    """Looks at one execution, with one session at a time; `lines` of a look are what the log said since the last."""

    def __init__(self, store: Store, execution: str | None) -> None:
        from segue.services import watching

        self._store = store
        with store.session() as session:
            row = watching.find(session, execution)
            self._execution = row.id
            self._after = watching.last_line(session, row, back=LINES)

    def look(self) -> Look:
        """Look once; raises TargetUnreachable or Busy when the store does not answer."""
        from segue.services import watching

        with self._store.session() as session:
            row = watching.find(session, self._execution)
            item = watching.describe(session, row)
            # After the status: what is said before the end is here at the end.
            lines = watching.logs(session, row, after=self._after)
            now = watching.now(session)
        if lines:
            self._after = lines[-1]["id"]
        return Look(item, lines, now, clock.ticks())


def _ended(item: dict[str, Any]) -> bool:
    return item["status"] in ENDS


# -- JSON


def _stream(reader: _Reader) -> dict[str, Any]:
    before: dict[str, Any] | None = None
    while True:
        look = patiently(reader.look)
        if look.lines or look.item != before:
            output.line({**look.item, "now": look.at, "log": look.lines})
        before = look.item
        if _ended(look.item):
            return look.item
        clock.sleep(EVERY_SECONDS)


# -- lines


def _lines(reader: _Reader) -> dict[str, Any]:
    before: dict[str, Any] | None = None
    told: dict[str, int] = {}
    while True:
        look = patiently(reader.look)
        for words in changes(before, look.item, told):
            output.data(f"{look.at:%Y-%m-%d %H:%M:%S}Z  {words}")
        sys.stdout.flush()
        before = look.item
        if _ended(look.item):
            return look.item
        clock.sleep(EVERY_SECONDS)


def changes(before: dict[str, Any] | None, item: dict[str, Any], told: dict[str, int]) -> list[str]:
    """Return what is new about an execution, a line each; `told` keeps which tenth of each job was told last."""
    said = []
    if before is None:
        said.append(f"{item['plan']} in {item['environment']}, execution {item['execution']}")
    for step in item["steps"]:
        said += _step_changes(before, item, step, told)
    for words in (_throttled, _standing.kept_out, _status_words):
        new = words(item)
        if new and (before is None or words(before) != new):
            said.append(new)
    return said


def _status_words(item: dict[str, Any]) -> str:
    status = _standing.status(item)
    if item["status"] == "waiting":
        said = f"{status}: {_standing.waiting(item)}"
    elif item["status"] == "running":
        said = f"{status}, driven by {_standing.driver(item)}"
    elif _ended(item) and item["error"]:
        said = f"{status}: {item['error']['message']}"
    elif _ended(item):
        said = f"{status} after {_standing.whole_time(item['seconds'])}"
    else:
        said = status
    hint = (item["error"] or {}).get("hint") if _ended(item) else item["next"]
    return f"{said} ({hint})" if hint else said


def _step_changes(
    before: dict[str, Any] | None, item: dict[str, Any], step: dict[str, Any], told: dict[str, int]
) -> list[str]:
    name = step["name"]
    status = _standing.step_status(item, step)
    earlier = next((one for one in (before or {}).get("steps", []) if one["name"] == name), None)
    was = _standing.step_status(before, earlier) if before and earlier else "pending"
    busy = status in ("running", "undoing", "begun")
    if status != was and not busy:
        told.pop(name, None)
        took = _standing.step_seconds(step)
        if status in ("waiting", "pending") or took is None:
            return [f"{name}: {status}"]
        rows = f", {count(step['job']['processed_rows'])} rows" if "job" in step else ""
        if "change" in step:
            rows = f", {_changes.phase(step['change'])}"
        return [f"{name}: {status} in {duration(took)}{rows}"]
    words = [status] if status != was else []
    if busy and "change" in step and status != "undoing":
        words += _moved(name, step["change"], (earlier or {}).get("change"), told)
    elif busy and "job" in step:
        words += _tenth(name, step["job"], told)
    return [f"{name}: {', '.join(words)}"] if words else []


def _tenth(name: str, job: dict[str, Any], told: dict[str, int]) -> list[str]:
    """Return how far a job is, for every tenth, or where nobody knows the whole, whenever the rows have doubled."""
    known = _standing.share_known(job)
    mark = int(job["percent"] // 10) if known else 100 + int(job["processed_rows"]).bit_length()
    if not job["processed_rows"] or told.get(name) == mark:
        return []
    told[name] = mark
    return [*([f"{int(job['percent'])} %"] if known else []), *_picture.progress(job)]


def _moved(name: str, change: dict[str, Any], before: dict[str, Any] | None, told: dict[str, int]) -> list[str]:
    """Return how far an online change is, for every phase and every tenth, and what has come to stand in its way."""
    mark = int(change["percent"] // 10)
    words = []
    if before is None or before["phase"] != change["phase"] or told.get(name) != mark:
        told[name] = mark
        words = [f"{int(change['percent'])} %", *_changes.progress(change)]
    was = _changes.in_the_way(before) if before is not None else []
    return [*words, *(line for line in _changes.in_the_way(change) if line not in was)]


def _throttled(item: dict[str, Any]) -> str | None:
    """Return the throttle's state, without the pace, which moves all the time."""
    found = _standing.throttle(item)
    if not found:
        return None
    state = {"free": "at full speed", "off": "the throttle is turned off"}.get(found["state"], found["state"])
    return f"data work: {state}"


# -- the screen


def _screen(reader: _Reader) -> dict[str, Any]:
    look = patiently(reader.look)
    if not _ended(look.item):
        from rich.console import Console

        look = _live(Console(file=sys.stdout, force_terminal=True), reader, look)
    _standing.show(look.item)
    return look.item


def _live(console: Console, reader: _Reader, look: Look) -> Look:
    from rich.live import Live

    shown = _Shown(console, look)
    with (
        _interrupted_by(signal.SIGTERM, signal.SIGHUP),
        Live(
            console=console,
            screen=True,
            get_renderable=shown.renderable,
            refresh_per_second=1 / DRAWN_SECONDS,
            redirect_stdout=False,
            redirect_stderr=False,
        ),
    ):
        while not _ended(shown.look.item):
            clock.sleep(EVERY_SECONDS)
            try:
                shown.take(reader.look())
            except (TargetUnreachable, Busy) as error:
                shown.missed = error.message
    return shown.look


class _Shown:
    """What the screen shows; drawn by a thread of its own, so that it moves while the store keeps silent."""

    def __init__(self, console: Console, look: Look) -> None:
        self.look = look
        #: Why the store could not be read last time; empty when it was.
        self.missed = ""
        self._console = console
        self._rates = Rates()
        self._plain = not output.colorful(sys.stdout)
        self._signs = _picture.signs(sys.stdout.encoding)

    def take(self, look: Look) -> None:
        """Show this from now on, after the lines that are there."""
        lines = [*self.look.lines, *look.lines][-LINES:]
        self.look = Look(look.item, lines, look.at, look.ticks, self._rates.of(look))
        self.missed = ""

    def renderable(self) -> RenderableType:
        """Return the picture for the size that the terminal has now."""
        from rich.console import Group
        from rich.text import Text

        size = self._console.size
        lines = _picture.draw(
            self.look, clock.ticks(), width=size.width, height=size.height, missed=self.missed, signs=self._signs
        )
        return Group(
            *(
                Text.assemble(*((text, "" if self._plain else style) for text, style in line), no_wrap=True)
                for line in lines
            )
        )


class Rates:
    """How fast jobs went in the last seconds: the store's rate is of all the time, and hides that they were slowed."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def of(self, look: Look) -> dict[str, float]:
        """Take a look into account; return rows per second by step, for those that were looked at for long enough."""
        found = {}
        for step in look.item["steps"]:
            rows = _rows(step)
            if rows is None:
                self._seen.pop(step["name"], None)
                continue
            seen = self._seen.setdefault(step["name"], deque())
            moment = look.at.timestamp()
            if seen and rows < seen[-1][1]:
                seen.clear()
            seen.append((moment, rows))
            while moment - seen[0][0] > RATE_SECONDS:
                seen.popleft()
            if moment - seen[0][0] >= RATE_SECONDS / 2:
                found[step["name"]] = (rows - seen[0][1]) / (moment - seen[0][0])
        return found


def _rows(step: dict[str, Any]) -> int | None:
    """Return how many rows a step has come to; None where it works on none now."""
    change, job = step.get("change"), step.get("job")
    if change is not None:
        found: int | None = {"copying-data": change["rows_copied"], "verifying": change["rows_compared"]}.get(
            change["phase"]
        )
        return found
    return int(job["processed_rows"]) if job is not None and job["status"] == "running" else None


@contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Have these signals end the screen as Ctrl-C does: the terminal must be left as it was."""

    def leave(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
