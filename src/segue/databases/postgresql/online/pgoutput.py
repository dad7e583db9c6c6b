"""Reads the messages of PostgreSQL's `pgoutput` plug-in, protocol 1, for the keys that they carry. Pure: bytes in.

Asked for are whole committed transactions as text, with messages; whatever else comes is an error, never skipped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: A key as the server writes its values; None where a table was truncated.
Key = tuple[bytes, ...] | None

_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
_OID = struct.Struct(">I")
_LSN = struct.Struct(">Q")

_IS_KEY = 1
#: A value that is out of line and was not written again: the message leaves it out.
_UNCHANGED = object()


class Unreadable(Exception):
    """A message that was not asked for, or that does not carry a captured key: the capture must stop."""


class IdentityChanged(Unreadable):
    """A table's replica identity is not the captured key any more: what it does from here on cannot be told."""


@dataclass(frozen=True, slots=True)
class Captured:
    """To which log a relation's keys go, and the key's columns as they are called in that relation."""

    log: int
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Relation:
    log: int
    positions: tuple[int, ...]


class Decoder:
    """Gathers what comes since it was last emptied: `entries` by (log, xid, key), `marks` by their text.

    `safe` is the end of the last whole transaction: everything before it is in what was gathered. `open` is true in the
    midst of a transaction. `find` says of a relation's oid and name what is captured of it.
    """

    def __init__(self, find: Callable[[int, str], Captured], *, prefix: str) -> None:
        self.entries: list[tuple[int, int, Key]] = []
        self.marks: list[str] = []
        self.safe = 0
        self._xid: int | None = None
        self._find = find
        self._prefix = prefix.encode()
        self._relations: dict[int, _Relation] = {}
        self._readers: dict[int, Callable[[bytes], None]] = {
            ord("B"): self._begin,
            ord("C"): self._commit,
            ord("R"): self._relation,
            ord("I"): self._insert,
            ord("U"): self._update,
            ord("D"): self._delete,
            ord("T"): self._truncate,
            ord("M"): self._message,
            ord("Y"): self._ignore,
            ord("O"): self._ignore,
        }

    @property
    def open(self) -> bool:
        """Return whether a transaction has begun whose end has not come yet."""
        return self._xid is not None

    def feed(self, message: bytes) -> None:
        """Take one message; raises Unreadable."""
        read = self._readers.get(message[0]) if message else None
        if read is None:
            raise Unreadable(f"a message of the kind {message[:1]!r} was not asked for")
        try:
            read(message)
        except (struct.error, IndexError, ValueError) as error:
            raise Unreadable(f"a message of the kind {message[:1]!r} ends in its midst") from error

    def take(self) -> tuple[list[tuple[int, int, Key]], list[str]]:
        """Return what was gathered, each entry once, and begin to gather anew."""
        entries, marks = list(dict.fromkeys(self.entries)), self.marks
        self.entries, self.marks = [], []
        return entries, marks

    # -- one message each

    def _begin(self, message: bytes) -> None:
        if self._xid is not None:
            raise Unreadable("a transaction begins inside of another")
        (self._xid,) = _OID.unpack_from(message, 17)

    def _commit(self, message: bytes) -> None:
        self._inside()
        (self.safe,) = _LSN.unpack_from(message, 10)
        self._xid = None

    def _relation(self, message: bytes) -> None:
        (oid,) = _OID.unpack_from(message, 1)
        schema, at = _text(message, 5)
        name, at = _text(message, at)
        full = f"{schema or 'pg_catalog'}.{name}"
        identity = message[at : at + 1]
        (count,) = _SHORT.unpack_from(message, at + 1)
        at += 3
        names: list[str] = []
        keys: set[str] = set()
        for _ in range(count):
            flags = message[at]
            column, at = _text(message, at + 1)
            _LSN.unpack_from(message, at)  # its type and type modifier
            at += 8
            names.append(column)
            if flags & _IS_KEY:
                keys.add(column)
        captured = self._find(oid, full)
        if identity != b"d" or keys != set(captured.key):
            raise IdentityChanged(
                f"the replica identity of {full} is not its primary key ({', '.join(captured.key)}) any more"
            )
        self._relations[oid] = _Relation(captured.log, tuple(names.index(column) for column in captured.key))

    def _insert(self, message: bytes) -> None:
        relation = self._known(message)
        self._expect(message, 5, b"N")
        values, _ = _values(message, 6)
        self._touched(relation, values, None)

    def _update(self, message: bytes) -> None:
        relation = self._known(message)
        old = None
        at = 5
        if message[5:6] in (b"K", b"O"):
            self._expect(message, 5, b"K")  # whole old rows come with another identity than the one that is captured
            old, at = _values(message, 6)
            self._touched(relation, old, None)
        self._expect(message, at, b"N")
        values, _ = _values(message, at + 1)
        self._touched(relation, values, old)

    def _delete(self, message: bytes) -> None:
        relation = self._known(message)
        self._expect(message, 5, b"K")
        values, _ = _values(message, 6)
        self._touched(relation, values, None)

    def _truncate(self, message: bytes) -> None:
        xid = self._inside()
        (count,) = _INT.unpack_from(message, 1)
        for number in range(count):
            (oid,) = _OID.unpack_from(message, 6 + 4 * number)
            if oid not in self._relations:
                raise Unreadable(f"relation {oid} was not described before it was truncated")
            self.entries.append((self._relations[oid].log, xid, None))

    def _message(self, message: bytes) -> None:
        end = message.index(b"\0", 10)
        (length,) = _INT.unpack_from(message, end + 1)
        content = message[end + 5 : end + 5 + length]
        if len(content) != length:
            raise ValueError("cut short")
        if message[10:end] == self._prefix:
            self.marks.append(content.decode())

    def _ignore(self, message: bytes) -> None:
        """Take a description of a type, or where a transaction came from: neither says anything of a key."""

    # -- parts of them

    def _inside(self) -> int:
        if self._xid is None:
            raise Unreadable("a change came outside of any transaction")
        return self._xid

    def _known(self, message: bytes) -> _Relation:
        (oid,) = _OID.unpack_from(message, 1)
        relation = self._relations.get(oid)
        if relation is None:
            raise Unreadable(f"relation {oid} was not described before it was changed")
        return relation

    @staticmethod
    def _expect(message: bytes, at: int, kind: bytes) -> None:
        if message[at : at + 1] != kind:
            raise Unreadable(f"expected {kind!r} in a message {message[:1]!r}, found {message[at : at + 1]!r}")

    def _touched(self, relation: _Relation, values: Sequence[object], old: Sequence[object] | None) -> None:
        xid = self._inside()
        key: list[bytes] = []
        for position in relation.positions:
            value = values[position]
            # A long key that stays as it was comes in the old row, and only there.
            if value is _UNCHANGED and old is not None:
                value = old[position]
            if not isinstance(value, bytes):
                raise IdentityChanged("a change came without its key")
            key.append(value)
        self.entries.append((relation.log, xid, tuple(key)))


