"""Draws an execution for a terminal of any size: lines of styled pieces; no terminal, no store, no clock."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from segue.cli import _changes, _standing, output
from segue.model.quantities import count, duration, size

#: A line: pieces of text, each with a style of Rich's.
Line = list[tuple[str, str]]

# Without news for so long the view says so, in seconds.
SILENT_SECONDS = 5.0
#: Narrower than this, the kinds of the steps are left out.
KINDS_FROM = 72
WIDEST_NAME = 28
WIDEST_BAR = 40
#: How many lines one thing may take, when it must be broken.
FIELD_LINES = 3
#: How many lines of the log there are at least, where there is any room.
LOG_LINES = 3

_STATUS = {
    "completed": "green",
    "rolled-back": "green",
    "running": "bold",
    "waiting": "yellow",
    "paused": "yellow",
    "failed": "bold red",
    "cancelled": "yellow",
}
_STATES = {"ok": "", "slow": "yellow", "stop": "red", "unknown": "red"}
_WARNED = {"warning": "yellow", "error": "red"}
_AT_WORK = ("running", "undoing", "begun", "waiting", "failed")


@dataclass(frozen=True)
class Look:
    """What was seen of an execution: its description, lines of its log, and when, by the store's clock and by ours.

    `rates` are the rows per second of the last while, by step, where there was one.
    """

    item: dict[str, Any]
    lines: list[dict[str, Any]]
    at: datetime
    ticks: float
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Signs:
    """The signs that a terminal can show."""

    marks: Mapping[str, str]
    bar: tuple[str, str] = ("━", "─")
    cut: str = "…"


_PLAIN = Signs(
    {
        "completed": "+",
        "undone": "<",
        "failed": "x",
        "warned": "!",
        "skipped": "-",
        "running": ">",
        "undoing": ">",
        "begun": ">",
        "waiting": "~",
        "pending": ".",
    },
    ("#", "-"),
    "~",
)
SIGNS = Signs({status: mark for status, (mark, _) in _standing.MARKS.items()})


def signs(encoding: str | None) -> Signs:
    """Return the signs for a terminal's encoding."""
    try:
        "".join([*SIGNS.marks.values(), *SIGNS.bar, SIGNS.cut]).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN
    return SIGNS


def draw(look: Look, ticks: float, *, width: int, height: int, missed: str = "", signs: Signs = SIGNS) -> list[Line]:
    """Return the whole screen: what the execution is, its steps, how it goes, the end of its log, and how to leave."""
    later = max(0.0, ticks - look.ticks)
    draft = _Draft(look, later, width, signs)
    foot = draft.foot(missed)
    head, facts = draft.head(), draft.facts()
    # The last line of a screen stays free of anything that could make it scroll.
    room = max(0, height - len(head) - len(foot) - 1)
    facts = facts[: max(0, room - draft.least() - 1)]
    steps = draft.steps(room - len(facts) - (1 if facts else 0) - (LOG_LINES + 1 if room > 16 else 0))
    lines = [*head, *steps]
    if facts:
        lines += [[], *facts]
    left = height - len(lines) - len(foot) - 2
    if left > 0 and look.lines:
        lines += [[], *draft.log(left)]
    lines = lines[: max(0, height - len(foot))]
    whole = [*lines, *([] for _ in range(height - len(lines) - len(foot))), *foot][:height]
    return [_fitted(line, width) for line in whole]


def _fitted(line: Line, width: int) -> Line:
    """Return a line cut to the width, without signs that would move a terminal's cursor."""
    fitted: Line = []
    left = width
    for text, style in line:
        kept = ""
        for char in text if text.isprintable() else (char if char.isprintable() else " " for char in text):
            left -= output.width_of(char)
            if left < 0:
                return [*fitted, (kept, style)]
            kept += char
        fitted.append((kept, style))
    return fitted


def progress(job: Mapping[str, Any]) -> list[str]:
    """Return how far a job is, how fast it goes, and how long it will take, without the share."""
    if _standing.share_known(job) and job["status"] != "completed":
        said = [f"{count(job['processed_rows'])} of about {count(job['total_rows'])} rows"]
    else:
        said = [f"{count(job['processed_rows'])} rows{'' if job['status'] == 'completed' else ' so far'}"]
    if job["status"] == "running" and job["rows_per_second"] is not None:
        said.append(f"{count(job['rows_per_second'])} rows/s")
    left = _standing.seconds_left(job)
    if left is not None:
        said.append(f"{duration(left)} left")
    return said


