"""Brings touched keys up to date on the other side, in one short transaction."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.lease import check_fence
from segue.databases.postgresql.online import digest
from segue.databases.postgresql.online.moves import Moves
from segue.databases.postgresql.online.refusing import Sieve, is_refusal, too_many
from segue.databases.postgresql.online.wording import Listing, Wording, comma
from segue.engine import journal
from segue.errors import OutcomeUnknown
from segue.model.online import Drained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.databases.postgresql.online.blueprint import Flow, Place
    from segue.databases.postgresql.online.site import Site

    Connection = psycopg.Connection[tuple[Any, ...]]

# A list is never analysed, so the planner knows nothing of it; of so few keys each is looked up in the key's index.
FEW_KEYS = 5_000
_SHUNNED = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
# A plan that is shunned looks dear, and what looks dear the server would compile: half a second for three rows.
# What a deferred constraint refuses should be known by then, and not when all is committed.
_ANY = "set local jit = off; set local enable_nestloop = on; set constraints all immediate; "
_FEW = _ANY + "; ".join(f"set local {name} = off" for name in _SHUNNED)
_MANY = _ANY + "; ".join(f"set local {name} = on" for name in _SHUNNED)
_DEFAULT = "; ".join(f"set local {name} to default" for name in ("jit", "enable_nestloop", *_SHUNNED))
# Before a drain waits longer than this for a table that is being emptied or altered, it gives way.
LOCK_WAIT = "300ms"
# How many conflicts are tried again in each drain, those that were seen longest ago first.
AGAIN = 100
# How far a backlog is counted.
COUNTED = 1_000_000
TRIES = 5


class Drainer:
    """Drains the log of one flow in one session.

    It is made outside of a transaction, once both tables are in their places and the destination has its key.
    """

    def __init__(
        self, connection: Connection, flow: Flow, log: Place, change_id: str, member: int, direction: str
    ) -> None:
        self.flow = flow
        self.log = log
        self.connection = connection
        self._wording = wording = Wording(connection, flow)
        self._listing = listing = Listing(connection, wording, f"segue_{log.name}_keys")
        self._moves = Moves(connection, listing, log)
        self._moved = 0
        self._sieve = Sieve(connection, listing, change_id, member, direction)
        #: Where keys are listed that are to be brought up to date, by which columns, and whether each only once.
        self.table = listing.table
        self.names = listing.names
        self.exact = wording.exact
        #: The destination, and the condition that a row of it, called segue_into, is listed.
        self.into = wording.into
        self.listed = listing.holds_into()
        self._whose = self._sieve.whose
        self._last: str | None = None
        whose = sql.SQL("change = {change} and member = {member} and direction = {direction}").format(
            **{name: sql.Literal(value) for name, value in self._whose.items()}
        )
        forget = listing.give_back(
            sql.SQL(
                "delete from segue.conflict as segue_c using {} as segue_keys where {} and segue_c.key = {} "
                "returning segue_c.key, segue_c.kept"
            ).format(listing.table, whose, listing.key_text())
        )
        self._lift = sql.SQL(";\n").join([forget, *listing.remove()])
        self._put = sql.SQL(";\n").join(listing.put())
        self._again = listing.give_back(
            sql.SQL(
                "delete from segue.conflict where {} and key in (select key from segue.conflict where {} "
                "and seen_at < now() and sqlstate <> '23503' order by seen_at limit {}) returning key, kept"
            ).format(whose, whose, sql.SQL(str(AGAIN))),
            comma(sql.SQL(f"key[{n}]::{column.type}") for n, column in enumerate(flow.key, 1)),
        )
        # What a foreign key refuses is looked for by itself: the destination has none yet.
        self._any_again = sql.SQL(
            "select exists (select from segue.conflict where {} and seen_at < now() and sqlstate <> '23503')"
        ).format(whose)
        self._compare = self._comparison(whose)

    # -- taking

    def _take(self, most: int | None, after: str | None) -> tuple[int, int, str | None]:
        """List keys of the log and delete their entries; return how many of either, and the last's place."""
        listing = self._listing
        some: sql.Composable = sql.SQL("")
        if most is not None:
            # From where the last drain ended: what it deleted still lies there until it is vacuumed.
            begin = sql.SQL(" where ctid > {}::tid").format(sql.Literal(after)) if after else sql.SQL("")
            some = sql.SQL(" where ctid = any(array(select ctid from {}{} limit {}))").format(
                self.log.sql, begin, sql.SQL(str(int(most)))
            )
        query = sql.SQL(
            "with gone as (delete from {log}{some} returning ctid as segue_place, {names}), "
            "listed as (insert into {table} ({names}) select {distinct} {names} from gone returning 1) "
            "select (select count(*) from listed), count(*), max(segue_place)::text from gone"
        ).format(
            log=self.log.sql,
            some=some,
            names=listing.names,
            table=listing.table,
            distinct=sql.SQL("distinct" if self._wording.exact else ""),
        )
        row = self.connection.execute(query).fetchone()
        return (row[0], row[1], row[2]) if row else (0, 0, None)

    def _emptied(self) -> bool:
        cursor = self.connection.execute(
            sql.SQL("{}; select exists (select from {} where segue_k1 is null); {}").format(
                sql.SQL(_FEW), self.log.sql, sql.SQL(_DEFAULT)
            )
        )
        found = _row(cursor)
        return bool(found and found[0])

    # -- draining

    def drain(self, most: int | None, *, compare: bool = False, anew: bool = False) -> Drained:
        """Bring keys up to date within the caller's transaction; all that its snapshot sees, or entries up to `most`.

        The source must be locked (ACCESS SHARE at least) before the transaction's snapshot is taken. When the log says
        that the source was emptied, nothing is done; with `anew` the destination is emptied then too, and as every row
        that came since is in the log, brought up to date.
        """
        emptied = self._emptied()
        if emptied and not anew:
            return Drained(emptied=True, left=1)
        if emptied:
            most = None
            self.clear()
        keys, entries, last = self._take(most, self._last)
        if most is not None and entries < most and self._last is not None:
            more, again, last = self._take(most - entries, None)
            keys, entries = keys + more, entries + again
        if emptied:
            self.connection.execute(sql.SQL("delete from {} where segue_k1 is null").format(self.table))
        # A row that has moved is brought up to date at both of its keys at once.
        self._moved = self._moves.take()
        keys += self._moved
        self._last = last if most is not None and entries >= most else None
        drained = self.bring(keys, compare=compare)
        left = most if most is not None and entries >= most else 0
        return replace(drained, left=left, emptied=emptied)

    def bring(self, keys: int, *, compare: bool = False) -> Drained:
        """Bring so many listed keys up to date, and try conflicts again, within the caller's transaction."""
        refused = differing = 0
        if keys:
            refused = self._apply(keys)
            if compare:
                differing = self._differing()
        self._try_again()
        return Drained(keys=keys, refused=refused, differing=differing)

    def clear(self) -> None:
        """Empty the destination, with what was refused by it, within the caller's transaction."""
        self.connection.execute(
            sql.SQL(
                "truncate {}; delete from segue.conflict where change = {} and member = {} and direction = {}"
            ).format(self._wording.into, *(sql.Literal(value) for value in self._whose.values()))
        )

    def _apply(self, keys: int) -> int:
        """Delete the listed keys from the destination and put their present state; return how many were refused."""
        connection = self.connection
        if keys > FEW_KEYS:
            connection.execute(sql.SQL("analyze {}").format(self._listing.table))
        parts: list[sql.Composable] = [sql.SQL(_MANY if keys > FEW_KEYS else _FEW), self._lift]
        if self._moved:
            parts.append(self._moves.follow)
            self._moved = 0
        parts += [sql.SQL("savepoint segue_put"), self._put, sql.SQL("release savepoint segue_put")]
        try:
            connection.execute(sql.SQL(";\n").join(parts))
        except psycopg.Error as error:
            if connection.closed or not is_refusal(error):
                raise
            connection.execute("rollback to savepoint segue_put; release savepoint segue_put")
        else:
            return 0
        return self._sift()

    def _sift(self) -> int:
        try:
            return self._sieve.sift(self.connection)[1]
        except psycopg.errors.ProgramLimitExceeded as error:
            raise too_many() from error

    def _try_again(self) -> None:
        """Try conflicts again: what stood in their way may be gone."""
        connection = self.connection
        found = _row(connection.execute(sql.SQL("{}; {}").format(self._any_again, sql.SQL(_DEFAULT))))
        if not (found and found[0]):
            return
        parts = [sql.SQL(_FEW), self._listing.emptied, self._again, *self._listing.remove()]
        connection.execute(sql.SQL(";\n").join(parts))
        self._sift()
        connection.execute(_DEFAULT)

    # -- comparing

    def _comparison(self, whose: sql.Composable) -> sql.Composed:
        wording, listing = self._wording, self._listing
        # As all rows are compared: the text of a value says less than the value, or more.
        columns = digest.compared(self.connection, self.flow)
        names = sql.SQL(", ").join(sql.SQL(f"segue_k{n}") for n, _ in enumerate(self.flow.key, 1))
        mine = comma(
            sql.SQL("{} as {}").format(part, sql.SQL(f"segue_k{n}"))
            for n, part in enumerate(wording.cast_key(wording.key()), 1)
        )
        theirs = comma(
            sql.SQL("{} as {}").format(part, sql.SQL(f"segue_k{n}")) for n, part in enumerate(wording.into_key(), 1)
        )
        # Each side by itself, as rows are put: planned together, both tables are read whole to be merged.
        return sql.SQL(
            "with segue_a as materialized (select {mine}, {values} as segue_row from {source} where {holds} "
            "and not exists (select from segue.conflict as segue_c where {whose} and segue_c.key = {key})), "
            "segue_b as materialized (select {theirs}, {others} as segue_row from {into} as segue_into "
            "where {holds_into}) select count(*) from segue_a full join segue_b using ({names}) "
            "where segue_a.segue_row is distinct from segue_b.segue_row"
        ).format(
            mine=mine,
            values=digest.hashes(columns, "source"),
            source=wording.source,
            holds=listing.holds(),
            whose=whose,
            key=wording.key_text(),
            theirs=theirs,
            others=digest.hashes(columns, "into"),
            into=wording.into,
            holds_into=listing.holds_into(),
            names=names,
        )

    def _differing(self) -> int:
        # The sides are joined in a way that is shunned for few keys; there is no other, and it costs nothing there.
        row = self.connection.execute(self._compare).fetchone()
        return int(row[0]) if row else 0


