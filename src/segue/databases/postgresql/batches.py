"""Batches of chunked work, kept in the target: offered by who drives the work, claimed by whoever labours on it.

A claim has a token that grows with each claim, and every chunk is written under the fence and under the token of its
batch: of two that think they have a batch, one can write.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql import lease
from segue.databases.postgresql.lease import check_fence
from segue.engine import journal
from segue.errors import FenceLost
from segue.ports import Batch, BatchLost, Pace, Position, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from segue.databases.postgresql.lease import Tenure
    from segue.ports import Chunk, EffectKey

    Connection = psycopg.Connection[tuple[Any, ...]]

# One that was not heard of for this long is not counted among those that labour. Its batches stay its own for as long
# as a lease does.
QUIET_SECONDS = 5.0
# How often a labourer looks again for batches below those that it had: given back, or left by one that fell silent.
LOOK_BACK_SECONDS = 2.0

#: What comes of waiting too long for somebody else's row; nothing is done then.
GAVE_WAY = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)

_COLUMNS = (
    "b.number, b.after, b.until, b.keys, b.lanes, b.lane, b.shares, b.size, b.state, b.owner, b.token, b.retries, "
    "b.written, b.rows, b.milliseconds, b.slowest, b.slowest_keys, b.fits, b.failure, b.claimed_at, b.done_at"
)
_WORK = "execution = %(execution)s and step = %(step)s and direction = %(direction)s"
_OF_WORK = "b.execution = %(execution)s and b.step = %(step)s and b.direction = %(direction)s"

_OFFER = """
insert into segue.batch
    (execution, step, direction, number, after, until, lane, lanes, keys, shares, size, fence)
values (%(execution)s, %(step)s, %(direction)s, %(number)s, %(after)s, %(until)s, %(lane)s, %(lanes)s, %(keys)s,
    %(shares)s, %(size)s, %(fence)s)
"""

_OPEN = """
insert into segue.work (execution, step, direction, fence, state, lowest, duty, workers, reason)
values (%(execution)s, %(step)s, %(direction)s, %(fence)s, 'open', %(lowest)s, %(duty)s, %(workers)s, %(reason)s)
on conflict (execution, step, direction) do update set fence = excluded.fence, state = 'open',
    lowest = excluded.lowest, duty = excluded.duty, workers = excluded.workers, reason = excluded.reason,
    at = clock_timestamp()
"""

# In order, as whoever gives back several does: two that lock rows in different orders may wait for each other.
# Batches that nobody has claimed too: somebody may be doing just that, unseen by this statement until it has waited.
_TAKE_BACK = f"""
with open as materialized (
    select number from segue.batch where {_WORK} and state <> 'done' order by number for update
)
update segue.batch as b
set state = 'pending', token = b.token + 1, failure = null,
    retries = b.retries + case when b.state = 'claimed' and %(died)s then 1 else 0 end,
    owner = case when b.state = 'claimed' then null else b.owner end
from open
where {_OF_WORK} and b.number = open.number
"""  # noqa: S608  texts of this module

# The bound is a value and no join, so that the key's index gives the order and the scan ends with the first rows.
# Who claims holds nothing: a batch under its own name is one whose claim it has not heard of.
_CLAIM = f"""
with next as materialized (
    select b.number
    from segue.batch as b
    where {_OF_WORK} and b.failure is null
        and b.number >= (
            select greatest(w.lowest, $1) from segue.work as w
            where w.execution = %(execution)s and w.step = %(step)s and w.direction = %(direction)s
                and w.fence = %(fence)s and w.state = 'open' and w.duty > 0
        )
        and (b.state = 'pending' or (b.state = 'claimed' and (b.fence < %(fence)s or b.owner = %(owner)s or not exists (
            select from segue.labourer as a
            where a.execution = b.execution and a.step = b.step and a.direction = b.direction and a.owner = b.owner
                and a.beat_at > clock_timestamp() - make_interval(secs => %(lease)s)
        ))))
    order by b.number
    limit {{}}
    for update of b skip locked
)
update segue.batch as b
set state = 'claimed', owner = %(owner)s, token = b.token + 1, fence = %(fence)s, claimed_at = clock_timestamp(),
    retries = b.retries + case when b.state = 'claimed' then 1 else 0 end
