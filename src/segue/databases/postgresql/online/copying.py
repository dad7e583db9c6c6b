"""Copies a table's rows to the other side in key order, each chunk and its record in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.batches import GAVE_WAY
from segue.databases.postgresql.online.refusing import Sieve, is_refusal, too_many
from segue.databases.postgresql.online.wording import Listing, Wording, comma
from segue.databases.postgresql.rows import KeyedWork, Writer, show
from segue.engine import journal
from segue.errors import StepFailed
from segue.ports import ChunkTooSlow, Cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.databases.postgresql.online.blueprint import Flow
    from segue.databases.postgresql.online.site import Site
    from segue.ports import Batch, EffectKey

# A chunk that holds a row that is refused is done in pieces of so many keys: finding one row among them takes a
# subtransaction for each halving.
SIFTED_KEYS = 2_000

# Nothing waits for a copy: it reads, and nobody but Segue knows the table that it writes. It only must not last so long
# that a stopped driver cannot end it.
LONGEST_SECONDS = 20
LOCK_WAIT_SECONDS = 0.3

_PINS = {
    # The progress stands in the same transaction: a crash loses both or neither.
    "synchronous_commit": "off",
    "enable_seqscan": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": "5s",
}


class Copy(KeyedWork):
    """The copy of a table's rows along a flow. See `segue.ports.ChunkedWork`.

    Its `key` names member and round, so that neither several members nor a copy that is begun anew mix. Rows that come
    after it has begun are in the log, those behind its end as all others.
    """

    counts = False
    session_pins = _PINS

    def __init__(self, site: Site, key: EffectKey, flow: Flow, change_id: str, member: int, direction: str) -> None:
        super().__init__(site.work, site.url, site.lease, site.schema, key, f"the copy of {flow.source}")
        self.flow = flow
        self.whose = (change_id, member, direction)
        self.wording = Wording(site.work, flow)
        self._head = self._rendered(self.wording.insert + sql.SQL("\nwhere "))
        self._name = flow.source.name
        self._walk_along(
            self.wording.source,
            [column.name for column in flow.key],
            [column.type for column in flow.key],
            [column.collation for column in flow.key],
            lanes=lambda: 1,
        )
        self._check(site.work)

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        """Let the server plan the statement, so that what is wrong with it is not taken for a fault of the rows."""
        if self._end is None:
            return
        try:
            connection.execute(sql.SQL("explain ") + self.statement(Cut(self._end, self._end, 0, last=False)))
        except psycopg.Error as error:
            if connection.closed:
                raise self.lost(connection, error) from error
            raise StepFailed(
                f"{self.what} is refused: {error.diag.message_primary} (SQLSTATE {error.sqlstate})",
                details=[f"{column.into} = {column.expression}" for column in self.flow.columns],
                hint=error.diag.message_hint or "correct the cause and run again",
            ) from error

    def statement(self, cut: Cut) -> sql.Composable:
        """Return the statement that copies a range."""
        return sql.Composed([self._head, self._range(cut.after, cut.until, self._name)])

    def keys_of(self, cut: Cut) -> sql.Composable:
        """Return the condition that a row of the source is in a range."""
        return self._range(cut.after, cut.until, self._name)

    def writer(self, connection: psycopg.Connection[Any], owner: str) -> Writer:
        """Return the writer of a labourer."""
        return _Copyist(self, connection, owner)


class _Copyist(Writer):
    """See `segue.ports.ChunkWriter`."""

    _work: Copy

    def __init__(self, work: Copy, connection: psycopg.Connection[Any], owner: str) -> None:
        super().__init__(work, connection, owner)
        self._limit = LONGEST_SECONDS
        connection.execute(
            "select pg_catalog.set_config('statement_timeout', %s, false), "
            "pg_catalog.set_config('lock_timeout', %s, false)",
            [f"{LONGEST_SECONDS}s", f"{round(LOCK_WAIT_SECONDS * 1000)}ms"],
        )
        self._sieve: Sieve | None = None

    def write(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        """Copy a range and record it in one transaction; where rows are refused, in several."""
        try:
            self._copy(batch, cut, last=last, fits=fits)
        except psycopg.Error as error:
            self._failed(error, cut)
        else:
            return
        for piece in self._pieces(cut):
            ends = last and piece.until == cut.until
            try:
                try:
                    self._copy(batch, piece, last=ends, fits=fits)
                except psycopg.Error as error:
                    self._failed(error, piece)
                    self._sift(batch, piece, last=ends, fits=fits)
            except psycopg.Error as error:
                self._failed(error, piece, final=True)

    def _copy(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        (rows,) = self.begin([batch], [self._work.statement(cut)])
        self._record(batch, cut, rows, last=last, fits=fits)

    def _record(self, batch: Batch, cut: Cut, rows: int, *, last: bool, fits: int | None) -> None:
        journal.point("chunk-before-commit")
        after = list(cut.after) if cut.after is not None else None
        until = list(cut.until) if cut.until is not None else None
        self.commit(self.call("record", batch.number, after, until, 0, 1, cut.keys, rows, last, fits))
        journal.point("chunk-committed")

    def _pieces(self, cut: Cut) -> Sequence[Cut]:
        """Cut a range so small that a row in it can be found; the pieces come one after the other, without a hole."""
        pieces: list[Cut] = []
        after = cut.after
        while True:
            piece = self.cut(after, SIFTED_KEYS, cut.until)
            if piece is None or piece.last:
                pieces.append(Cut(after, cut.until, piece.keys if piece else 0, last=cut.last))
                return pieces
            pieces.append(piece)
            after = piece.until

    def _sift(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        """Copy what fits of a small range, and keep the rest as conflicts."""
        work = self._work
        if self._sieve is None:
            listing = Listing(self._connection, work.wording, "segue_copied_keys")
            self._sieve = Sieve(self._connection, listing, *work.whose)
        listing = self._sieve.listing
        self.begin(
            [batch],
            [
                sql.SQL("insert into {} ({}) select {} from {} where {}").format(
                    listing.table, listing.names, comma(work.wording.key()), work.wording.source, work.keys_of(cut)
                )
            ],
        )
        rows, _ = self._sieve.sift(self._connection)
        self._record(batch, cut, rows, last=last, fits=fits)

    def _failed(self, error: psycopg.Error, cut: Cut, *, final: bool = False) -> None:
        """Leave a transaction that failed; return when its rows are to be looked at, else raise."""
        self._end_failed()
        if self._connection.closed:
            raise self._work.lost(self._connection, error) from error
        if isinstance(error, GAVE_WAY):
            raise ChunkTooSlow(str(error.diag.message_primary)) from error
        if final and isinstance(error, psycopg.errors.ProgramLimitExceeded):
            raise too_many() from error
        if final or not is_refusal(error):
            raise StepFailed(
                f"{self._work.what} failed in the keys after {show(cut.after)} up to {show(cut.until)}: "
                f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})",
                hint="the chunk was rolled back; correct the cause and run again",
            ) from error
