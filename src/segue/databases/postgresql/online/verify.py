"""Compares a table with its other side, range by range, while both are written to; finds and mends what differs."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql import digests
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.online import digest
from segue.databases.postgresql.online.blueprint import KeyColumn
from segue.databases.postgresql.online.ghost import ReaderBehind
from segue.databases.postgresql.online.wording import WHOLE, Wording, comma, compare_alike, key_names, key_type, plain
from segue.engine import journal
from segue.errors import InternalError, OutcomeUnknown, SegueError, StepFailed
from segue.model.online import Verified
from segue.rows.chunks import ChunkSize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from segue.databases.postgresql.online.blueprint import Flow, Place
    from segue.databases.postgresql.online.site import Site
    from segue.ports import Pace

    Connection = psycopg.Connection[tuple[Any, ...]]
    Key = tuple[str, ...]
    Late = Callable[[Connection, sql.Identifier, sql.Composed, str], int | None]

T = TypeVar("T")

SECONDS = 0.3
FIRST_KEYS = 10_000
MOST_KEYS = 500_000
#: Into so many parts a range is cut that differs, until one has few rows enough to look at each.
PARTS = 32
FEW_ROWS = 1_000
#: How often a row is brought up to date again before its difference is believed.
REPAIRS = 3
#: With more rows than this that differ, something is wrong that no repair would mend.
MOST_DIFFERING = 10_000
#: From so many entries on the log is drained: each range looks through it.
LOGGED = 20_000
#: Where the other side's index is in another order, each range reads all of it.
UNORDERED_RANGES = 8
LOCK_WAIT = "300ms"
LATE = sql.Identifier("pg_temp", "segue_late")
NAP_SECONDS = 0.02
NOTE_SECONDS = 1.0

_PINS = {
    "synchronous_commit": "off",
    "jit": "off",
    "enable_seqscan": "off",
    "max_parallel_workers_per_gather": "0",
    # The log is looked up in a hash table, if by its pages it might fit: dead entries count there, too.
    "work_mem": "256MB",
    "hash_mem_multiplier": "2",
    "lock_timeout": LOCK_WAIT,
    "idle_in_transaction_session_timeout": "60s",
}
_GAVE_WAY = (
    ReaderBehind,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)

_INTO = """
select a.attnotnull, coalesce((
    select quote_ident(n.nspname) || '.' || quote_ident(o.collname)
    from pg_catalog.pg_collation as o join pg_catalog.pg_namespace as n on n.oid = o.collnamespace
    where o.oid = a.attcollation and o.collname <> 'default'
), case when a.attcollation <> 0 then 'pg_catalog."default"' end)
from pg_catalog.pg_attribute as a
join pg_catalog.pg_class as c on c.oid = a.attrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s and a.attname = %s and a.attnum > 0 and not a.attisdropped
"""
_DEFAULT = 'pg_catalog."default"'
_MOMENTS = ("date", "timestamp without time zone", "timestamp with time zone")

_RECORDED = """
select after, until from segue.verified
where change = %(change)s and member = %(member)s and direction = %(direction)s and round = %(round)s
order by after is not null, """
_TOTALS = """
select count(*), coalesce(sum(rows_old), 0), coalesce(sum(repaired), 0), coalesce(sum(digest_old), 0)::text,
    coalesce(sum(digest_new), 0)::text, coalesce(sum(rows_new), 0), coalesce(max(number), 0)
from segue.verified
where change = %(change)s and member = %(member)s and direction = %(direction)s and round = %(round)s
"""
_RECORD = """
insert into segue.verified (change, member, direction, round, number, after, until, rows_old, rows_new, digest_old,
    digest_new, skipped, repaired, snapshot, milliseconds)
values (%(change)s, %(member)s, %(direction)s, %(round)s, %(number)s, %(after)s, %(until)s, %(rows_old)s, %(rows_new)s,
    %(digest_old)s, %(digest_new)s, %(skipped)s, %(repaired)s, %(snapshot)s, %(milliseconds)s)