from next
where {_OF_WORK} and b.number = next.number
returning {_COLUMNS}
"""  # noqa: S608  texts of this module

# Only under a lease that still counts: a row without one would be nobody's to remove.
_BEAT = f"""
with here as (
    insert into segue.labourer as a (execution, step, direction, owner, fence)
    select %(execution)s, %(step)s, %(direction)s, %(owner)s, fence from segue.lease
    where role = 'fence' and execution = %(execution)s and fence = %(fence)s
    on conflict (execution, step, direction, owner) do update set beat_at = clock_timestamp(), fence = excluded.fence
    returning a.joined_at
)
select w.state = 'open' and w.fence = %(fence)s, w.duty, w.workers, w.reason, (
    select count(*) from segue.labourer as o
    where o.execution = %(execution)s and o.step = %(step)s and o.direction = %(direction)s and o.owner <> %(owner)s
        and o.beat_at > clock_timestamp() - make_interval(secs => %(lease)s)
        and (o.joined_at, o.owner) < (here.joined_at, %(owner)s)
)
from here left join segue.work as w on {_WORK}
"""  # noqa: S608  texts of this module

# The row of the fence is shared with every other session, that of the batch is this one's alone until the chunk ends:
# nobody can take the batch away in between, whatever they think of its owner.
_HOLD = f"""
select from segue.lease as l, segue.batch as b, unnest($1, $2) as m (batch, token)
where l.role = 'fence' and l.execution = %(execution)s and l.fence = %(fence)s
    and {_OF_WORK} and b.number = m.batch and b.token = m.token and b.owner = %(owner)s and b.state = 'claimed'
