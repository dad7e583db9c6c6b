"""How a job and the process that calls its function talk: pieces of bytes, each with its length before it.

To the process: what to load (JSON). Then for each batch a header (JSON: `fault` where nothing is to be called), its
lines in pieces, and an empty piece; later `{"send": true}`, unless nobody wants them. From the process (JSON): `ready`
or `error`; for each batch `calling` whenever it calls once more, then what became of it (`rows`, `given`, `faults`, and
`shape` when it gave no such list) or `memory` when that was used up; asked to send, lines in pieces, and an empty one.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import Any

_LENGTH = struct.Struct(">I")


class Link:
    """The process's end."""

    def __init__(self, reading: int, writing: int) -> None:
        self._in = os.fdopen(reading, "rb", buffering=1 << 18)
        self._out = os.fdopen(writing, "wb", buffering=1 << 18)

    def read(self) -> bytes | None:
        """Return the next piece, None when there is nobody any more."""
        head = self._in.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        return self._in.read(length)

    def batch(self) -> Iterator[bytes]:
        """Return pieces up to the empty one; raises BrokenPipeError when nobody gives them any more."""
        return _Batch(self)

    def write(self, piece: bytes) -> None:
        """Write a piece; the empty one is the end of several, and says so at once."""
        self._out.write(_LENGTH.pack(len(piece)) + piece)
        if not piece:
            self._out.flush()

    def say(self, **words: Any) -> None:
        """Write words, at once."""
        self.write(json.dumps(words).encode())
        self._out.flush()


class _Batch:
    """Pieces up to the empty one; unlike a generator it goes on after an error of whoever takes them."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __iter__(self) -> _Batch:
        return self

    def __next__(self) -> bytes:
        piece = self._link.read()
        if piece is None:
            raise BrokenPipeError
        if not piece:
            raise StopIteration
        return piece


def framed(piece: bytes) -> bytes:
    """Return a piece as it goes to the process."""
    return _LENGTH.pack(len(piece)) + piece


class Pieces:
    """Pieces that come in whatever portions."""

    def __init__(self) -> None:
        self._held = bytearray()

    def take(self, data: bytes) -> None:
        """Take what came."""
        self._held += data

    def next(self) -> bytes | None:
        """Return the next piece, None when it is not whole yet."""
        if len(self._held) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(self._held[: _LENGTH.size])
        if len(self._held) < _LENGTH.size + length:
            return None
        piece = bytes(self._held[_LENGTH.size : _LENGTH.size + length])
        del self._held[: _LENGTH.size + length]
        return piece
