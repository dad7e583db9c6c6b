"""Backfills a table in key order: each chunk's rows and its progress in one short transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql import history
from segue.databases.postgresql.batches import GAVE_WAY, Claims, PostgresBoard
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.keys import KEYS
from segue.databases.postgresql.lease import Lease, Tenure, check_fence
from segue.engine import journal
from segue.errors import OutcomeUnknown, StepFailed
from segue.ports import (
    FORWARD,
    BackfillSpec,
    Batch,
    BatchLost,
    Chunk,
    ChunkTooSlow,
    ChunkWriter,
    Cut,
    EffectKey,
    NotOffered,
    Patience,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_COLUMNS = """
select a.attname, a.attgenerated <> '' or a.attidentity = 'a'
from pg_catalog.pg_attribute as a
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
"""

_PROGRESS = (
    "select number, after, until, keys, rows, milliseconds, worker, lane, lanes, batch from segue.chunk "
    "where execution = %(execution)s and step = %(step)s and direction = %(direction)s"
)

# Where the key is stored in about its own order, a range's rows fill whole pages. Written at once, every row's new
# version would go to another page, with new entries in every index, and the table would double. Written in lanes,
# the first lane's rows move out; once that is committed, the others find the room that these left in their own page,
# and there a row needs no new index entries (a "heap-only" update). The table grows by about an eighth.
LANES = 8
IN_ORDER = 0.8  # of a correlation of at most 1

_CORRELATION = """
select abs(s.correlation)
from pg_catalog.pg_stats as s
join pg_catalog.pg_class as c on c.relname = s.tablename
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname = s.schemaname
where c.oid = %s::regclass and s.attname = %s and s.correlation is not null
order by s.inherited
limit 1
"""

# The hash that hash partitioning stands on: the same in every version and on every machine, as it must be for a lane
# that is gone on with later.
_HASHES = {
    "bigint": "pg_catalog.hashint8extended({}, 0)",
    "integer": "pg_catalog.hashint8extended({}::bigint, 0)",
    "smallint": "pg_catalog.hashint8extended({}::bigint, 0)",
    "uuid": "pg_catalog.uuid_hash_extended({}, 0)",
}
_HASH = 'pg_catalog.hashtextextended({}::text collate "C", 0)'

# A chunk ends well before the deadlock check of a session that waits for one of its rows: were the two to wait for
# each other, it is always the chunk that gives way, never the application.
CHUNK_OF_DEADLOCK_TIMEOUT = 0.75
ROW_WAIT_SECONDS = 0.15

# Row locks are the only waits here; asynchronous commit is safe because the progress stands in the same transaction:
# a crash loses both or neither.
_PINS = {
    "synchronous_commit": "off",
    "enable_seqscan": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": "5s",
}


class KeyedWork(ABC):
    """Work along a table's key, in chunks that are recorded with what they do. See `segue.ports.ChunkedWork`.

    Whoever derives from it says what is walked and calls `_walk_along`.
    """

    #: Whether the keys of each range are counted: where every place of the index is a row, its walk has counted them.
    counts = True
    #: What is set in the labourers' sessions, beside what is pinned in every one.
    session_pins: Mapping[str, str] = {}

    def __init__(
        self, connection: psycopg.Connection[Any], url: str, lease: Tenure, schema: str, key: EffectKey, what: str
    ) -> None:
        """Prepare; `what` is what people call it, as in `the backfill of "orders"`."""
        self.effect = key
        self.lease = lease
        self.holder = lease.holder
        self.what = what
        self._connection = connection
        self._url = url
        self._schema = schema
        self._rows: dict[str, sql.SQL] = {}

    def _walk_along(
        self,
        table: sql.Composable,
        key: Sequence[str],
        types: Sequence[str],
        collations: Sequence[str | None],
        *,
        lanes: Callable[[], int],
    ) -> None:
        """Begin to walk a table's key, or find how it was begun."""
        self.table = table
        self.key, self._types, self._collations = tuple(key), list(types), list(collations)
        self._end, self.lanes = self._begin(lanes)
        self.board = PostgresBoard(
            self._connection, self.effect, self.lease, self.lost, lambda: self.progress(loose=True)
        )

    @property
    def _reading(self) -> psycopg.Connection[Any]:
        """Return the session by which the walked table is looked at."""
        return self._connection

    @abstractmethod
    def statement(self, cut: Cut) -> sql.Composable:
        """Return the statement that does a range."""

    def writer(self, connection: psycopg.Connection[Any], owner: str) -> Writer:
        """Return the writer of a labourer."""
        return Writer(self, connection, owner)

    def _begin(self, choose_lanes: Callable[[], int]) -> tuple[tuple[str, ...] | None, int]:
        """Return what is settled once: the last key there was when the backfill began, and the number of lanes.

        Rows that come later are the triggers' business: without an end the backfill of a table that grows at its end
        would run after the application for ever.
        """
        settled = {
            direction: (tuple(end) if end else None, int(lanes), tuple(key))
            for direction, end, lanes, key in self._connection.execute(
                "select direction, detail -> 'end', detail -> 'lanes', detail -> 'key' from segue.history "
                "where execution = %s and step = %s and part = -1",
                [self.effect.execution, self.effect.step],
            )
        }
        for _, _, key in settled.values():
            if key != self.key:
                raise StepFailed(
                    f"the key of {self.what} is ({', '.join(self.key)}), and was ({', '.join(key)}) when it began",
                    hint="what is done was cut along the old key; give the table that key again",
                )
        if self.effect.direction in settled:
            end, lanes, _ = settled[self.effect.direction]
            return end, lanes
        if not isinstance(self.lease, Lease):
            raise NotOffered(f'step "{self.effect.step}" has not begun')
        # An undo goes where the work has been, lane by lane.
        lanes = settled[FORWARD][1] if FORWARD in settled else choose_lanes()
        query = sql.SQL("select {} from {} as r order by {} limit 1").format(
            self._key_text(), self.table, self._order(descending=True)
        )
        with self._telling(self._reading):
            last = self._reading.execute(query).fetchone()
        with self._connection.transaction():
            check_fence(self._connection, self.lease.execution, self.lease.fence)
            history.write(
                self._connection,
                EffectKey(**{**_fields(self.effect), "part": -1}),
                fence=self.lease.fence,
                state="done",
                statement="the last key when the backfill began",
                detail={"end": list(last) if last else None, "key": list(self.key), "lanes": lanes},
            )
        return tuple(last) if last else None, lanes

    # -- SQL

    def _columns(self, name_of_row: str = "r") -> list[sql.Composable]:
        return [
            # Qualified: a bare name in ORDER BY would mean the text that the query puts out under the same name,
            # and "9" sorts after "10".
            sql.Identifier(name_of_row, name) + (sql.SQL(" collate " + collation) if collation else sql.SQL(""))
            for name, collation in zip(self.key, self._collations, strict=True)
        ]

    def _key_text(self) -> sql.Composable:
        return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("r", name)) for name in self.key)

    def _order(self, *, descending: bool = False) -> sql.Composable:
        suffix = sql.SQL(" desc") if descending else sql.SQL("")
        return sql.SQL(", ").join(column + suffix for column in self._columns())

    def _compare(self, operator: str, values: tuple[str, ...], name_of_row: str) -> sql.Composable:
        """Compare the key with values as a row, in the key's own types and collation."""
        row = self._rows.get(name_of_row)
        if row is None:
            columns = sql.SQL("({})").format(sql.SQL(", ").join(self._columns(name_of_row)))
            row = self._rows[name_of_row] = self._rendered(columns)
        parts: list[sql.Composable] = [row, sql.SQL(f" {operator} ")]
        before = "("
        for value, kind in zip(values, self._types, strict=True):
            parts += [sql.SQL(before), sql.Literal(value), sql.SQL(f"::{kind}")]
            before = ", "
        return sql.Composed([*parts, sql.SQL(")")])

    def _rendered(self, part: sql.Composable) -> sql.SQL:
        """Render what is the same in every chunk: the server is quicker with a small one than its composing was."""
        return sql.SQL(part.as_string(self._connection))

    def _range(
        self, after: tuple[str, ...] | None, until: tuple[str, ...] | None, name_of_row: str = "r"
    ) -> sql.Composable:
        bounds = [
            *([self._compare(">", after, name_of_row)] if after is not None else []),
            *([self._compare("<=", until, name_of_row)] if until is not None else []),
        ]
        return sql.SQL(" and ").join(bounds) if bounds else sql.SQL("true")

    def _lane(self, name_of_row: str, lanes: int) -> sql.Composable:
        """Return the expression of a row's lane, the same for a key for ever."""
        if lanes == 1:
            return sql.SQL("0")
        hashes = sql.SQL(" # ").join(
            sql.SQL(_HASHES.get(kind, _HASH)).format(sql.Identifier(name_of_row, name))
            for name, kind in zip(self.key, self._types, strict=True)
        )
        return sql.SQL("(({}) & {})").format(hashes, sql.Literal(lanes - 1))

    def _find_end(
        self,
        connection: psycopg.Connection[Any],
        after: tuple[str, ...] | None,
        until: tuple[str, ...] | None,
        size: int | None,
    ) -> tuple[str, ...] | None:
        """Return the key at the `size`-th place after `after`, or with None the last; None when there is none."""
        query = sql.SQL("select {} from {} as r where {} order by {} offset {} limit 1").format(
            self._key_text(),
            self.table,
            self._range(after, until),
            self._order(descending=size is None),
            sql.Literal(0 if size is None else size - 1),
        )
        row = connection.execute(query).fetchone()
        return tuple(row) if row else None

    def _count(
        self, connection: psycopg.Connection[Any], after: tuple[str, ...] | None, until: tuple[str, ...] | None
    ) -> tuple[int, ...]:
        """Return how many keys of the range there are in each lane."""
        # Grouped, so that a range of any size needs no temporary file.
        query = sql.SQL(
            "select lane, count(*) from (select {} as lane from {} as r where {}) as r group by lane"
        ).format(self._lane("r", self.lanes), self.table, self._range(after, until))
        counts: dict[int, int] = dict(connection.execute(query).fetchall())
        return tuple(counts.get(lane, 0) for lane in range(self.lanes))

    # -- walking

    def estimate(self) -> int:
        """Return about how many rows there are: the planner's guess, from the size that the table has now.

        The statistics alone would say nothing for a table that was never analysed, or of its partitions.
        """
        with self._telling(self._reading):
            row = self._reading.execute(sql.SQL("explain (format json) select from {}").format(self.table)).fetchone()
        return int(row[0][0]["Plan"]["Plan Rows"]) if row else 0

    def progress(
        self,
        direction: str | None = None,
        *,
        loose: bool = False,
        batch: int | None = None,
        connection: psycopg.Connection[Any] | None = None,
    ) -> list[Chunk]:
        """Return the chunks that are done, in this direction or in another one, in key order.

        `loose`: those of no batch; `batch`: those of this one; `connection`: in another session.
        """
        fields = {**_fields(self.effect), "direction": direction or self.effect.direction, "batch": batch}
        which = " and batch is null" if loose else " and batch = %(batch)s" if batch is not None else ""
        # Compared as the walk compares them: only here are the key's types and collations known.
        order = sql.SQL(", ").join(
            sql.SQL("(after[{}])::{}{}").format(
                sql.Literal(place), sql.SQL(kind), sql.SQL(f" collate {collation}" if collation else "")
            )
            for place, (kind, collation) in enumerate(zip(self._types, self._collations, strict=True), 1)
        )
        query = sql.SQL(_PROGRESS + which + " order by after is not null, {}, lane").format(order)
        connection = connection or self._connection
        with self._telling(connection):
            return [_chunk(row) for row in connection.execute(query, fields)]

    def cut(self, after: tuple[str, ...] | None, size: int, until: tuple[str, ...] | None = None) -> Cut | None:
        """Return the next range, found by a walk of `size` entries of the key's index."""
        with self._telling(self._reading):
            return self.cut_in(self._reading, after, size, until)

    def cut_in(
        self,
        connection: psycopg.Connection[Any],
        after: tuple[str, ...] | None,
        size: int,
        until: tuple[str, ...] | None,
    ) -> Cut | None:
        """Cut in a session; raises psycopg.Error."""
        if self._end is None:
            return None
        last = False
        found = self._find_end(connection, after, until or self._end, size)
        if found is None:
            last = True
            found = self._find_end(connection, after, until or self._end, None)
        if found is None:
            return None
        if not self.counts and not last:
            return Cut(after, found, size, last=False)
        shares = self._count(connection, after, found)
        return Cut(after, found, sum(shares), last=last, shares=shares)

    @contextmanager
    def open(self, owner: str) -> Iterator[ChunkWriter]:
        """Open one labourer's session; what it still shows at the end is taken away, if that can be."""
        pins = {**self.lease.pins, **self.session_pins}
        connection = open_session(self._url, application=self.lease.application, schema=self._schema, pins=pins)
        try:
            with self._telling(connection):
                writer = self.writer(connection, owner)
            yield writer
            if not connection.closed:
                writer.leave()
        finally:
            connection.close()

    @contextmanager
    def _telling(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """Let no error of the driver's leave: whoever drives the step goes on after a lost connection only."""
        try:
            yield
        except psycopg.Error as error:
            raise self.lost(connection, error) from error

    def lost(self, connection: psycopg.Connection[Any], error: psycopg.Error) -> Exception:
        """Return the error to raise: unknown outcome when the connection is gone, else the server's refusal."""
        if connection.closed:
            return OutcomeUnknown(
                f"the connection to {place(self._url)} was lost during a chunk",
                hint="run again: progress is kept in the target, with the rows",
            )
        return explain(error, place(self._url))


class Backfill(KeyedWork):
    """A backfill of a table."""

    session_pins = _PINS

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        url: str,
        lease: Tenure,
        schema: str,
        key: EffectKey,
        spec: BackfillSpec,
        patience: Patience,
    ) -> None:
        super().__init__(connection, url, lease, schema, key, f'the backfill of "{spec.table}"')
        self.spec = spec
        self._patience = patience
        table = self._find_table()
        names, types, collations = self._find_key()
        self._check_columns(names)
        self._walk_along(table, names, types, collations, lanes=lambda: self._choose_lanes(names[0]))
        self._update = self._build_update()
        self._check_update()

    # -- preparing

    def _find_table(self) -> sql.Composable:
        try:
            row = self._connection.execute(
                "select n.nspname, c.relname, c.relkind from pg_catalog.pg_class as c "
                "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where c.oid = pg_catalog.to_regclass(%s)",
                [self.spec.table],
            ).fetchone()
        except psycopg.Error:
            if self._connection.closed:
                raise
            row = None  # not a name at all
        if row is None:
            raise StepFailed(
                f'there is no table "{self.spec.table}" to backfill',
                hint="names follow SQL: write upper case in double quotes, and the schema where it is not the plan's",
            )
        if row[2] not in ("r", "p"):
            raise StepFailed(
                f'"{self.spec.table}" is not a table', hint="a backfill writes a table or partitions of one"
            )
        self.reltype = row[2]
        self._name: str = row[1]
        self._regclass = f'"{row[0]}"."{row[1]}"' if '"' not in row[0] + row[1] else self.spec.table
        return sql.Identifier(row[0], row[1])

    def _find_key(self) -> tuple[tuple[str, ...], list[str], list[str | None]]:
        row = self._connection.execute(KEYS.encode(), {"table": self._regclass}).fetchone()
        if row is None:
            raise StepFailed(
                f'table "{self.spec.table}" has no primary key and no unique index over NOT NULL columns',
                hint="a backfill walks a key; add one, or write the change as a `sql` step",
            )
        return tuple(row[0]), list(row[1]), list(row[2])

    def _check_columns(self, key: Sequence[str]) -> None:
        columns = dict(self._connection.execute(_COLUMNS.encode(), [self._regclass]).fetchall())
        for name in self.spec.assignments:
            if name not in columns:
                raise StepFailed(
                    f'table "{self.spec.table}" has no column "{name}"',
                    hint=f"its columns are {', '.join(columns)}",
                )
            if columns[name]:
                raise StepFailed(f'column "{name}" of "{self.spec.table}" is generated and cannot be written')
            if name in key:
                raise StepFailed(
                    f'column "{name}" is part of the key that the backfill walks; rows would move while it runs'
                )

    def _choose_lanes(self, first: str) -> int:
        row = self._connection.execute(_CORRELATION.encode(), [self._regclass, first]).fetchone()
        # Of a table that was never analysed nothing is known; most are stored in the order in which their keys came.
        return LANES if row is None or row[0] >= IN_ORDER else 1

    def _check_update(self) -> None:
        """Let the server plan the statement, so that a wrong expression is found before anything runs."""
        cut = Cut(self._end, self._end, 0, last=False)
        if self._end is None:
            return
        query = sql.SQL("explain ") + self.statement(cut)
        try:
            self._connection.execute(query)
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            raise StepFailed(
                f'the backfill of "{self.spec.table}" is refused: {error.diag.message_primary} '
                f"(SQLSTATE {error.sqlstate})",
                details=[f"{name} = {expression}" for name, expression in self.spec.assignments.items()]
                + ([f"where {self.spec.where}"] if self.spec.where else []),
                hint=error.diag.message_hint or "correct the expression and run again",
            ) from error

    def statement(self, cut: Cut) -> sql.Composable:
        """Return the UPDATE of a range."""
        return self._update(cut)

    def _build_update(self) -> Callable[[Cut], sql.Composed]:
        # A line of its own for each expression: a comment at its end must not swallow what comes after it.
        assignments = sql.SQL("\n, ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.SQL(expression))
            for name, expression in self.spec.assignments.items()
        )

        head = self._rendered(sql.SQL("update {} set {}\nwhere ").format(self.table, assignments))
        tail = self._rendered(sql.SQL(" and (\n{}\n)").format(sql.SQL(self.spec.where))) if self.spec.where else None

        def query(cut: Cut) -> sql.Composed:
            # Without an alias: the expressions may name the table.
            parts: list[sql.Composable] = [head, self._range(cut.after, cut.until, self._name)]
            if cut.lanes > 1:
                parts += [sql.SQL(" and "), self._lane(self._name, cut.lanes), sql.SQL(f" = {int(cut.lane)}")]
            if tail is not None:
                parts.append(tail)
            return sql.Composed(parts)

        return query


