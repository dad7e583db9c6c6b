"""Copies tables at one moment and leaves it at that: nothing is followed, and nothing stays behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.moving import copying, snapshot
from segue.databases.postgresql.moving.support import sequences_of, state, told, where
from segue.engine import journal
from segue.errors import Blocked, DriftFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.moving.schema import Schema
    from segue.databases.postgresql.moving.support import Connection, Pair, Side

    Note = Callable[[str], None]


class Moment:
    """A transaction that keeps a snapshot of the source for others to read at, as long as it is open."""

    def __init__(self, pair: Pair) -> None:
        """Begin it."""
        self._connection = open_session(
            pair.source.url, application=f"segue move {pair.id}", pins={"idle_in_transaction_session_timeout": "0"}
        )
        with told(where(pair, pair.source)):
            self._connection.execute("begin isolation level repeatable read, read only")
            row = self._connection.execute("select pg_catalog.pg_export_snapshot()").fetchone()
        self.snapshot = str(row[0]) if row else ""

    @property
    def alive(self) -> bool:
        """Tell whether the snapshot can still be read at."""
        try:
            self._connection.execute("select 1")
        except psycopg.Error:
            return False
        return True

    def close(self) -> None:
        """Let it go."""
        self._connection.close()


def copy(
    pair: Pair, a: Connection, b: Connection, names: Sequence[str], made: Schema | None, workers: int, note: Note
) -> dict[str, int]:
    """Copy tables at one moment, count them on both sides, and bring their sequences; return the rows of each.

    A start that was cut off begins anew. Raises Blocked where a live move of this name is under way, DriftFound where
    the counts differ.
    """
    for side, connection in ((pair.source, a), (pair.target, b)):
        with told(where(pair, side)):
            if state(pair, connection) is not None:
                raise Blocked(
                    f"{where(pair, side)} is in use: a live move of this name has begun",
                    hint="give this one another name, or end that one with `segue move cancel`",
                )
    with told(where(pair, pair.target)):
        if made is not None:
            made.make_tables()
        snapshot.refuse_unlike(a, b, names)
        if snapshot.claim(pair, b, names):
            note("an earlier copy was not finished: copying anew")
    moment = Moment(pair)
    try:
        counts = copying.copy(pair, moment.snapshot, names, workers, note, alive=lambda: moment.alive)
        journal.point("move-copied")
        with ThreadPoolExecutor(1) as beside:
            # While the indexes are built, the source has nothing else to do.
            there = beside.submit(_count, pair, pair.source, names, workers, moment.snapshot)
            if made is not None:
                made.make_rest(workers)
            _compare(names, there.result(), _count(pair, pair.target, names, workers), counts)
    finally:
        moment.close()
    with told(where(pair, pair.target)):
        _bring_sequences(a, b, names)
        for name in names:
            b.execute(f"analyze {name}".encode())
        b.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(pair.name)))
    journal.point("move-removed")
    return counts


def _count(pair: Pair, side: Side, names: Sequence[str], workers: int, at: str | None = None) -> dict[str, int]:
    def count(name: str) -> int:
        with pair.open(side) as connection, told(where(pair, side)), connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            if at is not None:
                connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(at)))
            row = connection.execute(sql.SQL("select count(*) from {}").format(sql.SQL(name))).fetchone()
            return int(row[0]) if row else 0

    with ThreadPoolExecutor(workers, thread_name_prefix="segue count") as pool:
        return dict(zip(names, pool.map(count, names), strict=True))


def _compare(names: Sequence[str], source: dict[str, int], target: dict[str, int], copied: dict[str, int]) -> None:
    wrong = [
        f"{name}: {source[name]} rows in the source, {copied[name]} copied, {target[name]} on the target"
        for name in names
        if not source[name] == target[name] == copied[name]
    ]
    if wrong:
        raise DriftFound(
            "the target has not the rows of the source",
            details=wrong,
            hint="let nobody write to the target meanwhile, and start again: the copy begins anew",
        )


def _bring_sequences(a: Connection, b: Connection, names: Sequence[str]) -> None:
    """Have the target's sequences go on where the source's stand."""
    for sequence in sequences_of(a, names):
        there = b.execute("select pg_catalog.to_regclass(%s) is not null", [sequence.name]).fetchone()
        row = a.execute(sql.SQL("select last_value, is_called from {}").format(sql.SQL(sequence.name))).fetchone()
        if there and there[0] and row:
            b.execute("select pg_catalog.setval(%s::regclass, %s, %s)", [sequence.name, *row])
