"""Calls a job's function: python -m segue.databases.postgresql.jobs.caller, started by whoever brings the rows.

It is told what to call, and then given batches of rows, in the text format of COPY, through its standard input. Each
row comes back as it was, and after it what the function gave for it, or what is wrong with it. `link.py` says how.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from segue.databases.postgresql.jobs.link import Link
from segue.databases.postgresql.jobs.values import NULL, Fault, Reader, Writer, escaped
from segue.databases.postgresql.passing import BLOCK
from segue.engine import functions

# Of where an error came from, and of what a row would have been, so much is kept.
MOST_STACK = 20_000
MOST_TARGET = 100_000


def main(link: Link) -> None:
    """Load the function, and call it for each batch until nobody gives one any more."""
    wanted: dict[str, Any] = json.loads(link.read() or b"{}")
    file = Path(wanted["file"])
    try:
        function = functions.loaded(file, wanted["function"], gets="a list of rows")
    except BaseException as error:  # what a user's file raises, sys.exit() included
        link.say(error=functions.words(error), stack=functions.trace(error, file))
        return
    calls = Calls(function, file, Reader(wanted["source"]), Writer(wanted["gives"]), link)
    _limit(wanted["memory"])
    link.say(ready=True)
    while (header := link.read()) is not None:
        order = json.loads(header)
        if order.get("send"):
            calls.send()
        else:
            calls.take(order.get("fault"))


class Calls:
    """The batches of a process, one at a time."""

    def __init__(self, function: Callable[[Any], Any], file: Path, reader: Reader, writer: Writer, link: Link) -> None:
        self._function, self._file = function, file
        self._reader, self._writer, self._link = reader, writer, link
        self._lines: list[bytes] = []
        self._nothing = b"\t" + b"\t".join([NULL] * writer.width) + b"\t"

    def take(self, fault: dict[str, Any] | None) -> None:
        """Take a batch, and have it ready; with `fault` nothing is called, and that is what is wrong with its rows."""
        self._lines, self._faults, self._shape = [], 0, ""
        gc.disable()
        try:
            lines = _together(self._link.batch()).split(b"\n")[:-1]
            if fault is not None:
                for line in lines:
                    self._reject(line, fault)
            elif lines:
                self._halve(lines)
            count = len(lines)
        except MemoryError:
            self._lines = lines = []
            self._link.say(memory=True)
        else:
            self._link.say(rows=count, given=len(self._lines), faults=self._faults, shape=self._shape)

    def send(self) -> None:
        """Send what is ready."""
        held: list[bytes] = []
        size = 0
        for line in self._lines:
            held.append(line)
            size += len(line)
            if size >= BLOCK:
                self._link.write(b"\n".join(held) + b"\n")
                held, size = [], 0
        if held:
            self._link.write(b"\n".join(held) + b"\n")
        self._link.write(b"")
        self._lines = []

    def _halve(self, lines: list[bytes]) -> None:
        """Call for all rows at once; where that fails for halves of them, until those at fault stand alone."""
        todo = [lines]
        while todo:
            some = todo.pop()
            try:
                rows = self._reader.rows(some)
            except Fault as error:
                fault = {"message": str(error)}
            else:
                fault = self._call(some, rows) or {}
            if fault and len(some) > 1:
                middle = len(some) // 2
                todo += [some[middle:], some[:middle]]
                # Whoever waits for a call waits for each anew.
                self._link.say(calling=True)
            elif fault:
                self._reject(some[0], fault)

    def _call(self, lines: Sequence[bytes], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Call the function once and keep what it gives; return what is wrong with it as a whole."""
        try:
            gc.enable()
            given = self._function(rows)
            # Rows are no cycles: looking for some among them takes longer than making them.
            gc.disable()
            shape = _shape(given, len(lines))
        except MemoryError as error:
            if len(lines) > 1:
                return {"message": "the memory is used up"}
            return {"message": functions.words(error), "stack": self._stack(error)}
        except BaseException as error:  # what a user's function raises is its row's fault, sys.exit() included
            return {"message": functions.words(error), "stack": self._stack(error)}
        if shape:
            self._shape = self._shape or shape
            return {"message": shape}
        there = [(line, one) for line, one in zip(lines, given, strict=True) if one is not None]
        with suppress(Exception):  # what is wrong with a row is found with it alone
            values = self._writer.lines([one for _, one in there])
            end = b"\t" + NULL
            self._lines += [line + b"\t" + value + end for (line, _), value in zip(there, values, strict=True)]
            return None
        for line, one in there:
            try:
                self._lines.append(line + b"\t" + self._writer.line(one) + b"\t" + NULL)
            except Fault as error:
                self._reject(line, {"message": str(error), "target": _target(one)})
            except MemoryError:
                raise
            except Exception as error:  # what a value's own methods raise
                self._reject(line, {"message": functions.words(error), "stack": self._stack(error)})
        return None

    def _stack(self, error: BaseException) -> str:
        return "".join(functions.trace(error, self._file))[-MOST_STACK:]

    def _reject(self, line: bytes, fault: dict[str, Any]) -> None:
        text = json.dumps(_holdable({"type": "transformation", **fault}), ensure_ascii=False)
        self._lines.append(line + self._nothing + escaped(text.encode("utf-8", "replace")))
        self._faults += 1


def _shape(given: object, count: int) -> str:
    """Return what is wrong with an answer before its rows are looked at, nothing when it is a list of so many."""
    if not isinstance(given, list | tuple):
        return f"the function must return a list with an item for each row, and returned a {type(given).__name__}"
    if len(given) != count:
        return (
            f"the function must return a list with an item for each row, and returned {len(given):,} for {count:,} "
            "(None leaves a row out)"
        )
    return ""


def _target(given: object) -> object:
    """Return what a function gave for a row, as JSON can hold it; nothing of what is large."""
    if not isinstance(given, dict):
        return None
    with suppress(Exception):  # what a value's own methods raise
        text = json.dumps({str(name): value for name, value in given.items()}, default=str)
        if len(text) <= MOST_TARGET:
            # Not a number in JSON: the server would refuse it.
            return json.loads(text, parse_constant=str)
    return None


def _holdable(value: Any) -> Any:
    """Return a value of JSON without what the server's JSON cannot hold."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_holdable(name): _holdable(one) for name, one in value.items()}
    return [_holdable(one) for one in value] if isinstance(value, list) else value


def _together(pieces: Iterator[bytes]) -> bytes:
    held: list[bytes] = []
    try:
        held.extend(pieces)
        return b"".join(held)
    except MemoryError:
        # What was not read would be taken for the next header.
        held.clear()
        for _ in pieces:
            pass
        raise


def _limit(octets: int) -> None:
    """Let this process hold so much more than it does with its modules loaded; where the system can tell."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + octets
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    # What the function reads or prints must not come between: it finds nothing to read, and prints to the errors.
    came, go = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    with suppress(BrokenPipeError):
        main(Link(came, go))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the function left behind are not waited for.
    os._exit(0)
