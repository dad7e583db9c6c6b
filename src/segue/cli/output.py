"""Print: data on stdout, words for people on stderr, JSON as one object, plain text where nobody looks.

Rich is imported only to draw a table on a terminal: a pipe, `NO_COLOR` and `--json` never pay for it.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import IO, Any

from segue.cli._visible import visible

#: What a shell reports for a process that a closed pipe ended; 1 would mean that something was found.
BROKEN_PIPE = 141


class Form(StrEnum):
    """How data is printed."""

    TEXT = "text"
    JSON = "json"


class _Wanted:
    """What this process was asked for; set once, by `configure`."""

    json = False
    #: Whether the words on stderr are a structured log.
    structured = False


_wanted = _Wanted()


def configure(arguments: list[str]) -> list[str]:
    """Take from the arguments what holds for the whole process, so that even a usage error is printed as asked."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character is no reason to fail.
            stream.reconfigure(errors="replace")
    until = arguments.index("--") if "--" in arguments else len(arguments)
    mine, rest = arguments[:until], arguments[until:]
    pairs = list(itertools.pairwise(mine))
    _wanted.json = "--json" in mine or "--format=json" in mine or ("--format", "json") in pairs
    _wanted.structured = "--log-format=json" in mine or ("--log-format", "json") in pairs
    if "--no-color" in mine:
        os.environ["NO_COLOR"] = "1"
        mine = [word for word in mine if word != "--no-color"]
    return mine + rest


def as_json() -> bool:
    """Return whether the user asked for JSON."""
    return _wanted.json


def structured() -> bool:
    """Return whether the user asked for a structured log: each line on stderr is one JSON object then."""
    return _wanted.structured


def colorful(stream: IO[str]) -> bool:
    """Return whether colours may be used on a stream: a terminal, and nobody said no."""
    if structured() and stream is sys.stderr:
        return False
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int | None:
    """Return how many columns the terminal has that shows stdout, None where there is none."""
    if not sys.stdout.isatty():
        return None
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns) or None
    except (OSError, ValueError):
        return None


def interactive() -> bool:
    """Return whether a person can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def data(text: str = "") -> None:
    """Print a line of data on stdout."""
    print(visible(text, colors=colorful(sys.stdout)))


def say(words: str = "") -> None:
    """Print words for a person on stderr. A reader that went away is no reason to stop the work that is reported."""
    if structured():
        tell("said", words)
    else:
        _tell(words)


def warn(words: str) -> None:
    """Print a warning on stderr."""
    if structured():
        tell("warning", words, level="warning")
    else:
        _tell(f"{paint('warning:', 'yellow', sys.stderr)} {words}")


def tell(action: str, message: str, **about: Any) -> None:
    """Write a line of the structured log; see `_logs.line`."""
    from segue.cli import _logs

    _tell(_logs.line(action, message, **about))


def _tell(words: str) -> None:
    try:
        # In one piece: threads that speak at the same time would mix their lines.
        sys.stderr.write(f"{visible(words, colors=colorful(sys.stderr))}\n")
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)


def document(content: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command on stdout; it begins with the format's version."""
    data(json.dumps({"segue": 1, **content}, indent=2, default=_plain, ensure_ascii=False))


def line(content: Mapping[str, Any]) -> None:
    """Print one JSON object on one line, for commands that stream."""
    print(visible(json.dumps({"segue": 1, **content}, default=_plain, ensure_ascii=False)), flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under headings: aligned text, with emphasis on a terminal. Nothing at all when there are no rows."""
    # A name with a line's end in it would look like another row.
    cells = [[visible(_cell(value).replace("\n", "\\n")) for value in row] for row in rows]
    if not cells:
        return
    widths = [max(width_of(line[at]) for line in [list(columns), *cells]) for at in range(len(columns))]
    data(
        paint(
            "  ".join(_pad(name.upper(), width) for name, width in zip(columns, widths, strict=True)).rstrip(), "bold"
        )
    )
    for row in cells:
        data("  ".join(_pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print one thing's fields, a line each, the names aligned; what is None is left out."""
    known = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        data(f"{paint(name.ljust(width), 'bold')}  {_cell(value)}")


def ask(question: str, *, yes: bool, refuse: str) -> None:
    """Ask a person to confirm; with `--yes` do not ask. Raises UsageError(refuse) when nobody can answer."""
    from segue.errors import Interrupted, UsageError

    if yes:
        return
    if not interactive():
        raise UsageError(refuse, hint="add --yes")
    print(f"{visible(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Interrupted("stopped: not confirmed")


_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def paint(text: str, style: str, stream: IO[str] | None = None) -> str:
    """Return text in a style where the stream (stdout by default) shows it, plain elsewhere."""
    if not colorful(stream or sys.stdout):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def flush() -> bool:
    """Flush both streams; False when whoever read stdout is gone."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _silence(stream)
            gone = gone or stream is sys.stdout
    return not gone


def _silence(stream: IO[str]) -> None:
    """Point a broken stream at nothing, or Python would complain about it while it shuts down."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):
        return


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return str(value)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))