order by b.number
for share of l for no key update of b
"""

_RECORD = f"""
with chunk as (
    insert into segue.chunk
        (execution, step, direction, number, batch, after, until, lane, lanes, keys, rows, milliseconds, worker, fence)
    values (%(execution)s, %(step)s, %(direction)s, nextval('segue.chunk_number'), $1, $2, $3, $4, $5, $6, $7,
        extract(epoch from clock_timestamp() - now()) * 1000, %(owner)s, %(fence)s)
    returning milliseconds
), batch as (
    update segue.batch as b
    set written = b.written + $6, rows = b.rows + $7, milliseconds = b.milliseconds + c.milliseconds,
        slowest = case when c.milliseconds > b.slowest then c.milliseconds else b.slowest end,
        slowest_keys = case when c.milliseconds > b.slowest then $6 else b.slowest_keys end,
        fits = $9, state = case when $8 then 'done' else b.state end,
        done_at = case when $8 then clock_timestamp() end
    from chunk as c
    where {_OF_WORK} and b.number = $1
)
select w.state = 'open' and w.fence = %(fence)s, w.duty, w.workers, w.reason
from chunk as c left join segue.work as w on {_WORK}
"""  # noqa: S608  texts of this module

# The same for several batches at once, each of which is one chunk.
_RECORD_ALL = f"""
with done as materialized (
    select m.batch, m.rows, b.after, b.until, b.keys,
        (extract(epoch from clock_timestamp() - now()) * 1000 / cardinality($1))::integer as milliseconds
    from segue.batch as b, unnest($1, $2) as m (batch, rows)
    where {_OF_WORK} and b.number = m.batch
), chunk as (
    insert into segue.chunk
        (execution, step, direction, number, batch, after, until, keys, rows, milliseconds, worker, fence)
    select %(execution)s, %(step)s, %(direction)s, nextval('segue.chunk_number'), d.batch, d.after, d.until,
        d.keys, d.rows, d.milliseconds, %(owner)s, %(fence)s
    from done as d
), batch as (
    update segue.batch as b
    set written = d.keys, rows = d.rows, milliseconds = d.milliseconds, slowest = d.milliseconds,
        slowest_keys = d.keys, state = 'done', done_at = clock_timestamp()
    from done as d
    where {_OF_WORK} and b.number = d.batch
)
select w.state = 'open' and w.fence = %(fence)s, w.duty, w.workers, w.reason
from (select) as one left join segue.work as w on {_WORK}
"""  # noqa: S608  texts of this module

_LEAVE = f"delete from segue.labourer where {_WORK} and owner = %(owner)s"  # noqa: S608  texts of this module
_ALL_LEAVE = f"delete from segue.labourer where {_WORK}"  # noqa: S608  texts of this module

_MINE = f"""
with mine as materialized (
    select b.number from segue.batch as b, unnest($1, $2) as m (number, token)
    where {_OF_WORK} and b.number = m.number and b.token = m.token and b.state = 'claimed' and b.owner = %(owner)s
    order by b.number
    for update of b
)
update segue.batch as b set state = 'pending', owner = null, failure = $3
from mine
where {_OF_WORK} and b.number = mine.number
"""  # noqa: S608  texts of this module

# What a labourer's session sends again and again, with the types of what differs. Prepared in SQL, and not by the
# driver, so that one message can hold several: see `Claims`.
_PREPARED = {
    "beat": ("", _BEAT),
    "hold": ("(integer[], bigint[])", _HOLD),
    "record": ("(integer, text[], text[], smallint, smallint, bigint, bigint, boolean, integer)", _RECORD),
    "record_all": ("(integer[], bigint[])", _RECORD_ALL),
    "give_back": ("(integer[], bigint[], jsonb)", _MINE),
    "leave": ("", _LEAVE),
}


def work_of(key: EffectKey) -> dict[str, Any]:
    """Return the columns by which rows of a piece of work are found."""
    return {"execution": key.execution, "step": key.step, "direction": key.direction}


class PostgresBoard:
    """See `segue.ports.Board`."""

    def __init__(
        self,
        connection: Connection,
        key: EffectKey,
        tenure: Tenure,
        lost: Callable[[Connection, psycopg.Error], Exception],
        loose: Callable[[], list[Chunk]],
    ) -> None:
        self._connection = connection
        self._work = work_of(key)
        self._tenure = tenure
        self._lost = lost
        self._loose = loose

    def open(self, pace: Pace) -> Position:
        """Begin to offer; what was claimed before is anybody's."""
        with self._writing():
            self._connection.execute(_TAKE_BACK.encode(), {**self._work, "died": True})
            self._connection.execute(_ALL_LEAVE.encode(), self._work)
            unfinished = self._read("and b.state <> 'done' order by b.number")
            newest = self._read("order by b.number desc limit 1")
            last = newest[0] if newest else None
            lowest = unfinished[0].number if unfinished else last.number + 1 if last else 0
            self._connection.execute(_OPEN.encode(), {**self._paced(pace), "lowest": lowest})
        journal.point("work-opened")
        return Position(unfinished, last)

    def offer(self, batches: Sequence[Batch]) -> None:
        """Offer batches; without waiting for the disk, as chunks are: a crash loses them after what they led to."""
        with self._writing():
            self._connection.execute("select pg_catalog.set_config('synchronous_commit', 'off', true)")
            with self._connection.cursor() as cursor:
                cursor.executemany(
                    _OFFER.encode(),
                    [
                        {
                            **self._work,
                            "number": batch.number,
                            "after": list(batch.after) if batch.after is not None else None,
                            "until": list(batch.until) if batch.until is not None else None,
                            "lane": batch.lane,
                            "lanes": batch.lanes,
                            "keys": batch.keys,
                            "shares": list(batch.shares),
                            "size": batch.size,
                            "fence": self._tenure.fence,
                        }
                        for batch in batches
                    ],
                )
        journal.point("batch-offered")

    def look(self, numbers: Sequence[int]) -> list[Batch]:
        """Return how these batches stand."""
        with self._telling():
            return self._read("and b.number = any(%(numbers)s) order by b.number", numbers=list(numbers))

    def publish(self, pace: Pace, lowest: int) -> None:
        """Tell all labourers the pace."""
        with self._telling():
            self._connection.execute(
                f"update segue.work set duty = %(duty)s, workers = %(workers)s, reason = %(reason)s, "  # noqa: S608
                f"lowest = %(lowest)s, at = clock_timestamp() where {_WORK} and fence = %(fence)s".encode(),
                {**self._paced(pace), "lowest": lowest},
            )

    def labourers(self) -> list[str]:
        """Return who shows signs of life."""
        with self._telling():
            found = self._connection.execute(
                f"select owner from segue.labourer where {_WORK} and fence = %(fence)s "  # noqa: S608
                "and beat_at > clock_timestamp() - make_interval(secs => %(quiet)s) order by joined_at".encode(),
                {**self._work, "fence": self._tenure.fence, "quiet": QUIET_SECONDS},
            ).fetchall()
        return [row[0] for row in found]

    def known(self) -> list[Batch]:
        """Return every batch, and chunks of none as batches that are done."""
        loose = [
            Batch(
                number=chunk.number,
                after=chunk.after,
                until=chunk.until,
                keys=chunk.keys,
                lanes=chunk.lanes,
                lane=chunk.lane,
                state="done",
                owner=chunk.worker,
                written=chunk.keys,
                rows=chunk.rows,
                milliseconds=chunk.milliseconds,
            )
            for chunk in self._loose()
        ]
        with self._telling():
            return loose + self._read("order by b.number")

    def close(self, *, ended: bool) -> None:
        """Offer no more, and wait for the chunks that are being written."""
        # In two transactions: who sees the first claims nothing, and who does not is waited for by the second.
        with self._writing():
            self._connection.execute(
                f"update segue.work set state = %(state)s, at = clock_timestamp() where {_WORK}".encode(),  # noqa: S608
                {**self._work, "state": "ended" if ended else "stopped"},
            )
        journal.point("work-closing")
        with self._writing():
            self._connection.execute(_TAKE_BACK.encode(), {**self._work, "died": False})
            self._connection.execute(_ALL_LEAVE.encode(), self._work)
        journal.point("work-closed")

    # -- parts

    def _read(self, which: str, **values: Any) -> list[Batch]:
        query = f"select {_COLUMNS} from segue.batch as b where {_OF_WORK} {which}"  # noqa: S608  texts of this module
        return [_batch(row) for row in self._connection.execute(query.encode(), {**self._work, **values})]

    def _paced(self, pace: Pace) -> dict[str, Any]:
        return {
            **self._work,
            "fence": self._tenure.fence,
            "duty": pace.duty,
            "workers": pace.workers,
            "reason": pace.reason,
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._telling(), self._connection.transaction():
            check_fence(self._connection, self._tenure.execution, self._tenure.fence)
            yield

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._lost(self._connection, error) from error


class Claims:
    """A labourer's side of the board, in the session in which it writes.

    A transaction is sent in two messages, its rows with what holds its batch and its record with the commit. Each is
    a simple query: the server then counts the time between them. After the driver's pipeline it would not, and a
    process that is stopped there would keep its rows locked, and its batch, for as long as it sleeps.
    """

    def __init__(
        self,
        connection: Connection,
        key: EffectKey,
        tenure: Tenure,
        owner: str,
        lost: Callable[[Connection, psycopg.Error], Exception],
    ) -> None:
        self._connection = connection
        self._mine = {**work_of(key), "owner": owner, "fence": tenure.fence, "lease": lease.LEASE_SECONDS}
        self.standing = Standing(going=False)
        self._lost = lost
        self._above = 0
        self._looked_back = 0.0
        self._claims: set[int] = set()
        for name, (types, query) in _PREPARED.items():
            self._prepare(name, types, query)

    def _prepare(self, name: str, types: str, query: str) -> None:
        text = psycopg.ClientCursor(self._connection).mogrify(query, self._mine)
        self._connection.execute(
            sql.SQL("prepare {} {} as {}").format(sql.Identifier(f"segue {name}"), sql.SQL(types), sql.SQL(text))
        )

    def call(self, name: str, *values: Any) -> sql.Composed:
        """Return the statement that runs what was prepared under this name."""
        given: list[sql.Composable] = [sql.SQL("("), sql.Literal(values[0])] if values else []
        for value in values[1:]:
            given += [sql.SQL(", "), sql.Literal(value)]
        return sql.Composed([sql.SQL(f'execute "segue {name}"'), *given, sql.SQL(")" if values else "")])

    def beat(self) -> Standing:
        """Give a sign of life, and look at the pace; raises FenceLost."""
        with self._telling():
            row = self._connection.execute(self.call("beat")).fetchone()
            if row is None:
                raise FenceLost("the lease was taken over by another run; this labourer stops")
            self.standing = _standing(row[:4], row[4])
        return self.standing

    def claim(self, most: int) -> list[Batch]:
        """Take batches that nobody works on."""
        found: list[Batch] = []
        with self._telling():
            found = self._claim(most)
        if found:
            journal.point("batch-claimed")
        return found

    def _claim(self, most: int) -> list[Batch]:
        if clock.ticks() - self._looked_back > LOOK_BACK_SECONDS:
            self._above, self._looked_back = 0, clock.ticks()
        found = self._take(most)
        if not found and self._above:
            self._above = 0
            found = self._take(most)
        if found:
            self._above = found[-1].number
        return found

    def _take(self, most: int) -> list[Batch]:
        # The limit is in the text: of one that it cannot see the planner would think that it may be large.
        most = 1 << (most.bit_length() - 1)
        if most not in self._claims:
            self._prepare(f"claim {most}", "(integer)", _CLAIM.format(most))
            self._claims.add(most)
        rows = self._connection.execute(self.call(f"claim {most}", self._above)).fetchall()
        return sorted((_batch(row) for row in rows), key=lambda batch: batch.number)

    def give_back(self, batches: Sequence[Batch], failure: Mapping[str, Any] | None = None) -> None:
        """Let others claim these, or nobody where there is a failure."""
        said = json.dumps(dict(failure)) if failure is not None else None
        with self._telling():
            self._connection.execute(self.call("give_back", *_named(batches), said))
        journal.point("batch-given-back")

    def fail(self, batch: Batch, error: Mapping[str, Any]) -> None:
        """Let nobody claim this one."""
        self.give_back([batch], error)

    def leave(self) -> None:
        """Show no sign of life any more."""
        with self._telling():
            self._connection.execute(self.call("leave"))

    def begin(self, batches: Sequence[Batch], statements: Sequence[sql.Composable]) -> list[int]:
        """Begin a transaction and run statements; return how many rows each changed.

        Raises BatchLost, or FenceLost, with nothing left of it.
        """
        # Nothing is committed before it is seen that fence and batches are held: what was lost is rolled back.
        parts = [sql.SQL("begin"), self.call("hold", *_named(batches)), *statements]
        cursor = self._connection.execute(sql.SQL(";\n").join(parts))
        cursor.nextset()
        if cursor.rowcount != len(batches):
            self._connection.execute("rollback")
            raise self._whose() or BatchLost(f"batch {batches[0].number} is another labourer's by now")
        rows = []
        while cursor.nextset():
            rows.append(cursor.rowcount)
        return rows[-len(batches) :]

    def commit(self, statement: sql.Composable) -> None:
        """End the transaction with its record, and take note of how we stand."""
        cursor = self._connection.execute(sql.SQL(";\n").join([statement, sql.SQL("commit")]))
        (standing,) = cursor.fetchall()
        self.standing = _standing(standing, self.standing.rank)

    def _whose(self) -> Exception | None:
        """Return FenceLost when that is why nothing could be held, else None: then the batch is lost."""
        row = self._connection.execute(
            "select from segue.lease where role = 'fence' and execution = %(execution)s and fence = %(fence)s",
            self._mine,
        ).fetchone()
        return FenceLost("the lease was taken over by another run; this labourer stops") if row is None else None

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn an error of psycopg's into ours, and pass over what gave way.

        Only the work's driver is waited for here, which takes everything back at that moment.
        """
        try:
            yield
        except GAVE_WAY:
            pass
        except psycopg.Error as error:
            raise self._lost(self._connection, error) from error


def _named(batches: Sequence[Batch]) -> tuple[list[int], list[int]]:
    return [batch.number for batch in batches], [batch.token for batch in batches]


def _standing(row: Sequence[Any], rank: int) -> Standing:
    going, duty, workers, reason = row
    if going is None:
        return Standing(going=False, rank=rank)
    return Standing(going=going, pace=Pace(duty=duty, workers=workers, reason=reason), rank=rank)


def _batch(row: tuple[Any, ...]) -> Batch:
    number, after, until, keys, lanes, lane, shares, size, state, owner, *rest = row
    return Batch(
        number,
        tuple(after) if after is not None else None,
        tuple(until) if until is not None else None,
        keys,
        lanes,
        lane,
        tuple(shares),
        size,
        state,
        owner or "",
        *rest,
    )
