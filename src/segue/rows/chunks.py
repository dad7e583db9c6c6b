"""Finds the chunk size that takes a given time, and what is left of a table after an interruption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from segue.ports import Batch, Chunk, Cut

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

    def heard(self, size: int, fits: int) -> None:
        """Learn from another labourer, which was given a batch of this size and found what fits."""
        if fits < size:
            self.size = max(1, min(self.size, fits))
        elif size * 2 > self.size:
            # Of batches that were offered before the size had grown, those far behind say nothing about it.
            self.size = max(1, min(self.largest, fits, round(self.size * GROWTH)))


@dataclass(slots=True)
class Remainder:
    """What is left of a key's range, given the chunks that are done: gaps first, then everything after the last.

    Ranges are cut one after the other, so between two done chunks there can only be ranges that were in the hands of
    a worker when it died; and a range is written lane after lane, so no lane is ahead of the first. `number` is that
    of the first batch to offer for it: what is left of chunks without a batch is the same whenever it is asked, so the
    same number always means the same gap.
    """

    gaps: list[Cut] = field(default_factory=list)
    after: tuple[str, ...] | None = None
    number: int = 1
    open_end: bool = True

    @classmethod
    def of(cls, done: Iterable[Chunk]) -> Remainder:
        """Work out what is left. The chunks must come in the order of their keys, which only the server can tell."""
        chunks = list(done)
        if not chunks:
            return cls()
        lanes = max(chunk.lanes for chunk in chunks)
        gaps: list[Cut] = []
        front: tuple[str, ...] | None = None
        for lane in range(lanes):
            position: tuple[str, ...] | None = None
            for chunk in chunks:
                if chunk.lanes > 1 and chunk.lane != lane:
                    continue
                if chunk.after != position:
                    gaps.append(Cut(position, chunk.after, 0, last=False, lane=lane, lanes=lanes))
                position = chunk.until
            if lane == 0:
                front = position
            elif position != front:
                gaps.append(Cut(position, front, 0, last=False, lane=lane, lanes=lanes))
        return cls(gaps=gaps, after=front, number=max(chunk.number for chunk in chunks) + 1)

    @classmethod
    def within(cls, whole: Iterable[Chunk], done: Iterable[Chunk]) -> Remainder:
        """Work out what is left of the ranges of other chunks: an undo goes where the work has been, nowhere else."""
        finished = list(done)
        by_start = {(chunk.after, chunk.lane, chunk.lanes): chunk for chunk in finished}
        gaps: list[Cut] = []
        for chunk in whole:
            position = chunk.after
            while position != chunk.until and (before := by_start.get((position, chunk.lane, chunk.lanes))):
                position = before.until
            if position != chunk.until:
                gaps.append(Cut(position, chunk.until, 0, last=False, lane=chunk.lane, lanes=chunk.lanes))
        return cls(gaps=gaps, number=max((chunk.number for chunk in finished), default=0) + 1, open_end=False)


def pieces(batch: Batch, done: Iterable[Chunk] = ()) -> list[Cut]:
    """Return what is left of a batch, lane by lane; a piece whose keys were not counted has none."""
    lanes = range(batch.lanes) if batch.lane is None else (batch.lane,)
    finished = list(done)
    if batch.lane is None and not finished:
        return [
            Cut(batch.after, batch.until, batch.keys, last=False, shares=batch.shares, lane=lane, lanes=batch.lanes)
            for lane in lanes
        ]
    whole = [Chunk(0, batch.after, batch.until, 0, 0, 0, lane=lane, lanes=batch.lanes) for lane in lanes]
    return Remainder.within(whole, finished).gaps
