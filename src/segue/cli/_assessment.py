"""Draw an assessment: a line for each step, then what a careful reader wants to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.cli import _layout, output
from segue.model.impact import Lock
from segue.model.quantities import count, duration, size

if TYPE_CHECKING:
    from segue.model.facts import ChangeFacts
    from segue.planning.assessment import AssessedStep, Assessment

#: Seconds below which a lock is held for a moment.
MOMENT = 0.05
#: A longer name stands on a line of its own.
WIDEST_NAME = 24
#: Tables named one by one; of more, the number is given.
NAMED_TABLES = 6
_COLUMNS = ("#", "step", "lock", "blocks", "held for", "rows", "size", "takes", "in the way", "risk")


def draw(found: Assessment, place: str) -> None:
    """Print an assessment."""
    output.data(f'{found.plan} in "{found.environment}" ({place}): {found.summary}')
    output.data()
    _layout.table(_COLUMNS, [_row(step) for step in found.steps], spare=("blocks", "size", "rows", "lock", "takes"))
    _steps(found)
    _tables(found)
    if found.facts is not None:
        output.data()
        server, took = found.facts.server_version, duration(found.facts.took)
        _layout.paragraph(
            f"PostgreSQL {server}, looked at in {took}: {found.facts.speeds.line()}; present rates from "
            f"{found.facts.rates}.",
            first="measured  ",
            indent=" " * 10,
        )
    for at, words in enumerate(found.unknown):
        _layout.paragraph(words + ".", first="unknown   " if at == 0 else None, indent=" " * 10)


def _row(step: AssessedStep) -> list[str]:
    return [
        str(step.predicted.number),
        step.name,
        step.lock.value.lower() or "none",
        step.lock.blocks,
        held(step),
        _rows(step),
        size(step.bytes) if step.bytes else "-",
        "?" if step.seconds is None else "a moment" if step.seconds < MOMENT else duration(step.seconds),
        _in_the_way(step),
        level(step.risk.value),
    ]


def _rows(step: AssessedStep) -> str:
    if step.walk is not None:
        return count(step.walk.keys)
    if step.rows is None:
        return "?" if step.facts else "-"
    return count(step.rows)


def held(step: AssessedStep) -> str:
    """Return for how long the application is kept out, in words."""
    if step.lock.rank < Lock.SHARE.rank:
        return "-"
    if step.held is None:
        return "?"
    return "a moment" if step.held < MOMENT else duration(step.held)


def level(word: str) -> str:
    """Return a level in its colour."""
    style = {"high": "yellow", "critical": "red"}.get(word)
    return output.paint(word, style) if style else word


def _steps(found: Assessment) -> None:
    told = [(step.name, lines) for step in found.steps if (lines := _lines(step))]
    if not told:
        return
    output.data()
    width = min(max(len(name) for name, _ in told), WIDEST_NAME)
    for name, lines in told:
        if len(name) > width:
            output.data(name)
        for at, (label, words) in enumerate(lines):
            begin = name if at == 0 and len(name) <= width else ""
            _layout.paragraph(f"{label}{words}", first=begin.ljust(width + 2), indent=" " * (width + 4))


def _in_the_way(step: AssessedStep) -> str:
    number = len(step.waits_for) + step.waits_unseen
    return "nobody" if number == 0 else f"{number} session" + ("s" if number > 1 else "")


def _lines(step: AssessedStep) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = [("risk: ", reason) for reason in step.reasons]
    slow = step.seconds is None or step.seconds >= MOMENT
    if slow and step.does and not any(step.does in reason for reason in step.reasons):
        lines.append(("", step.does + _times(step)))
    if step.change is not None:
        lines += [("", words) for words in _change(step.change)]
    indirect = [touch for touch in step.touched if touch.why]
    if len(indirect) > NAMED_TABLES:
        lines.append(("also locks ", f"{len(indirect)} more, such as {indirect[0].table} ({indirect[0].why})"))
    else:
        lines += [("also locks ", f"{one.table} ({one.lock.value.lower()}): {one.why}") for one in indirect]
    lines += [("in the way now: ", holder.line()) for holder in step.waits_for]
    if step.waits_unseen:
        lines.append(("", f"and {step.waits_unseen} more in the way"))
    if step.queue is not None and step.queue.per_second >= 1:
        queue = f"{count(step.queue.per_second)} statements/s touch what it locks"
        meanwhile = f"; about {count(step.queue.statements)} would wait" if step.queue.statements else ""
        lines.append(("", queue + meanwhile))
    triggers = sorted({name for one in step.facts for name in one.triggers})
    if triggers:
        lines.append(("fires ", ", ".join(triggers)))
    depends = sorted({name for one in step.facts for name in one.depends})
    if depends:
        lines.append(("used by ", ", ".join(depends)))
    said = " ".join(step.reasons)
    lines += [("", note) for note in step.notes if not ("old name" in note and "old name" in said)]
    return lines


def _change(change: ChangeFacts) -> list[str]:
    """Return how tables would be changed online, why so, and what that takes."""
    said = [f"{change.strategy}: {'; '.join(change.reasons)}"] if change.reasons else []
    if change.seconds:
        parts = ", ".join(f"{name} {duration(value)}" for name, value in change.seconds.items())
        said.append(f"{parts}; while limits slow it down, longer")
        said.append(f"needs about {size(change.disk)} of disk, and as much of WAL is written")
    return said


def _times(step: AssessedStep) -> str:
    return f" ≈ {duration(step.seconds)}" if step.seconds is not None and step.seconds >= MOMENT else ""


def _tables(found: Assessment) -> None:
    shown = [table for table in found.tables if table.kind != "partition"]
    if not shown:
        return
    output.data()
    _layout.table(
        ("table", "kind", "rows", "rows' size", "indexes", "reads/s", "writes/s", "analysed"),
        [
            [
                table.name,
                table.kind + (f" of {table.partitions}" if table.partitions else ""),
                "?" if table.rows is None else count(table.rows),
                size(table.heap_bytes + table.toast_bytes),
                size(table.index_bytes),
                "?" if table.reads is None else count(table.reads),
                "?" if table.writes is None else count(table.writes),
                f"{table.analyzed_at:%Y-%m-%d %H:%M}" if table.analyzed_at is not None else "never",
            ]
            for table in shown[:20]
        ],
        spare=("kind", "indexes", "analysed", "rows' size"),
    )
    if len(shown) > 20:
        output.data(f"and {len(shown) - 20} smaller ones")