"""


class SourceEmptied(Exception):
    """The source was emptied, and draining the log did not make that good: the copy has to begin anew."""


@dataclass(frozen=True, slots=True)
class Range:
    """Keys of the source after one and up to another; None is the end of the key's domain on that side."""

    after: Key | None
    until: Key | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a snapshot has to leave out: entries of the log, counted up to `LOGGED`, and rows that are refused."""

    logged: int
    refused: bool
    snapshot: str


@dataclass(frozen=True, slots=True)
class Sums:
    """What one snapshot sees of a range on both sides, without the keys that are in the log."""

    skipped: int
    rows_old: int
    digest_old: int
    rows_new: int
    digest_new: int
    standing: Standing

    @property
    def same(self) -> bool:
        """Return whether both sides hold the same rows."""
        return (self.rows_old, self.digest_old) == (self.rows_new, self.digest_new)


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not the same on both sides, by its key as the source writes it, and in what."""

    key: Key
    what: str

    def __str__(self) -> str:
        """Return it for people."""
        return f"({', '.join(self.key)}): {self.what}"


class Phrases:
    """The SQL of a comparison: ranges on both sides, their digests, their rows."""

    def __init__(
        self, connection: Connection, flow: Flow, log: Place, whose: dict[str, Any], *, lags: bool = False
    ) -> None:
        self.flow = flow
        self.log = log
        self.wording = Wording(connection, flow)
        self.columns = digest.compared(connection, flow)
        self.names = key_names(flow.key)
        self._source = self._rendered(connection, self.wording.source)
        self._into = self._rendered(connection, self.wording.into + sql.SQL(f" as {digest.INTO}"))
        #: Whether the other side's index serves ranges of the source's key.
        self.ordered = True
        #: The columns of the other side's key that may be NULL there.
        self.nullable: list[str] = []
        self._into_key: list[sql.Composable] = []
        self._into_casts: list[str] = []
        for column in flow.key:
            self._other_side(connection, column)
        self._whose = whose
        #: Touched keys: those of the log, and of one that lags behind, those that came later than the snapshot.
        self._touched: sql.Composable = log.sql
        if lags:
            self._touched = sql.SQL("(select {names} from {log} union all select {names} from {late})").format(
                names=self.names, log=log.sql, late=LATE
            ) + sql.SQL(" as segue_touched")
        logged = sql.SQL("(select {} from {} where segue_k1 is not null)").format(self.names, self._touched)
        cast = comma(self.wording.cast_key([sql.SQL(f"segue_log.segue_k{n}") for n, _ in enumerate(flow.key, 1)]))
        there = sql.SQL("(select {} from (select {} from {}) as segue_log where segue_k1 is not null)").format(
            cast, self.names, self._touched
        )
        # IS NOT TRUE keeps it a look into a hash table, next to nothing while that is empty.
        not_logged = sql.SQL("(({}) in {}) is not true")
        refused = sql.SQL("not exists (select from segue.conflict as segue_c where {} and segue_c.key = {})").format(
            self._of_change(), self.wording.key_text()
        )
        self._left_out = {
            "source": self._rendered(connection, not_logged.format(comma(self.wording.key()), logged)),
            "into": self._rendered(connection, not_logged.format(comma(self.wording.into_key()), there)),
        }
        self._not_refused = self._rendered(connection, refused)
        self._hash = {
            side: self._rendered(connection, digest.row_hash(self.columns, side)) for side in ("source", "into")
        }

    @staticmethod
    def _rendered(connection: Connection, part: sql.Composable) -> sql.SQL:
        return sql.SQL(part.as_string(connection))

    def _of_change(self) -> sql.Composed:
        return sql.SQL("change = {change} and member = {member} and direction = {direction}").format(
            **{name: sql.Literal(self._whose[name]) for name in ("change", "member", "direction")}
        )

    def _other_side(self, connection: Connection, column: KeyColumn) -> None:
        """Find out how a range of the source's key is asked for on the other side."""
        into = self.flow.into
        row = connection.execute(_INTO.encode(), [into.schema_name, into.name, column.into]).fetchone()
        if row is None:
            raise StepFailed(f'table {into} has no column "{column.into}" any more')
        not_null, collation = row
        if not not_null:
            self.nullable.append(column.into)
        name = sql.Identifier(digest.INTO, column.into)
        came, goes = plain(connection, column.type), plain(connection, column.into_type)
        same_order = (column.collation or _DEFAULT) == (collation or _DEFAULT)
        collate = sql.SQL(f" collate {column.collation}" if column.collation else "")
        if compare_alike(came, goes) and same_order:
            # As it is: a key of the source may be too large for the other side's type.
            self._into_key.append(name + collate)
            self._into_casts.append(f"::{column.type}")
        elif same_order and _keeps_order(came, goes):
            self._into_key.append(name + collate)
            self._into_casts.append(f"::{column.type}::{goes}")
        else:
            self.ordered = False
            if not column.collation and collation:
                collate = sql.SQL(f" collate {_DEFAULT}")
            self._into_key.append(sql.SQL("({})::{}").format(name, sql.SQL(column.type)) + collate)
            self._into_casts.append(f"::{column.type}")

    # -- ranges

    def _key(self, side: str) -> list[sql.Composable]:
        if side == "log":
            return [
                sql.SQL(f"segue_k{n}" + (f" collate {column.collation}" if column.collation else ""))
                for n, column in enumerate(self.flow.key, 1)
            ]
        return self._into_key if side == "into" else self.wording.key()

    def range(self, side: str, of: Range) -> sql.Composable:
        """Return the condition that a key is in a range."""
        casts = self._into_casts if side == "into" else [f"::{column.type}" for column in self.flow.key]
        parts = []
        for operator, bound in ((">", of.after), ("<=", of.until)):
            if bound is not None:
                values = comma(sql.Literal(text) + sql.SQL(cast) for text, cast in zip(bound, casts, strict=True))
                parts.append(sql.SQL("({}) {} ({})").format(comma(self._key(side)), sql.SQL(operator), values))
        return sql.SQL(" and ").join(parts) if parts else sql.SQL("true")

    def table(self, side: str) -> sql.SQL:
        """Return the table as FROM wants it."""
        return self._into if side == "into" else self._source

    def key_text(self, side: str) -> sql.Composed:
        """Return the key as an array of texts as the source writes them."""
        if side != "into":
            return self.wording.key_text()
        return sql.SQL("array[{}]").format(
            comma(
                sql.SQL("({})::{}::text").format(part, sql.SQL(column.type))
                for part, column in zip(self.wording.into_key(), self.flow.key, strict=True)
            )
        )

    def place(self, side: str, of: Range, offset: int) -> sql.Composed:
        """Return the query of the key at a place of a range, from 0."""
        return sql.SQL("select {} from {} where {} order by {} offset {} limit 1").format(
            self.key_text(side), self.table(side), self.range(side, of), comma(self._key(side)), sql.SQL(str(offset))
        )

    # -- both sides

    def standing(self) -> sql.Composed:
        """Return the query of whether the source was emptied, how long the log is, and whether rows are refused."""
        return sql.SQL(
            "select exists (select from {log} where segue_k1 is null), "
            "(select count(*) from (select from {log} limit {most}) as entries), "
            "exists (select from segue.conflict where {whose}), pg_catalog.pg_current_snapshot()::text"
        ).format(log=self.log.sql, most=sql.SQL(str(LOGGED)), whose=self._of_change())

    def where(self, side: str, of: Range, standing: Standing) -> sql.Composable:
        """Return the condition of the rows that are compared: those in the log are not, nor those that are refused."""
        parts = [self.range(side, of)]
        if standing.logged:
            parts.append(self._left_out[side])
        if standing.refused and side != "into":
            parts.append(self._not_refused)
        return sql.SQL(" and ").join(parts)

    def sums(self, of: Range, standing: Standing) -> sql.Composed:
        """Return the query of both sides' digests of a range."""
        skipped: sql.Composable = sql.SQL("0")
        if standing.logged:
            skipped = sql.SQL("(select count(*) from (select distinct {} from {} where {}) as segue_skipped)").format(
                self.names, self._touched, self.range("log", of)
            )
        sides = [
            sql.SQL("({})").format(digests.total(self._hash[side], self.table(side), self.where(side, of, standing)))
            for side in ("source", "into")
        ]
        return sql.SQL("select {}, o.*, n.* from {} as o, {} as n").format(skipped, *sides)

    def rows(self, side: str, of: Range, standing: Standing) -> sql.Composed:
        """Return the query of a range's rows: the key as the other side has it, as the source has it, the hashes."""
        there = self.wording.into_key() if side == "into" else self.wording.written_key()
        return sql.SQL("select array[{}], {}, {} from {} where {}").format(
            comma(sql.SQL("({})::text").format(part) for part in there),
            self.key_text(side),
            digest.hashes(self.columns, side),
            self.table(side),
            self.where(side, of, standing),
        )