def _row(cursor: psycopg.Cursor[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """Return the row of the only query among the statements of one message."""
    while cursor.description is None and cursor.nextset():
        pass
    return cursor.fetchone()


def drain(site: Site, drainer: Drainer, most: int | None, *, compare: bool = False, anew: bool = False) -> Drained:
    """Drain in a transaction of its own, under the fence.

    Where the source is locked by somebody who is about to empty or alter it, nothing is done, and entries are said to
    be left. Raises OutcomeUnknown when the connection was lost.
    """
    connection = drainer.connection
    with telling(site, connection):
        for last in (*[False] * TRIES, True):
            try:
                return _drain(site, drainer, most, compare=compare, anew=anew)
            except psycopg.errors.LockNotAvailable:
                return Drained(left=1)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                if last:
                    raise
    raise AssertionError("unreachable")


def _drain(site: Site, drainer: Drainer, most: int | None, *, compare: bool, anew: bool) -> Drained:
    connection = drainer.connection
    with connection.transaction():
        # Before the snapshot: a table that is emptied between the two would look as if it had been so all along, while
        # the log as of the snapshot says nothing of it.
        connection.execute(
            sql.SQL(
                "set transaction isolation level repeatable read, read write; set local lock_timeout = {}; "
                "lock table {} in access share mode; set local lock_timeout = 0"
            ).format(sql.Literal(LOCK_WAIT), drainer.flow.source.sql)
        )
        check_fence(connection, site.lease.execution, site.lease.fence)
        drained = drainer.drain(most, compare=compare, anew=anew)
        journal.point("online-drain-before-commit")
    journal.point("online-drained")
    return drained


def backlog(connection: Connection, log: Place, most: int = COUNTED) -> int:
    """Return how many entries are in a log, counted up to `most`."""
    row = connection.execute(
        sql.SQL("select count(*) from (select from {} limit {}) as entries").format(log.sql, sql.SQL(str(int(most))))
    ).fetchone()
    return int(row[0]) if row else 0


def compact(site: Site, connection: Connection, flow: Flow, log: Place) -> int:
    """Reduce a log to distinct keys, and let its space be used again; return how many entries went.

    What reads the log at the same time sees it as it was or as it is then.
    """
    wording = Wording(connection, flow)
    if not wording.exact:
        return 0
    names = sql.SQL(", ").join(sql.SQL(f"segue_k{n}") for n, _ in enumerate(flow.key, 1))
    with telling(site, connection):
        with site.transaction(connection):
            row = connection.execute(
                sql.SQL(
                    "with gone as (delete from {log} returning {names}), "
                    "kept as (insert into {log} ({names}) select distinct {names} from gone returning 1) "
                    "select (select count(*) from gone) - (select count(*) from kept)"
                ).format(log=log.sql, names=names)
            ).fetchone()
            journal.point("online-compact-before-commit")
        connection.execute(sql.SQL("vacuum (truncate off) {}").format(log.sql))
    return int(row[0]) if row else 0


@contextmanager
def telling(site: Site, connection: Connection) -> Iterator[None]:
    """Let no error of the driver's leave."""
    try:
        yield
    except psycopg.Error as error:
        if connection.closed:
            raise OutcomeUnknown(
                f"the connection to {place(site.url)} was lost while rows were brought up to date",
                hint="run again: what was done is in the target",
            ) from error
        raise explain(error, place(site.url)) from error
