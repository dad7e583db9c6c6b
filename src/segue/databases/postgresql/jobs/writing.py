"""One labourer of a data job: writes ranges, and looks for the rows at fault where one cannot be written."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.batches import GAVE_WAY
from segue.databases.postgresql.jobs.sifting import Sieve, is_row_fault
from segue.databases.postgresql.lease import check_fence
from segue.databases.postgresql.rows import Writer, show
from segue.engine import journal
from segue.errors import StepFailed
from segue.ports import FORWARD, BatchLost, ChunkTooSlow, Cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segue.databases.postgresql.jobs.importing import Import
    from segue.databases.postgresql.jobs.work import JobWork
    from segue.ports import Batch

# A range that holds a row at fault is done in pieces of so many keys: finding one row among them takes a
# subtransaction for each halving.
SIFTED_KEYS = 1_000
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
        self._slow: dict[tuple[str, ...] | None, int] = {}

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
        if self._forward and self._work.wording.checked:
            self._weigh()
        self._record(batch, cut, rows, last=last, fits=fits)

    def _record(self, batch: Batch, cut: Cut, rows: int, *, last: bool, fits: int | None) -> None:
        journal.point("chunk-before-commit")
        bounds = [list(key) if key is not None else None for key in (cut.after, cut.until)]
        self.commit(self.call("record", batch.number, *bounds, 0, 1, cut.keys, rows, last, fits))
        journal.point("chunk-committed")

    def _bring(self, condition: sql.Composable) -> None:
        """Have rows of the source at hand in this transaction: they are in this database."""

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
        if refused or work.wording.checked:
            self._weigh()
        self._record(batch, cut, rows, last=last, fits=fits)

    def _reject_slow(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        """Leave a row out that takes longer than a statement may."""
        work = self._work
        words = f"the row takes longer to write than {work.spec.longest:g} s"
        values = tuple(map(sql.Literal, ("timeout", "57014", words, None, None)))
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
        with self._connection.transaction():
            check_fence(self._connection, work.lease.execution, work.lease.fence)
            self._bring(work.holds(key))
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

    def _failed(self, error: psycopg.Error, cut: Cut, *, final: bool = False) -> None:
        """Leave a transaction that failed; return when its rows are to be looked at, else raise."""
        self._end_failed()
        if self._connection.closed:
            raise self._work.lost(self._connection, error) from error
        if isinstance(error, GAVE_WAY):
            if self._forward and cut.keys <= 1 and "statement timeout" in str(error.diag.message_primary):
                self._slow[cut.until] = self._slow.get(cut.until, 0) + 1
            raise ChunkTooSlow(str(error.diag.message_primary)) from error
        if final or not is_row_fault(error):
            raise StepFailed(
                f"{self._work.what} failed in the keys after {show(cut.after)} up to {show(cut.until)}: "
                f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})",
                details=[line for line in (error.diag.message_detail,) if line],
                hint="the batch was rolled back; correct the cause and start again",
            ) from error


class ImportWriter(JobWriter):
    """A labourer of a job whose source is in another database: it brings each range before it does it."""

    def __init__(self, work: JobWork, importing: Import, connection: psycopg.Connection[Any], owner: str) -> None:
        super().__init__(work, connection, owner)
        self._importing = importing
        self._wanted: sql.Composable = sql.SQL("false")
        importing.stage(connection)
        self._sessions = ExitStack()
        self._far = self._sessions.enter_context(importing.session())

    def cut(self, after: tuple[str, ...] | None, size: int, until: tuple[str, ...] | None) -> Cut | None:
        """Cut where the source is."""
        with self._importing.telling(self._far):
            return self._work.cut_in(self._far, after, size, until)

    def write_all(self, batches: Sequence[Batch]) -> bool:
        """Do batches one by one: each is brought by itself."""
        return False

    def begin(self, batches: Sequence[Batch], statements: Sequence[sql.Composable]) -> list[int]:
        """Begin a transaction, bring the rows that are wanted, and run statements."""
        super().begin(batches, [])
        self._bring(self._wanted)
        cursor = self._connection.execute(sql.SQL(";\n").join(statements))
        rows = [cursor.rowcount]
        while cursor.nextset():
            rows.append(cursor.rowcount)
        return rows[-len(batches) :]

    def close(self) -> None:
        """End the session on the source."""
        self._sessions.close()

    def _put(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        self._wanted = self._work.keys_of(cut)
        super()._put(batch, cut, last=last, fits=fits)

    def _sift(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        self._wanted = self._work.keys_of(cut)
        super()._sift(batch, cut, last=last, fits=fits)

    def _bring(self, condition: sql.Composable) -> None:
        self._importing.bring(self._far, self._connection, condition)