class Comparer:
    """Compares ranges in a session of its own."""

    def __init__(self, site: Site, phrases: Phrases, late: Late | None = None) -> None:
        self.connection = site.open(**_PINS)
        self.phrases = phrases
        self._site = site
        self._late = late
        if late is not None:
            columns = comma(
                sql.SQL(f"segue_k{n} {key_type(self.connection, column)[0]}")
                for n, column in enumerate(phrases.flow.key, 1)
            )
            self.connection.execute(sql.SQL("create temp table segue_late ({}) on commit delete rows").format(columns))

    def close(self) -> None:
        """End the session."""
        self.connection.close()

    def place(self, side: str, of: Range, offset: int) -> Key | None:
        """Return the key at a place of a range; None where it has fewer."""
        row = self.connection.execute(self.phrases.place(side, of, offset)).fetchone()
        return tuple(row[0]) if row else None

    def sums(self, of: Range) -> Sums:
        """Reduce both sides of a range as one snapshot sees them. Raises SourceEmptied when the log says so."""
        with self.connection.transaction():
            return self._sums(of, self._begin())

    def _begin(self) -> Standing:
        """Take the snapshot, and see what it has to leave out."""
        phrases = self.phrases
        # Before the snapshot: a table that is emptied between the two would look as if it had been so all along.
        self.connection.execute(
            sql.SQL(
                "set transaction isolation level repeatable read, read only; lock table {}, {} in access share mode"
            ).format(phrases.table("source"), phrases.wording.into)
        )
        emptied, logged, refused, snapshot = _one(self.connection, phrases.standing())
        if emptied:
            raise SourceEmptied
        late = 0 if self._late is None else self._late(self.connection, LATE, phrases.names, snapshot)
        if late is None:
            raise SourceEmptied
        return Standing(logged + late, refused, snapshot)

    def _sums(self, of: Range, standing: Standing) -> Sums:
        skipped, rows_old, digest_old, rows_new, digest_new = _one(self.connection, self.phrases.sums(of, standing))
        return Sums(skipped, rows_old, int(digest_old), rows_new, int(digest_new), standing)

    # -- down to the row

    def differences(self, of: Range) -> list[Difference]:
        """Return the rows of a range that differ, as one snapshot sees them; a few more than are bearable at most."""
        with self.connection.transaction():
            standing = self._begin()
            found: list[Difference] = []
            todo = [of]
            while todo and len(found) <= MOST_DIFFERING:
                part = todo.pop()
                sums = self._sums(part, standing)
                if sums.same:
                    continue
                pieces = list(self._pieces(part, sums))
                if len(pieces) > 1:
                    todo += reversed(pieces)
                else:
                    found += self._rows(part, standing)
            return found

    def _pieces(self, of: Range, sums: Sums) -> Iterator[Range]:
        """Cut a range into parts with about as many rows each, as the side has them that has more."""
        most = max(sums.rows_old, sums.rows_new)
        side = "into" if sums.rows_new > sums.rows_old else "source"
        step = max(FEW_ROWS, -(-most // PARTS))
        after = of.after
        while most > FEW_ROWS:
            until = self.place(side, Range(after, of.until), step - 1)
            if until is None or until in (of.until, after):
                break
            yield Range(after, until)
            after = until
        yield Range(after, of.until)

    def _rows(self, of: Range, standing: Standing) -> list[Difference]:
        sides = []
        for side in ("source", "into"):
            rows: dict[Key, list[tuple[Key, list[int]]]] = defaultdict(list)
            for there, key, hashes in self.connection.execute(self.phrases.rows(side, of, standing)):
                rows[tuple(there)].append((tuple(key), hashes))
            sides.append(rows)
        mine, theirs = sides
        found = []
        for there in dict.fromkeys([*mine, *theirs]):
            here, over = mine.get(there, []), theirs.get(there, [])
            if sorted(hashes for _, hashes in here) != sorted(hashes for _, hashes in over):
                found.append(Difference((here or over)[0][0], self._what(here, over)))
        return found

    def _what(self, here: list[tuple[Key, list[int]]], over: list[tuple[Key, list[int]]]) -> str:
        flow = self.phrases.flow
        if not over:
            return f"missing in {flow.into}"
        if not here:
            return f"only in {flow.into}"
        if len(here) != len(over):
            return f"{len(over)} times in {flow.into}"
        pairs = zip(self.phrases.columns, here[0][1], over[0][1], strict=True)
        return "other values of " + ", ".join(f'"{column.into}"' for column, was, is_ in pairs if was != is_)


class Verifier:
    """Compares all rows of a flow, in ranges of the source's key with open ends, by several workers.

    Each range is one snapshot of both sides, without the keys that are in the log as that snapshot sees it: these are
    compared when they have been brought up to date. A range that is the same is recorded in `segue.verified` and not
    compared again in this round of the copy. `settle` drains the log; it is called in the thread that calls `run`.
    `late`, of a log that lags behind, lists the keys whose changes a snapshot sees and the log did not know by then;
    it returns None where the source was emptied.
    """

    def __init__(
        self,
        site: Site,
        flow: Flow,
        log: Place,
        change_id: str,
        member: int,
        direction: str,
        *,
        settle: Callable[[], None],
        late: Late | None = None,
        seconds: float = SECONDS,
        largest: int = MOST_KEYS,
    ) -> None:
        self._site = site
        self._flow = flow
        self._log = log
        self._settle = settle
        self._whose: dict[str, Any] = {"change": change_id, "member": member, "direction": direction}
        row = site.look.execute("select round from segue.change where id = %s", [change_id]).fetchone()
        self._whose["round"] = row[0] if row else 1
        self._late = late
        self._phrases = Phrases(site.look, flow, log, self._whose, lags=late is not None)
        self._size = ChunkSize(min(FIRST_KEYS, largest), seconds, largest)
        self._lock = threading.Condition()
        self._cutting = threading.Lock()
        self._todo: list[Range] = []
        self._number = 0
        self._repairs: Counter[Key] = Counter()
        self._asked = self._answered = 0
        self._stop = False
        self._failed: BaseException | None = None
        self._total = Verified(0, 0, 0, "0", "0", 0)

    # -- the whole

    def run(
        self,
        *,
        workers: int,
        pace: Callable[[], Pace],
        note: Callable[[Verified], None],
        boundary: Callable[[], None],
    ) -> Verified:
        """Compare what is left to compare; return what all of it has come to.

        `note` hears of it about once a second; whatever `boundary` raises ends it after the running ranges. Raises
        StepFailed when a row differs that was brought up to date again and again, SourceEmptied when the copy has to
        begin anew, OutcomeUnknown when a connection was lost.
        """
        self._pace = pace
        self._look()
        comparers: list[Comparer] = []
        threads = []
        try:
            for number in range(max(1, workers) if self._todo else 0):
                comparers.append(Comparer(self._site, self._phrases, self._late))
                threads.append(
                    threading.Thread(target=self._labour, args=(number, comparers[-1]), name=f"verify-{number + 1}")
                )
            for thread in threads:
                thread.start()
            self._watch(threads, note, boundary)
        finally:
            with self._lock:
                self._stop = True
                self._lock.notify_all()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            for comparer in comparers:
                comparer.close()
        if self._failed is not None:
            raise self._failed
        self._look()
        if self._todo:
            raise InternalError(f"ranges of {self._flow.source} were left out of the comparison")
        return self._total

    def _watch(
        self, threads: list[threading.Thread], note: Callable[[Verified], None], boundary: Callable[[], None]
    ) -> None:
        told = clock.ticks()
        while any(thread.is_alive() for thread in threads):
            boundary()
            with self._lock:
                asked = self._asked
            if asked > self._answered:
                self._settle()
                with self._lock:
                    self._answered = asked
                    self._lock.notify_all()
            if clock.ticks() - told >= NOTE_SECONDS:
                told = clock.ticks()
                note(self._total)
            threads[0].join(NAP_SECONDS) if threads[0].is_alive() else clock.sleep(NAP_SECONDS)

    def _look(self) -> None:
        """See what was compared already, and what is left."""
        look = self._site.look
        order = comma(
            sql.SQL(f"(after[{n}])::{column.type}" + (f" collate {column.collation}" if column.collation else ""))
            for n, column in enumerate(self._flow.key, 1)
        )
        recorded = look.execute((sql.SQL(_RECORDED) + order).as_string(look).encode(), self._whose).fetchall()
        todo = []
        position: Key | None = None
        ended = False
        for after, until in recorded:
            begin = tuple(after) if after is not None else None
            if begin != position:
                todo.append(Range(position, begin))
            position = tuple(until) if until is not None else None
            ended = until is None
        if not ended:
            todo.append(Range(position, None))
        self._todo = todo[::-1]
        ranges, rows, repaired, old, new, rows_new, self._number = _one(look, _TOTALS, self._whose)
        self._total = Verified(
            ranges=ranges,
            rows=int(rows),
            differing=int(repaired),
            digest_old=old,
            digest_new=new,
            rows_new=int(rows_new),
            methods=digest.methods(self._phrases.columns),
        )
        if self._phrases.nullable:
            self._check_keys()

    def _check_keys(self) -> None:
        """See that no row of the other side is without a key: it would be in no range."""
        missing = sql.SQL(" or ").join(sql.SQL("{} is null").format(sql.Identifier(n)) for n in self._phrases.nullable)
        query = sql.SQL("select count(*) from {} where {}").format(self._phrases.wording.into, missing)
        (count,) = _one(self._site.look, query)
        if count:
            raise StepFailed(
                f"{count:,} rows of {self._flow.into} have no key, and can be of no row of {self._flow.source}",
                hint="somebody else has written to it; take the change back with `segue rollback`, and begin anew",
            )

    # -- in the workers

    def _labour(self, number: int, comparer: Comparer) -> None:
        try:
            self._work(number, comparer)
        except psycopg.Error as error:
            self._fail(self._explained(comparer, error))
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failed is None:
                self._failed = error
            self._stop = True
            self._lock.notify_all()

    def _explained(self, comparer: Comparer, error: psycopg.Error) -> SegueError:
        if comparer.connection.closed:
            return OutcomeUnknown(
                f"the connection to {place(self._site.url)} was lost while rows were compared",
                hint="run again: what was compared is in the target",
            )
        if error.sqlstate and error.sqlstate.startswith("22"):
            return StepFailed(
                f"{self._flow.source} cannot be compared with {self._flow.into}: {error.diag.message_primary} "
                f"(SQLSTATE {error.sqlstate})",
                hint=f"does {self._flow.into} hold a row whose key no row of {self._flow.source} could have? "
                "Somebody else has written to it then: take the change back with `segue rollback`, and begin anew",
            )
        return explain(error, place(self._site.url))

    def _work(self, number: int, comparer: Comparer) -> None:
        while not self._stop:
            pace = self._pace()
            if pace.duty <= 0 or (pace.workers is not None and number >= max(1, pace.workers)):
                clock.sleep(NAP_SECONDS)
                if not self._todo:
                    return
                continue
            began = clock.ticks()
            try:
                of = self._next(comparer)
            except _GAVE_WAY:
                continue
            if of is None:
                return
            self._compare(comparer, of)
            rest = (clock.ticks() - began) * (1 / pace.duty - 1)
            until = clock.ticks() + min(rest, 30.0)
            while not self._stop and clock.ticks() < until:
                clock.sleep(min(NAP_SECONDS, until - clock.ticks()))

    def _next(self, comparer: Comparer) -> Range | None:
        """Take the next range, of about as many keys as can be compared in the time for one."""
        with self._cutting:
            if not self._todo:
                return None
            whole = self._todo[-1]
            end = comparer.place("source", whole, self._keys(comparer) - 1)
            if end is None or end == whole.until:
                return self._todo.pop()
            self._todo[-1] = Range(end, whole.until)
            return Range(whole.after, end)

    def _keys(self, comparer: Comparer) -> int:
        if self._phrases.ordered:
            return self._size.size
        query = sql.SQL("explain (format json) select from {}").format(self._phrases.table("source"))
        (plan,) = _one(comparer.connection, query)
        return max(FIRST_KEYS, int(plan[0]["Plan"]["Plan Rows"]) // UNORDERED_RANGES)

    def _compare(self, comparer: Comparer, of: Range) -> None:
        """Compare a range until it is the same on both sides, and record it."""
        repaired: set[Key] = set()
        settled = False
        while True:
            began = clock.ticks()
            sums = self._try(comparer, lambda: comparer.sums(of))
            took = clock.ticks() - began
            if sums is None:
                return
            if sums.same:
                break
            if not settled:
                # A log that lags behind does not know yet what was written last.
                settled = True
            else:
                found = self._try(comparer, lambda: comparer.differences(of))
                if found is None:
                    return
                self._judge(found)
                repaired.update(one.key for one in found)
                self._try(comparer, partial(self._repair, comparer, [one.key for one in found]))
            if not self._settled():
                return
        self._size.took(sums.rows_old, took)
        self._try(comparer, partial(self._record, comparer, of, sums, len(repaired), took))
        if sums.standing.logged >= LOGGED:
            self._settled()

    def _try(self, comparer: Comparer, act: Callable[[], T]) -> T | None:
        """Look at a snapshot, again where a lock was in the way; None when it is over."""
        emptied = False
        while not self._stop:
            try:
                return act()
            except _GAVE_WAY:
                clock.sleep(NAP_SECONDS)
            except SourceEmptied:
                # What drains may make it good: then every row that came since is in the log.
                if emptied:
                    raise
                emptied = True
                if not self._settled():
                    return None
        return None

    def _settled(self) -> bool:
        """Have the log drained, and wait for that; False when it is over."""
        with self._lock:
            self._asked += 1
            mine = self._asked
            self._lock.wait_for(lambda: self._stop or self._answered >= mine)
            return not self._stop

    def _judge(self, found: Sequence[Difference]) -> None:
        """Raise when rows differ that were brought up to date often enough, or too many."""
        with self._lock:
            stay = [one for one in found if self._repairs[one.key] >= REPAIRS]
            self._repairs.update(one.key for one in found)
            many = len(self._repairs) > MOST_DIFFERING
        source, into = self._flow.source, self._flow.into
        if stay:
            raise StepFailed(
                f"{len(stay):,} rows of {source} differ from those of {into}, although each was brought up to date "
                f"{REPAIRS} times",
                details=[str(one) for one in stay[:20]],
                hint="nothing was swapped. Does an expression of the change give another value each time, or does "
                "somebody else write to the new table?",
            )
        if many:
            raise StepFailed(
                f"more than {MOST_DIFFERING:,} rows of {source} differ from those of {into}",
                details=[str(one) for one in found[:20]],
                hint="nothing was swapped; take the change back with `segue rollback`, and begin anew",
            )

    def _repair(self, comparer: Comparer, keys: Sequence[Key]) -> None:
        """Put keys into the log, so that they are brought up to date as if they had been touched."""
        if not keys:
            return
        columns = [[key[n] for key in keys] for n, _ in enumerate(self._flow.key)]
        values = comma(sql.SQL(f"segue_t{n}::{c.type}") for n, c in enumerate(self._flow.key, 1))
        texts = comma(sql.SQL("%s::text[]") for _ in columns)
        names = comma(sql.SQL(f"segue_t{n}") for n, _ in enumerate(columns, 1))
        query = sql.SQL("insert into {} ({}) select {} from unnest({}) as segue_given ({})").format(
            self._log.sql, self._phrases.names, values, texts, names
        )
        with self._site.transaction(comparer.connection) as connection:
            connection.execute(query, columns)
            journal.point("online-repair-before-commit")
        journal.point("online-repaired")

    def _record(self, comparer: Comparer, of: Range, sums: Sums, repaired: int, took: float) -> None:
        journal.point("online-range-compared")
        with self._lock:
            self._number += 1
            number = self._number
        with self._site.transaction(comparer.connection) as connection:
            connection.execute(
                _RECORD.encode(),
                {
                    **self._whose,
                    "number": number,
                    "after": list(of.after) if of.after is not None else None,
                    "until": list(of.until) if of.until is not None else None,
                    "rows_old": sums.rows_old,
                    "rows_new": sums.rows_new,
                    "digest_old": sums.digest_old,
                    "digest_new": sums.digest_new,
                    "skipped": sums.skipped,
                    "repaired": repaired,
                    "snapshot": sums.standing.snapshot,
                    "milliseconds": round(took * 1000),
                },
            )
            journal.point("online-verified-before-commit")
        journal.point("online-range-verified")
        with self._lock:
            total = self._total
            self._total = Verified(
                ranges=total.ranges + 1,
                rows=total.rows + sums.rows_old,
                differing=total.differing + repaired,
                digest_old=str(int(total.digest_old) + sums.digest_old),
                digest_new=str(int(total.digest_new) + sums.digest_new),
                rows_new=total.rows_new + sums.rows_new,
                methods=total.methods,
            )


def _one(
    connection: Connection, query: sql.Composable | str, parameters: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Return the only row of a query that has one for sure."""
    cursor = connection.execute(
        query.encode() if isinstance(query, str) else query.as_string(connection).encode(), parameters
    )
    (row,) = cursor.fetchall()
    return row


def _keeps_order(came: str, goes: str) -> bool:
    """Return whether the cast of one type to another keeps the order of its values."""
    if came in _MOMENTS and goes in _MOMENTS:
        return True
    return (came in WHOLE and goes == "numeric") or (came == "real" and goes == "double precision")
