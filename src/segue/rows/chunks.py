"""Finds the chunk size that takes a given time, and what is left of a table after an interruption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from segue.ports import Chunk

GROWTH = 1.5


@dataclass(slots=True)
class ChunkSize:
    """The number of keys in the next chunk. It follows the time the last ones took: up slowly, down at once.

    `target` is in seconds. A chunk that was too slow to finish halves the size, down to a single key.
    """

    size: int
    target: float
    largest: int

    def took(self, keys: int, seconds: float) -> None:
        """Learn from a finished chunk."""
        if keys < self.size * 0.5:
            return  # the table's end or a remnant says nothing about full chunks
        fitting = keys * self.target / max(seconds, 0.0005)
        self.size = max(1, min(self.largest, round(min(fitting, self.size * GROWTH))))

    def too_slow(self, keys: int) -> None:
        """Learn from a chunk that was given up."""
        self.size = max(1, min(self.size, keys) // 2)


@dataclass(slots=True)
class Remainder:
    """What is left of a key's range, given the chunks that are done: gaps first, then everything after the last.

    Chunks are cut one after the other, so between two done chunks there can only be chunks that were in the hands of
    a worker when it died.
    """

    gaps: list[tuple[tuple[str, ...] | None, tuple[str, ...]]] = field(default_factory=list)
    after: tuple[str, ...] | None = None
    number: int = 1
    open_end: bool = True

    @classmethod
    def of(cls, done: Iterable[Chunk]) -> Remainder:
        """Work out what is left.

        The done chunks form a chain: each begins where another ended. A chunk that begins where none ended has a
        gap before it, and the gap begins at the end of the chain so far. Only the order in which chunks were cut is
        needed, never a comparison of keys, which Python could not make in the server's collation.
        """
        chunks = sorted(done, key=lambda chunk: chunk.number)
        if not chunks:
            return cls()
        by_start = {chunk.after: chunk for chunk in chunks}
        ends = {chunk.until for chunk in chunks}
        starts = [chunk for chunk in chunks if chunk.after not in ends and chunk.after is not None]
        gaps: list[tuple[tuple[str, ...] | None, tuple[str, ...]]] = []
        position: tuple[str, ...] | None = None
        pending = list(starts)
        while True:
            while position in by_start:
                position = by_start[position].until
            if not pending:
                break
            following = pending.pop(0)
            assert following.after is not None
            gaps.append((position, following.after))
            position = following.after
        return cls(gaps=gaps, after=position, number=chunks[-1].number + 1)

    @classmethod
    def within(cls, whole: Iterable[Chunk], done: Iterable[Chunk]) -> Remainder:
        """Work out what is left of the ranges of other chunks: an undo goes where the work has been, and nowhere else."""
        finished = list(done)
        by_start = {chunk.after: chunk for chunk in finished}
        gaps: list[tuple[tuple[str, ...] | None, tuple[str, ...]]] = []
        for chunk in sorted(whole, key=lambda chunk: chunk.number):
            position = chunk.after
            while position != chunk.until and position in by_start:
                position = by_start[position].until
            if position != chunk.until and chunk.until is not None:
                gaps.append((position, chunk.until))
        return cls(gaps=gaps, number=max((chunk.number for chunk in finished), default=0) + 1, open_end=False)