def widen(xid: int, known: int) -> int:
    """Return the 64-bit transaction id whose lower half is `xid` and which is nearest to a `known` one."""
    distance = (xid - known) & 0xFFFFFFFF
    return known + distance - (1 << 32 if distance >= 1 << 31 else 0)


def copy_line(xid: int, key: Key, columns: int) -> bytes:
    """Return an entry of a log as a line of COPY's text format."""
    values = [b"\\N"] * columns if key is None else [_escape(value) for value in key]
    return b"%d\t%s\n" % (xid, b"\t".join(values))


def _escape(value: bytes) -> bytes:
    if b"\\" in value:
        value = value.replace(b"\\", b"\\\\")
    return value.replace(b"\t", b"\\t").replace(b"\n", b"\\n").replace(b"\r", b"\\r")


def _text(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(b"\0", at)
    return message[at:end].decode(), end + 1


def _values(message: bytes, at: int) -> tuple[list[object], int]:
    (count,) = _SHORT.unpack_from(message, at)
    at += 2
    values: list[object] = []
    for _ in range(count):
        kind = message[at : at + 1]
        at += 1
        if kind == b"t":
            (length,) = _INT.unpack_from(message, at)
            at += 4
            value = message[at : at + length]
            if len(value) != length:
                raise ValueError("cut short")
            values.append(value)
            at += length
        elif kind == b"n":
            values.append(None)
        elif kind == b"u":
            values.append(_UNCHANGED)
        else:
            raise Unreadable(f"a value of the kind {kind!r} was not asked for")
    return values, at
