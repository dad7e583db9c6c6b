"""Rows between the text format of COPY and a Python function: each as a dictionary by column, in Python's own types."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.adapt import Buffer, Dumper, Loader, PyFormat, Transformer
from psycopg.pq import Format

NULL = b"\\N"
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_SPECIAL = re.compile(rb"[\\\n\r\t]")
# What cannot go as it is: what COPY marks, what the server cannot hold, and halves of characters.
_UNUSUAL = re.compile("[\\\\\n\r\t\0\ud800-\udfff]")
_SPELT = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}
_INTERVAL = re.compile(r"(?:([-+]?\d+) days? ?)?(?:([-+]?)(\d+):(\d\d):(\d\d(?:\.\d+)?))?")
# Types whose values may be no number; of any other a NaN is a mistake, in a text too.
FLOATS = ("real", "double precision")
JSONS = ("json", "jsonb")


class Fault(Exception):
    """What is wrong with a row, in words."""


class _Hex(Dumper):
    def dump(self, obj: Any) -> bytes:
        return b"\\x" + bytes(obj).hex().encode()


class _Span(Loader):
    def load(self, data: Buffer) -> timedelta:
        text = bytes(data).decode()
        found = _INTERVAL.fullmatch(text)
        if found is None:
            raise ValueError(f"an interval of months has no length in days: {text}")
        days, sign, hours, minutes, seconds = found.groups()
        time = timedelta(hours=int(hours or 0), minutes=int(minutes or 0), microseconds=_micro(seconds or "0"))
        return timedelta(days=int(days or 0)) + (-time if sign == "-" else time)


def _micro(seconds: str) -> int:
    return int(Decimal(seconds) * 1_000_000)


# The driver's own would take thirty days for a month.
psycopg.adapters.register_loader("interval", _Span)
for _kind in (bytes, bytearray, memoryview):
    # The driver's own would ask a connection how; here there is none.
    psycopg.adapters.register_dumper(_kind, _Hex)


class Reader:
    """Reads lines of COPY as rows; `columns`: their names, with the number of each one's type."""

    def __init__(self, columns: Sequence[tuple[str, int]]) -> None:
        # Held as long as its loaders are.
        self._transformer = Transformer()
        self._names = [name for name, _ in columns]
        self._loads = [self._transformer.get_loader(oid, Format.TEXT).load for _, oid in columns]

    def rows(self, lines: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return rows; raises Fault where a value has no counterpart in Python."""
        columns: list[list[Any]] = []
        cells = [line.split(b"\t") if b"\\" not in line else _cells(line) for line in lines]
        for name, load, texts in zip(self._names, self._loads, zip(*cells, strict=True), strict=True):
            try:
                # Nearly all columns are whole, and a call for each value is most of what this takes.
                whole = None not in texts
                columns.append(list(map(load, texts)) if whole else [None if t is None else load(t) for t in texts])
            except MemoryError:
                raise
            except Exception as error:  # whatever a loader raises, the value is at fault
                raise Fault(f'the value of "{name}" cannot be given to Python: {error}') from error
        return [dict(zip(self._names, values, strict=True)) for values in zip(*columns, strict=True)]


def _cells(line: bytes) -> list[Any]:
    return [
        None if cell == NULL else _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), cell)
        for cell in line.split(b"\t")
    ]


def escaped(data: bytes) -> bytes:
    """Return a value as COPY takes it."""
    return _SPECIAL.sub(lambda found: _SPELT[found[0]], data) if _SPECIAL.search(data) else data


class Writer:
    """Writes what a function gave for a row; `columns`: their names, with each one's type as the server writes it."""

    def __init__(self, columns: Sequence[tuple[str, str]]) -> None:
        self._transformer = Transformer()
        self._columns = [(name, kind in JSONS, kind in FLOATS) for name, kind in columns]
        self._names = {name for name, _ in columns}
        self.width = len(columns)

    def lines(self, given: Sequence[object]) -> list[bytes]:
        """Return the values of several rows, quicker than one by one; raises Fault where one of them is at fault."""
        for row in given:
            if type(row) is not dict or row.keys() != self._names:
                return [self.line(row) for row in given]
        columns = []
        for name, as_json, as_float in self._columns:
            values = [row[name] for row in given]  # type: ignore[index]
            kinds = set(map(type, values))
            if kinds == {int}:
                columns.append(list(map(b"%d".__mod__, values)))
            elif kinds == {str} and not as_json and not _UNUSUAL.search("".join(values)):
                columns.append(list(map(str.encode, values)))
            else:
                columns.append([self._cell(name, value, as_json, as_float) for value in values])
        return list(map(b"\t".join, zip(*columns, strict=True)))

    def line(self, given: object) -> bytes:
        """Return the values of a row as COPY takes them; raises Fault."""
        if not isinstance(given, Mapping):
            raise Fault(f"the function gave {_shown(given)} for the row, and not a dictionary or None")
        if given.keys() != self._names:
            raise Fault(self._unlike(given))
        return b"\t".join([self._cell(name, given[name], js, fl) for name, js, fl in self._columns])

    def _unlike(self, given: Mapping[Any, Any]) -> str:
        missing = [name for name, *_ in self._columns if name not in given]
        if missing:
            return f"the function gave no {_listed(missing)}; its row has {_listed(list(given)) or 'nothing'}"
        return f"the function gave {_listed([n for n in given if n not in self._names])}, which `gives` does not name"

    def _cell(self, name: str, value: Any, as_json: bool, as_float: bool) -> bytes:
        if value is None:
            return NULL
        kind = type(value)
        if kind is int:
            return b"%d" % value
        if kind is str and not as_json:
            data = self._encoded(name, value)
        elif as_json:
            data = self._json(name, value)
        elif isinstance(value, float | Decimal):
            if not as_float and not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
                raise Fault(f'the function gave {value} for "{name}", which is no number')
            data = str(value).encode() if isinstance(value, Decimal) else repr(float(value)).encode()
        else:
            data = self._dumped(name, value)
        if b"\0" in data:
            raise Fault(f'the function gave a text with a NUL character for "{name}", which the server cannot hold')
        return escaped(data)

    def _encoded(self, name: str, value: str) -> bytes:
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise Fault(f'the function gave a text for "{name}" that is not valid Unicode') from error

    def _json(self, name: str, value: Any) -> bytes:
        try:
            return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Fault(f'the function gave a value for "{name}" that JSON cannot hold: {error}') from error

    def _dumped(self, name: str, value: Any) -> bytes:
        try:
            return bytes(self._transformer.get_dumper(value, PyFormat.TEXT).dump(value) or b"")
        except (psycopg.Error, TypeError, ValueError) as error:
            raise Fault(f'the function gave {_shown(value)} for "{name}": {error}') from error


def _shown(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:59] + "…"
    return f"a {type(value).__name__}, {text},"


def _listed(names: Sequence[object]) -> str:
    return ", ".join(f'"{name}"' for name in names)