class _Draft:
    """The parts of one picture, each as lines no wider than the screen."""

    def __init__(self, look: Look, later: float, width: int, signs: Signs) -> None:
        self._item = look.item
        self._lines = look.lines
        self._rates = look.rates
        self._at = look.at
        self._later = later
        self._width = width
        self._signs = signs

    def head(self) -> list[Line]:
        """Return what runs where, how it stands, and by whose hand."""
        item = self._item
        status = _standing.status(item)
        style = "bold red" if item["abandoned"] else _STATUS.get(item["status"], "")
        elapsed = self._since(item["started_at"])
        right = status + (f"  {duration(elapsed)}" if elapsed is not None else "")
        title = self._crop(f"{item['plan']} in {item['environment']}", self._width - output.width_of(right) - 2)
        gap = " " * max(2, self._width - output.width_of(title) - output.width_of(right))
        about = [
            f"execution {item['execution']} (number {item['number']})",
            f"{item['steps_completed']} of {item['steps_total']} steps",
        ]
        driver = _standing.driver(item)
        if driver:
            about.append(driver if driver.startswith(("worker ", "nobody")) else f"by {driver}")
        return [
            [(title, "bold"), (gap, ""), (status, style), (right[len(status) :], "")],
            *([(line, "dim")] for line in self._packed(about, "")),
            [],
        ]

    def steps(self, room: int) -> list[Line]:
        """Return the steps, those at work in any case; what does not fit is counted."""
        steps = self._item["steps"]
        blocks = [self._step(step) for step in steps]
        first, last = 0, len(steps)

        def whole() -> int:
            return sum(map(len, blocks[first:last])) + (first > 0) + (last < len(steps))

        # First those that are done, from the top; then those to come, from the bottom.
        while whole() > room and first < last and not self._at_work(steps[first]):
            first += 1
        while whole() > room and first < last and not self._at_work(steps[last - 1]):
            last -= 1
        lines = [line for block in blocks[first:last] for line in block]
        above = [self._counted(steps[:first], "above")] if first else []
        below = [self._counted(steps[last:], "below")] if last < len(steps) else []
        return [*above, *lines[: max(1, room - len(above) - len(below))], *below]

    def least(self) -> int:
        """Return how many lines the steps need at least: those at work, and how many others there are."""
        busy = [step for step in self._item["steps"] if self._at_work(step)]
        return sum(len(self._step(step)) for step in busy) + 2

    def facts(self) -> list[Line]:
        """Return how it goes: what it waits for, its pace, the application, replicas, locks."""
        item = self._item
        throttle = _standing.throttle(item)
        slowed = {"slowed": "yellow", "stopped": "red"}.get(throttle.get("state", ""), "")
        latency = _standing.application(item)
        wal = (item["metrics"] or {}).get("wal_bytes")
        known = [
            ("kept out", _standing.kept_out(item) if item["fenced_at"] else None, "bold red"),
            ("because", _standing.waiting(item), "yellow"),
            ("next", item["next"], ""),
            ("stopped", (item["error"] or {}).get("message"), "red"),
            ("helped by", _standing.helpers(item), ""),
            ("pace", _standing.pace(item), slowed),
            ("latency", latency, self._worst("latency")),
            ("round trip", _standing.round_trip(item) if latency is None and item["driven_by"] else None, ""),
            ("replicas", _standing.replicas(item), self._worst("replica ")),
            ("lock waits", self._locks(), self._worst("lock waits") or self._worst("blocked by us")),
            ("written", f"{size(wal)} of WAL" if wal and item["driven_by"] else None, ""),
        ]
        return [line for name, words, style in known if words is not None for line in self._field(name, words, style)]

    def log(self, room: int) -> list[Line]:
        """Return the end of the log, the newest line last."""
        lines: list[Line] = []
        for line in self._lines[-room:]:
            step = f"{line['step']}: " if line["step"] else ""
            moment = f"{line['at']:%H:%M:%S}Z  "
            words = self._crop(step + line["message"], self._width - len(moment))
            lines.append([(moment, "dim"), (words, _WARNED.get(line["level"], ""))])
        return lines

    def foot(self, missed: str) -> list[Line]:
        """Return how to leave, or that nothing is heard."""
        if missed or self._later > SILENT_SECONDS:
            words = f"no news for {duration(self._later)}, looking again{': ' if missed else ''}{missed}"
            return [[(self._crop(words, self._width - 1), "red")]]
        return [[(self._crop("Ctrl-C leaves; the execution is not touched", self._width - 1), "dim")]]

    # -- a step

    def _step(self, step: dict[str, Any]) -> list[Line]:
        status = _standing.step_status(self._item, step)
        names = [self._crop(one["name"], WIDEST_NAME) for one in self._item["steps"]]
        wide = max(map(output.width_of, names))
        name = self._padded(self._crop(step["name"], WIDEST_NAME), wide)
        style = _standing.MARKS.get(status, ("", ""))[1]
        line: Line = [(f" {self._signs.marks.get(status, '?')} ", style), (name, "dim" if style == "dim" else "")]
        if self._width >= KINDS_FROM:
            kinds = max(len(one["kind"]) for one in self._item["steps"])
            line.append((f"  {step['kind']:<{kinds}}", "dim"))
        job = step.get("job")
        if job is not None and step["name"] in self._rates:
            job = {**job, "rows_per_second": self._rates[step["name"]]}
        busy = status in ("running", "undoing", "begun")
        used = sum(output.width_of(text) for text, _ in line) + 2
        change = step.get("change")
        if busy and change is not None and status != "undoing":
            line += [("  ", ""), *self._bar(change, self._width - used)]
            details = _changes.progress(change, self._rates.get(step["name"]))
            holds = [found for words in _changes.in_the_way(change) for found in self._wrapped(words, "   ")]
            return [line, *([("   " + text, "")] for text in self._packed(details, "   ")), *holds]
        if busy and job is not None:
            line += [("  ", ""), *self._bar(job, self._width - used)]
            details = progress(job)
            batches = _standing.batches(job)
            if batches:
                details.append(f"{batches} batches")
            return [line, *([("   " + text, "")] for text in self._packed(details, "   "))]
        line.append(("  " + self._crop(self._outcome(step, status), self._width - used), style if busy else ""))
        return [line]

    def _outcome(self, step: dict[str, Any], status: str) -> str:
        if status in ("running", "undoing", "begun"):
            if status == "begun":
                return "begun"
            started = (step["undo"] if status == "undoing" else step)["started_at"]
            elapsed = self._since(started)
            return duration(elapsed) if elapsed is not None else ""
        if status == "waiting":
            waiting = self._item["waiting_for"] or {}
            return "waits" if waiting.get("step") != step["name"] else f"waits: {waiting['message']}"
        took = _standing.step_seconds(step)
        if "change" in step and status == "completed":
            return f"{duration(took or 0)}, {_changes.phase(step['change'])}"
        if status == "pending" or took is None:
            return "" if status in ("pending", "completed") else status
        words = "" if status == "completed" else f"{status}, "
        rows = f", {count(step['job']['processed_rows'])} rows" if "job" in step and status == "completed" else ""
        return f"{words}{duration(took)}{rows}"

    def _wrapped(self, words: str, indent: str) -> list[Line]:
        """Return what stands in the way of a step, in lines of the screen's width."""
        lines = textwrap.wrap(words, max(10, self._width - len(indent)), break_on_hyphens=False)[:FIELD_LINES]
        return [[(indent + self._crop(line, self._width - len(indent)), "yellow")] for line in lines]

    def _bar(self, job: dict[str, Any], room: int) -> Line:
        if "phase" not in job and not _standing.share_known(job):
            return []
        share = max(0.0, min(100.0, job["percent"]))
        words = f" {int(share):>3} %"
        length = min(WIDEST_BAR, room - len(words))
        if length < 8:
            return [(words.strip(), "bold")]
        done = int(length * share / 100)
        full, empty = self._signs.bar
        return [(full * done, "green"), (empty * (length - done), "dim"), (words, "bold")]

    def _at_work(self, step: dict[str, Any]) -> bool:
        return _standing.step_status(self._item, step) in _AT_WORK

    def _counted(self, steps: Sequence[dict[str, Any]], where: str) -> Line:
        found = Counter(_standing.step_status(self._item, step) for step in steps)
        words = ", ".join(f"{n} {status}" for status, n in found.items())
        return [(self._crop(f"   {len(steps)} more {where}: {words}", self._width), "dim")]

    # -- facts

    def _locks(self) -> str | None:
        waited = _standing.lock_waits(self._item)
        now = [
            one["words"]
            for name in ("lock waits", "blocked by us")
            for one in _standing.readings(self._item, name)
            if one["value"] or one["state"] != "ok"
        ]
        return "; ".join(([waited] if waited else []) + now) or None

    def _worst(self, name: str) -> str:
        states = [one["state"] for one in _standing.readings(self._item, name)]
        return next((_STATES[state] for state in ("stop", "unknown", "slow") if state in states), "")

    def _field(self, name: str, words: str, style: str) -> list[Line]:
        label = f"{name:<12}"
        lines = textwrap.wrap(words, max(10, self._width - len(label)), break_on_hyphens=False) or [""]
        if len(lines) > FIELD_LINES:
            lines = [*lines[: FIELD_LINES - 1], " ".join(lines[FIELD_LINES - 1 :])]
        return [
            [(label if at == 0 else " " * len(label), "dim"), (self._crop(text, self._width - len(label)), style)]
            for at, text in enumerate(lines)
        ]

    # -- text

    def _since(self, moment: datetime | None) -> float | None:
        if moment is None:
            return None
        return max(0.0, (self._at - moment).total_seconds() + self._later)

    def _packed(self, parts: Sequence[str], indent: str) -> list[str]:
        """Return parts joined with commas, broken between parts."""
        room = self._width - len(indent)
        lines = [""]
        for part in parts:
            longer = f"{lines[-1]}, {part}" if lines[-1] else part
            if output.width_of(longer) < room or not lines[-1]:
                lines[-1] = longer
            else:
                lines[-1] += ","
                lines.append(part)
        return [self._crop(line, room) for line in lines]

    def _padded(self, text: str, width: int) -> str:
        return text + " " * (width - output.width_of(text))

    def _crop(self, text: str, width: int) -> str:
        if output.width_of(text) <= width:
            return text
        while text and output.width_of(text) > width - 1:
            text = text[:-1]
        return text.rstrip() + self._signs.cut if width > 0 else ""