class Writer(Claims):
    """See `segue.ports.ChunkWriter`."""

    def __init__(self, work: KeyedWork, connection: psycopg.Connection[Any], owner: str) -> None:
        super().__init__(connection, work.effect, work.lease, owner, work.lost)
        self._work = work
        row = connection.execute(
            "select setting::float8 / 1000 from pg_catalog.pg_settings where name = 'deadlock_timeout'"
        ).fetchone()
        self._limit = limit = (float(row[0]) if row else 1.0) * CHUNK_OF_DEADLOCK_TIMEOUT
        connection.execute(
            "select pg_catalog.set_config('statement_timeout', %s, false), "
            "pg_catalog.set_config('lock_timeout', %s, false)",
            [f"{round(limit * 1000)}ms", f"{round(min(ROW_WAIT_SECONDS, limit / 2) * 1000)}ms"],
        )

    def done(self, batch: Batch) -> list[Chunk]:
        """Return the chunks of a batch that are done."""
        return self._work.progress(batch=batch.number, connection=self._connection)

    def cut(self, after: tuple[str, ...] | None, size: int, until: tuple[str, ...] | None) -> Cut | None:
        """Cut without the chunks' limit of time: nothing is locked, and cold pages are read here."""
        with self._telling(), self._connection.transaction():
            self._connection.execute("select pg_catalog.set_config('statement_timeout', '0', true)")
            return self._work.cut_in(self._connection, after, size, until)
        raise ChunkTooSlow("the range could not be cut")

    def write(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        """Update the range's rows and record the chunk in one transaction."""
        work = self._work
        try:
            (rows,) = self.begin([batch], [work.statement(cut)])
            journal.point("chunk-before-commit")
            after = list(cut.after) if cut.after is not None else None
            until = list(cut.until) if cut.until is not None else None
            self.commit(
                self.call("record", batch.number, after, until, cut.lane, cut.lanes, cut.meant, rows, last, fits)
            )
        except psycopg.Error as error:
            self._end_failed()
            if isinstance(error, GAVE_WAY):
                raise ChunkTooSlow(str(error.diag.message_primary)) from error
            if self._connection.closed:
                raise work.lost(self._connection, error) from error
            raise StepFailed(
                f"{work.what} failed in the keys after {show(cut.after)} up to "
                f"{show(cut.until)}: {error.diag.message_primary} (SQLSTATE {error.sqlstate})",
                details=[line for line in (error.diag.message_detail,) if line],
                hint="the chunk was rolled back; correct the rows or the expression and run again",
            ) from error
        journal.point("chunk-committed")

    def write_all(self, batches: Sequence[Batch]) -> bool:
        """Do several small batches in one transaction; False when it was rolled back and each must be done alone."""
        try:
            # All together they may last as long as one chunk: what waits for one of these rows waits for all.
            each = f"{max(1, round(self._limit * 1000 / len(batches)))}ms"
            limit = sql.SQL("set local statement_timeout = {}").format(sql.Literal(each))
            cuts = [Cut(batch.after, batch.until, batch.keys, last=False) for batch in batches]
            rows = self.begin(batches, [limit, *(self._work.statement(cut) for cut in cuts)])
            journal.point("chunk-before-commit")
            self.commit(self.call("record_all", [batch.number for batch in batches], rows))
        except BatchLost:
            return False
        except psycopg.Error as error:
            self._end_failed()
            if self._connection.closed:
                raise self._work.lost(self._connection, error) from error
            return False
        journal.point("chunk-committed")
        return True

    def _end_failed(self) -> None:
        """Leave a transaction that failed."""
        with suppress(psycopg.Error):
            self._connection.execute("rollback")


def _chunk(row: tuple[Any, ...]) -> Chunk:
    number, after, until, keys, rows, milliseconds, worker, lane, lanes, batch = row
    return Chunk(
        number,
        tuple(after) if after is not None else None,
        tuple(until) if until is not None else None,
        keys,
        rows,
        milliseconds,
        worker,
        lane,
        lanes,
        batch,
    )


def show(key: tuple[str, ...] | None) -> str:
    """Return a key for people."""
    return "(" + ", ".join(key) + ")" if key else "the beginning"


def _fields(key: EffectKey) -> dict[str, Any]:
    return {
        "execution": key.execution,
        "plan": key.plan,
        "plan_hash": key.plan_hash,
        "step": key.step,
        "direction": key.direction,
        "part": key.part,
    }
