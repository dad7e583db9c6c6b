"""One labourer of a data job: writes ranges, and looks for the rows at fault where one cannot be written."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.batches import GAVE_WAY
from segue.databases.postgresql.jobs.process import CallEnded
from segue.databases.postgresql.jobs.sifting import Sieve, is_row_fault
from segue.databases.postgresql.lease import check_fence
from segue.databases.postgresql.rows import Writer, show
from segue.engine import journal
from segue.errors import InternalError, StepFailed
from segue.ports import FORWARD, BatchLost, ChunkTooSlow, Cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segue.databases.postgresql.jobs.importing import Import
    from segue.databases.postgresql.jobs.work import JobWork
    from segue.ports import Batch

# A range that holds a row at fault is done in pieces of so many keys: finding one row among them takes a
# subtransaction for each halving.
SIFTED_KEYS = 1_000
# How often a labourer that waits for a function gives a sign of life.
BEAT_SECONDS = 1.0
# How often a row that takes too long is tried.
SLOW_TRIES = 3

_COUNT = """
select count(*) from segue.rejected
where execution = %(execution)s and step = %(step)s and resolution is null and not stopped
"""
_FIRST = """
select key, error_type, sqlstate, message, stack, target::text from segue.rejected
where execution = %(execution)s and step = %(step)s and resolution is null and not stopped order by id limit 1
"""

_NUMBERS = sql.SQL("segue_k.segue_n between $1 and $2 and ")
_LIST = sql.SQL("segue_job_keys as segue_k")
_AT_ONCE = sql.SQL("set constraints all immediate")


class JobWriter(Writer):
    """See `segue.ports.ChunkWriter`."""

    _work: JobWork

    def __init__(self, work: JobWork, connection: psycopg.Connection[Any], owner: str) -> None:
        super().__init__(work, connection, owner)
        self._forward = work.effect.direction == FORWARD
        self._of = {"execution": work.effect.execution, "step": work.effect.step}
        self._listed = False
        # Rows that could not be done alone in the time: how often, and what is said of them.
        self._slow: dict[tuple[str, ...] | None, int] = {}
        self._why: dict[tuple[str, ...] | None, tuple[str, str, str, str | None]] = {}

    def write(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        """Do a range and record it in one transaction; where rows are at fault, in several."""
        try:
            self._put(batch, cut, last=last, fits=fits)
        except psycopg.Error as error:
            # What cannot be taken out stops the way back: it would be left without anybody's knowing.
            self._failed(error, cut, final=not self._forward)
        else:
            return
        written = False
        for piece in self._pieces(cut):
            try:
                self._put_or_sift(batch, piece, last=last and piece.until == cut.until, fits=fits)
            except ChunkTooSlow as error:
                if not written:
                    raise
                # What is left of the batch is found by its next claim, which sees the pieces that are done.
                self.give_back([batch])
                raise BatchLost(f"batch {batch.number} is given back half-way: {error}") from error
            written = True

    def _put_or_sift(self, batch: Batch, piece: Cut, *, last: bool, fits: int | None) -> None:
        try:
            try:
                self._put(batch, piece, last=last, fits=fits)
            except psycopg.Error as error:
                self._failed(error, piece)
                self._sift(batch, piece, last=last, fits=fits)
        except psycopg.Error as error:
            self._failed(error, piece, final=True)

    def write_all(self, batches: Sequence[Batch]) -> bool:
        """Do several small batches in one transaction, where nothing is to be looked at in between."""
        return not (self._forward and self._work.wording.checked) and super().write_all(batches)

    def _put(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        alone = cut.keys <= 1
        if alone and self._slow.get(cut.until, 0) >= SLOW_TRIES:
            self._reject_slow(batch, cut, last=last, fits=fits)
            return
        # Rules that wait for the commit would not say which row they refuse.
        statements = [_AT_ONCE, self._work.statement_of(cut, batch.number)]
        if alone:
            # A single row cannot be made smaller: it may take as long as the plan says.
            limit = f"{round(self._work.spec.longest * 1000)}ms"
            statements.insert(0, sql.SQL("set local statement_timeout = {}").format(sql.Literal(limit)))
        (rows,) = self.begin([batch], statements)
        if self._forward and self._suspicious():
            self._weigh()
        self._record(batch, cut, rows, last=last, fits=fits)

    def _record(self, batch: Batch, cut: Cut, rows: int, *, last: bool, fits: int | None) -> None:
        journal.point("chunk-before-commit")
        bounds = [list(key) if key is not None else None for key in (cut.after, cut.until)]
        self.commit(self.call("record", batch.number, *bounds, 0, 1, cut.keys, rows, last, fits))
        journal.point("chunk-committed")

    def _suspicious(self) -> bool:
        """Return whether rows of this transaction may have been rejected without an error."""
        return self._work.wording.checked

    def _fetch_rejected(self, key: tuple[str, ...]) -> None:
        """Have a row of the source ready for the next transaction: it is in this database."""

    def _put_rejected(self) -> None:
        """Have it at hand in this one."""

    def _pieces(self, cut: Cut) -> Iterator[Cut]:
        """Cut a range so small that a row in it can be found; the pieces come one after the other, without a hole."""
        rest: Cut | None = cut
        while rest is not None:
            piece = self.cut(rest.after, SIFTED_KEYS, cut.until)
            ends = piece is None or piece.last or piece.until == cut.until
            yield replace(
                rest, keys=piece.keys if piece else 0, until=cut.until if ends or piece is None else piece.until
            )
            rest = None if ends or piece is None else replace(cut, after=piece.until)

    # -- rows at fault

    def _sift(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        """Write what can be written of a small range, and keep the rest as rejected."""
        work = self._work
        columns, joined = work.listing()
        if not self._listed:
            self._connection.execute(
                sql.SQL("create temp table if not exists segue_job_keys (segue_n bigint, {}) on commit delete rows")
                .format(columns)
                .as_string(self._connection)
                .encode()
            )
            self._listed = True
        within = _NUMBERS + joined
        values = tuple(sql.SQL(f"${place}") for place in range(3, 8))
        sieve = Sieve(
            self._connection,
            keys=sql.SQL("segue_job_keys"),
            put=work.doing(within, batch.number, _LIST),
            target=work.wording.target_row(within, _LIST),
            parts=work.wording.target_parts(within, _LIST),
            reject=work.wording.reject_found(within, batch.number, _LIST, values),
            most=work.spec.most_errors if work.spec.continue_on_error else 0,
        )
        self.begin([batch], [_AT_ONCE, sql.SQL("insert into segue_job_keys {}").format(work.numbered(cut))])
        rows, refused = sieve.sift(self._connection)
        if refused or self._suspicious():
            self._weigh()
        self._record(batch, cut, rows, last=last, fits=fits)

    def _reject_slow(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        """Leave a row out that takes longer than a statement may."""
        work = self._work
        values = (*map(sql.Literal, self._why[cut.until]), sql.SQL("null"))
        self.begin([batch], [work.wording.reject_found(work.keys_of(cut), batch.number, None, values)])
        self._weigh()
        self._record(batch, cut, 0, last=last, fits=fits)
        self._slow.pop(cut.until, None)

    def _weigh(self) -> None:
        """Raise StepFailed, with nothing left of the transaction, when too many rows were rejected by now."""
        spec = self._work.spec
        row = self._connection.execute(_COUNT.encode(), self._of).fetchone()
        count = row[0] if row else 0
        if count == 0 or (spec.continue_on_error and count <= spec.most_errors):
            return
        if spec.continue_on_error:
            self._end_failed()
            raise StepFailed(
                f"{self._work.what} met more than {spec.most_errors:,} rows that it cannot write",
                hint="`segue job errors` lists those that were met; correct the cause, or raise `max_errors`",
            )
        first = self._connection.execute(_FIRST.encode(), self._of).fetchone()
        self._end_failed()
        raise self._stopped(*(first or ((), "", "", "", None, None)))

    def _stopped(
        self, key: Sequence[str], kind: str, state: str, message: str, stack: str | None, target: str | None
    ) -> StepFailed:
        """Keep the row at which the job stops, and return what to say of it."""
        work = self._work
        values = (*map(sql.Literal, (kind, state, message, stack)), sql.SQL("{}::jsonb").format(sql.Literal(target)))
        self._fetch_rejected(tuple(key))
        with self._connection.transaction():
            check_fence(self._connection, work.lease.execution, work.lease.fence)
            self._put_rejected()
            self._connection.execute(
                work.wording.reject_found(work.holds(key), None, None, values, stopped=True)
                .as_string(self._connection)
                .encode()
            )
        return StepFailed(
            f"{work.what} cannot write the row {show(tuple(key))}: {message}",
            hint="its batch was rolled back; correct the row and start again, resolve it with `segue job resolve`, "
            "or let the job go on without such rows (`continue_on_error`)",
        )

    def _too_slow(self, cut: Cut, why: tuple[str, str, str, str | None]) -> None:
        """Take note of a single row that could not be done; `why`: type, SQLSTATE, message and stack of its error."""
        self._slow[cut.until] = self._slow.get(cut.until, 0) + 1
        self._why[cut.until] = why

    def _failed(self, error: psycopg.Error, cut: Cut, *, final: bool = False) -> None:
        """Leave a transaction that failed; return when its rows are to be looked at, else raise."""
        self._end_failed()
        if self._connection.closed:
            raise self._work.lost(self._connection, error) from error
        if isinstance(error, GAVE_WAY):
            if self._forward and cut.keys <= 1 and "statement timeout" in str(error.diag.message_primary):
                words = f"the row takes longer to write than {self._work.spec.longest:g} s"
                self._too_slow(cut, ("timeout", "57014", words, None))
            raise ChunkTooSlow(str(error.diag.message_primary)) from error
        if final or not is_row_fault(error):
            raise StepFailed(
                f"{self._work.what} failed in the keys after {show(cut.after)} up to {show(cut.until)}: "
                f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})",
                details=[line for line in (error.diag.message_detail,) if line],
                hint="the batch was rolled back; correct the cause and start again",
            ) from error


class ImportWriter(JobWriter):
    """A labourer of a job whose rows are brought, perhaps through a function: each range before it is done."""

    def __init__(self, work: JobWork, importing: Import, connection: psycopg.Connection[Any], owner: str) -> None:
        super().__init__(work, connection, owner)
        self._importing = importing
        self._cut: Cut | None = None
        self._beaten = clock.ticks()
        self._fault: dict[str, Any] | None = None
        importing.stage(connection)
        self._sessions = ExitStack()
        try:
            self._far = self._sessions.enter_context(importing.session())
            self._bringing = importing.bringing(self._far)
        except BaseException:
            self._sessions.close()
            raise
        self._sessions.callback(self._bringing.close)

    def cut(self, after: tuple[str, ...] | None, size: int, until: tuple[str, ...] | None) -> Cut | None:
        """Cut where the source is."""
        with self._importing.telling(self._far):
            return self._work.cut_in(self._far, after, size, until)

    def write_all(self, batches: Sequence[Batch]) -> bool:
        """Do batches one by one: each is brought by itself."""
        return False

    def begin(self, batches: Sequence[Batch], statements: Sequence[sql.Composable]) -> list[int]:
        """Begin a transaction, bring the rows that are wanted, and run statements."""
        self._fetch()
        super().begin(batches, [])
        try:
            self._bringing.put(self._connection)
            if self._bringing.faults and self._fault is None:
                statements = [self._refuse_or_reject(batches[0].number), *statements]
        except (ChunkTooSlow, StepFailed):
            self._end_failed()
            raise
        cursor = self._connection.execute(sql.SQL(";\n").join(statements))
        rows = [cursor.rowcount]
        while cursor.nextset():
            rows.append(cursor.rowcount)
        return rows[-len(batches) :]

    def close(self) -> None:
        """End the session on the source."""
        self._sessions.close()

    def _fetch(self) -> None:
        """Read the rows that are wanted, and call a function for them, before anything is held."""
        cut = self._cut
        if cut is None:
            raise InternalError("no range is wanted")
        try:
            self._bringing.fetch(self._work.keys_of(cut), beat=self._beat, fault=self._fault)
        except CallEnded as error:
            if cut.keys > 1:
                raise
            if not self._forward and self._slow.get(cut.until, 0) >= SLOW_TRIES:
                raise StepFailed(f"{self._work.what} cannot work out the row {show(cut.until)}: {error}") from error
            self._too_slow(cut, (error.kind, "", str(error), None))
            raise

    def _beat(self) -> None:
        """Give a sign of life now and then: a function may work for longer than a silent labourer keeps its batch."""
        if clock.ticks() - self._beaten >= BEAT_SECONDS:
            self._beaten = clock.ticks()
            self.beat()

    def _refuse_or_reject(self, batch: int) -> sql.Composable:
        """Return the statement that rejects the rows with which nothing can be done; on the way back none may be."""
        work = self._work
        if self._forward:
            condition = work.unsettled()
            return work.wording.reject_faulty(condition, batch)
        query = work.wording.faulty(sql.SQL("true") + work.wording.accepted())
        first = self._connection.execute(query.as_string(self._connection).encode()).fetchone()
        if first is None:
            return _AT_ONCE
        raise StepFailed(
            f"{work.what} cannot work out the row {show(tuple(first[0]))}: {first[1]}",
            hint="what was written for it cannot be found; mend the row in the source, or take the rows out by hand",
        )

    def _suspicious(self) -> bool:
        return super()._suspicious() or self._bringing.faults > 0

    def _put(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        self._cut = cut
        super()._put(batch, cut, last=last, fits=fits)

    def _sift(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        self._cut = cut
        super()._sift(batch, cut, last=last, fits=fits)

    def _reject_slow(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        # It is not tried once more.
        self._fault = {"message": "not called"}
        try:
            super()._reject_slow(batch, cut, last=last, fits=fits)
        finally:
            self._fault = None

    def _fetch_rejected(self, key: tuple[str, ...]) -> None:
        # Not called either: what is wrong with the row is known.
        self._bringing.fetch(self._work.holds(key), fault={"message": "not called"})

    def _put_rejected(self) -> None:
        self._bringing.put(self._connection)
