"""Compares two tables: digests of the same range on both servers at once, narrowed to rows where they differ.

A range is one statement on each side, which gives the number of its rows and a sum over their hashes; no row leaves a
server where those agree. Where they do not, the range is cut into smaller ones until its keys and hashes can be listed.
Rows under way are told from rows that differ by looking again: a row is equal when the second side has what the first
one had at any of the looks, and differs when the first one stayed as it was and the second one still is otherwise.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue import clock
from segue.databases.postgresql import digests
from segue.databases.postgresql.verifying.sessions import Sessions, await_applied
from segue.model.verifying import DIFFERENT, EXTRA, MISSING, RowDifference, TableVerdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from segue.databases.postgresql.verifying.sessions import Rows
    from segue.databases.postgresql.verifying.tables import Match
    from segue.model.verifying import VerifySpec

    Bound = tuple[str, ...] | None

#: A range of at most so many rows is listed, a larger one cut.
LISTED_ROWS = 20_000
#: How long a range's statement should take, in seconds, and how large a range may get.
RANGE_SECONDS, MOST_ROWS = 1.5, 2_000_000
#: How often a row that differs is looked at.
LOOKS = 3
#: Rows of which the columns that differ are told.
TOLD_COLUMNS = 1_000
#: Parts of a table whose key cannot be walked on both sides alike.
BUCKETS = 4096


@dataclass(slots=True)
class _Suspect:
    """A row that differed at a look. `seen`: all that the first side had; `last`: what both had at the last look."""

    last: tuple[int | None, int | None]
    seen: set[int | None] = field(default_factory=set)
    steady: int = 1


class Comparison:
    """A pair of tables under comparison."""

    def __init__(
        self,
        a: Sessions,
        b: Sessions,
        found: Match,
        spec: VerifySpec,
        *,
        catch_up: Callable[[Sessions, float], None] = await_applied,
    ) -> None:
        """`catch_up` waits until what was written on the first side by now has come to the second, at most so long."""
        self._sides = (a, b)
        self._catch_up = catch_up
        self._match = found
        self._spec = spec
        self._rows = [0, 0]
        self._suspects: dict[tuple[str, ...], _Suspect] = {}
        self._more = 0
        self._hashes = tuple(sql.SQL(" # ").join(column.hash(side) for column in found.columns) for side in range(2))
        self._filter = sql.SQL(" and (\n{}\n)").format(sql.SQL(spec.where)) if spec.where else sql.SQL("")
        key = found.key
        self._key = sql.SQL(", ").join(sql.Identifier("r", name) for name in key.names) if key else sql.SQL("")
        self._texts = (
            sql.SQL("array[{}]").format(
                sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("r", name)) for name in key.names)
            )
            if key
            else sql.SQL("null::text[]")
        )

    def verdict(self) -> TableVerdict:
        """Compare, and say what was found."""
        began = clock.ticks()
        match = self._match
        note = ""
        if match.key is None:
            note = "it has no key that both sides have, so rows that differ are counted, not named"
            self._whole()
        elif match.key.ordered:
            self._walk()
        else:
            note = "the two servers may sort its key differently, so it was read as a whole"
            self._whole()
        differences = self._settle()
        return TableVerdict(
            name=match.sides[0].said,
            other=match.sides[1].said,
            rows=(self._rows[0], self._rows[1]),
            key=match.key.names if match.key else (),
            differences=tuple(differences),
            more=self._more,
            texts={column.name: column.why for column in match.columns if column.why},
            alone=match.alone,
            note=note,
            seconds=round(clock.ticks() - began, 3),
        )

    # -- ranges

    def _walk(self) -> None:
        """Compare range by range, several at a time, each on both sides at once."""
        open_: deque[tuple[Bound, Bound, tuple[Future[Rows], Future[Rows]]]] = deque()
        unlike: list[tuple[Bound, Bound, int]] = []
        size = self._spec.range_rows
        after: Bound = None
        ended = False
        while open_ or not ended:
            while not ended and len(open_) < self._spec.jobs + 1:
                until = self._cut(after, None, size)
                open_.append((after, until, self._total(after, until)))
                after, ended = until, until is None
            began = clock.ticks()
            low, high, futures = open_.popleft()
            (a,), (b,) = (future.result() for future in futures)
            took = clock.ticks() - began
            if took > RANGE_SECONDS * 2:
                size = max(1000, size // 2)
            elif took < RANGE_SECONDS / 2 and size < MOST_ROWS:
                size = min(MOST_ROWS, size * 2)
            self._rows[0] += a[0]
            self._rows[1] += b[0]
            if a != b:
                unlike.append((low, high, max(a[0], b[0])))
        for low, high, rows in unlike:
            self._narrow(low, high, rows)

    def _narrow(self, after: Bound, until: Bound, rows: int) -> None:
        """Find the rows of a range that differ."""
        if self._more:
            # Enough are named; of the others it is only said that there are some.
            self._more += 1
            return
        if rows <= LISTED_ROWS:
            self._list(self._range(after, until))
            return
        cuts = list(self._cuts(after, until, max(LISTED_ROWS // 2, rows // 16)))
        asked = [(low, high, self._total(low, high)) for low, high in cuts]
        for low, high, futures in asked:
            (a,), (b,) = (future.result() for future in futures)
            if a != b:
                # A side that alone has many rows between two cuts of the other one cannot be cut there.
                alone = len(cuts) == 1
                self._narrow(low, high, min(LISTED_ROWS, rows) if alone else max(a[0], b[0]))

    def _cuts(self, after: Bound, until: Bound, size: int) -> Iterator[tuple[Bound, Bound]]:
        while True:
            cut = self._cut(after, until, size)
            yield after, cut if cut is not None else until
            if cut is None:
                return
            after = cut

    def _cut(self, after: Bound, until: Bound, size: int) -> Bound:
        """Return the key so many rows on, found on the side that has more; None when there are not so many."""
        query = sql.SQL("select {} from {} as r where {} order by {} offset {} limit 1").format(
            self._texts,
            self._match.sides[0].identifier,
            self._range(after, until),
            self._key,
            sql.Literal(size - 1),
        )
        found = self._sides[0].now(query)
        if not found or (until is not None and tuple(found[0][0]) == until):
            return None
        return tuple(found[0][0])

    def _range(self, after: Bound, until: Bound) -> sql.Composable:
        parts = []
        for operator, bound in ((">", after), ("<=", until)):
            if bound is not None:
                parts.append(sql.SQL("({}) {} ({})").format(self._key, sql.SQL(operator), self._values(bound)))
        return sql.SQL(" and ").join(parts) if parts else sql.SQL("true")

    def _values(self, bound: Sequence[str]) -> sql.Composable:
        key = self._match.key
        kinds = key.types if key else ()
        return sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(kind))
            for value, kind in zip(bound, kinds, strict=True)
        )

    def _total(self, after: Bound, until: Bound) -> tuple[Future[Rows], Future[Rows]]:
        where = self._range(after, until) + self._filter
        return self._both([digests.total(self._hashes[side], self._table(side), where) for side in range(2)])

    def _table(self, side: int) -> sql.Composable:
        return self._match.sides[side].identifier + sql.SQL(" as r")

    def _both(self, queries: Sequence[sql.Composable], values: Any = None) -> tuple[Future[Rows], Future[Rows]]:
        first, second = (self._sides[side].ask(queries[side], values) for side in range(2))
        return first, second

    # -- what cannot be walked

    def _whole(self) -> None:
        """Compare by parts that a hash makes, in one statement on each side."""
        of = self._texts if self._match.key else None
        queries = []
        for side in range(2):
            part = (
                sql.SQL('pg_catalog.hashtextextended({}::text collate "C", 0)').format(of)
                if of is not None
                else self._hashes[side]
            )
            queries.append(
                sql.SQL(
                    "select segue_part, count(*), sum(pg_catalog.hashint8extended(segue_hash, 0) # segue_hash) "
                    "from (select {} & {} as segue_part, {} as segue_hash from {} where true{} offset 0) as s "
                    "group by 1"
                ).format(part, sql.Literal(BUCKETS - 1), self._hashes[side], self._table(side), self._filter)
            )
        a, b = ({row[0]: row[1:] for row in future.result()} for future in self._both(queries))
        self._rows = [sum(int(row[0]) for row in side.values()) for side in (a, b)]
        unlike = [part for part in {*a, *b} if a.get(part) != b.get(part)]
        if not unlike:
            return
        if self._match.key is None:
            self._count_unlike(unlike)
            return
        chosen = sql.SQL('(pg_catalog.hashtextextended({}::text collate "C", 0) & {}) = any({}::bigint[])').format(
            self._texts, sql.Literal(BUCKETS - 1), sql.Literal(unlike)
        )
        self._list(chosen)

    def _count_unlike(self, parts: list[int]) -> None:
        """Count the rows that one side has more often than the other one."""
        counts: list[dict[int, int]] = []
        queries = [
            sql.SQL(
                "select segue_hash, count(*) from (select {} as segue_hash from {} where true{} offset 0) as s "
                "where (segue_hash & {}) = any({}::bigint[]) group by 1"
            ).format(self._hashes[side], self._table(side), self._filter, sql.Literal(BUCKETS - 1), sql.Literal(parts))
            for side in range(2)
        ]
        for future in self._both(queries):
            counts.append({number: int(times) for number, times in future.result()})
        a, b = counts
        self._more += sum(abs(a.get(number, 0) - b.get(number, 0)) for number in {*a, *b})

    # -- rows

    def _list(self, where: sql.Composable) -> None:
        """Compare the rows that fulfil a condition one by one."""
        a, b = self._look(where)
        for key in {*a, *b}:
            pair = (a.get(key), b.get(key))
            if pair[0] == pair[1]:
                continue
            if len(self._suspects) >= self._spec.listed:
                self._more += 1
            else:
                self._suspects[key] = _Suspect(pair, {pair[0]})

    def _look(self, where: sql.Composable) -> tuple[dict[tuple[str, ...], int], dict[tuple[str, ...], int]]:
        queries = [
            sql.SQL("select {}, {} from {} where {}{}").format(
                self._texts, self._hashes[side], self._table(side), where, self._filter
            )
            for side in range(2)
        ]
        a, b = ({tuple(row[0]): row[1] for row in future.result()} for future in self._both(queries))
        return a, b

    def among(self, keys: Sequence[Sequence[str]]) -> sql.Composable:
        """Return the condition that a row's key is among some."""
        listed = sql.SQL(", ").join(sql.SQL("({})").format(self._values(key)) for key in keys)
        return sql.SQL("({}) in ({})").format(self._key, listed)

    def _settle(self) -> list[RowDifference]:
        """Look at the rows that differ again, until each is equal or stays as it is."""
        limit = clock.ticks() + self._spec.settle
        certain: dict[tuple[str, ...], _Suspect] = {}
        open_ = self._suspects
        while open_ and self._spec.settle > 0:
            self._catch_up(self._sides[0], max(0.2, limit - clock.ticks()))
            still: dict[tuple[str, ...], _Suspect] = {}
            for part in _pieces(list(open_), 1000):
                a, b = self._look(self.among(part))
                for key in part:
                    suspect, now = open_[key], (a.get(key), b.get(key))
                    suspect.seen.add(now[0])
                    if now[1] in suspect.seen:
                        continue
                    suspect.steady = suspect.steady + 1 if now == suspect.last else 1
                    suspect.last = now
                    # One that changes all the time is not waited for any longer than the others.
                    over = clock.ticks() > limit + 4 * self._spec.settle
                    (certain if suspect.steady >= LOOKS or over else still)[key] = suspect
            open_ = still
        if self._spec.settle <= 0:
            certain = open_
        return self._told(certain)

    def _told(self, certain: dict[tuple[str, ...], _Suspect]) -> list[RowDifference]:
        names = [column.name for column in self._match.columns]
        both = sorted(key for key, one in certain.items() if None not in one.last)
        columns: dict[tuple[str, ...], tuple[str, ...]] = {}
        for part in _pieces(both[:TOLD_COLUMNS], 500):
            queries = [
                sql.SQL("select {}, array[{}] from {} where {}").format(
                    self._texts,
                    sql.SQL(", ").join(column.hash(side) for column in self._match.columns),
                    self._table(side),
                    self.among(part),
                )
                for side in range(2)
            ]
            a, b = ({tuple(row[0]): row[1] for row in future.result()} for future in self._both(queries))
            for key in part:
                if key in a and key in b:
                    pairs = zip(names, a[key], b[key], strict=True)
                    columns[key] = tuple(name for name, mine, theirs in pairs if mine != theirs)
        return [
            RowDifference(
                key,
                MISSING if one.last[1] is None else EXTRA if one.last[0] is None else DIFFERENT,
                columns.get(key, ()),
            )
            for key, one in sorted(certain.items())
        ]


def _pieces(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
