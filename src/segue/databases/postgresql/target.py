"""A PostgreSQL database under the lease of one execution: every effect on it goes through here."""

from __future__ import annotations

from contextlib import closing, contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg

from segue import clock
from segue.databases.postgresql import concurrent, history, schema_state
from segue.databases.postgresql.connection import open_session, pin
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.fence import Fence, learn_pass
from segue.databases.postgresql.lease import Lease, Tenure, check_fence
from segue.databases.postgresql.locking import (
    INSTANT_SECONDS,
    NotThisTime,
    lock_in_slices,
    milliseconds,
    set_local,
    take_locks,
)
from segue.databases.postgresql.programs import Programs
from segue.databases.postgresql.rows import Backfill
from segue.databases.postgresql.signals import Gauge
from segue.engine import journal
from segue.errors import (
    CannotTell,
    InternalError,
    LockNotGranted,
    OutcomeUnknown,
    SegueError,
    StepFailed,
    TargetUnreachable,
)
from segue.model.impact import Duration, Lock, Statement
from segue.ports import BackfillSpec, ChunkedWork, Drift, EffectKey, Observed, Patience, Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from segue.databases.postgresql.jobs.job import PostgresJob
    from segue.databases.postgresql.online.change import PostgresChange
    from segue.model.jobs import JobSpec
    from segue.model.online import ChangeSpec
    from segue.ports.jobs import DataJob

    Rows = Generator[tuple[Any, ...], None, None]


T = TypeVar("T")


def _nowhere(environment: str) -> str:
    raise InternalError(f'a step reads from the environment "{environment}", and nobody has said where that is')


# How long the removal of an INVALID index may wait after a failed build; the next run removes it otherwise.
CLEARING_SECONDS = 10.0


class PostgresTarget:
    """See `segue.ports.Target`. One session works, one looks, one keeps the lease."""

    def __init__(
        self,
        url: str,
        *,
        execution: str,
        holder: str,
        schema: str,
        under: Tenure | None = None,
        waits: Waits | None = None,
    ) -> None:
        """Take the lease, or work `under` one that is held already, by this process or by another."""
        self.waits = waits or Waits()
        self.schema = schema
        self._url = url
        self._holds = under is None
        self.lease: Tenure = Lease(url, execution=execution, holder=holder) if under is None else under
        self.taken_over = self.lease.taken_over
        self._gauges: list[Gauge] = []
        self._jobs: list[PostgresJob] = []
        self.places: Callable[[str], str] = _nowhere
        try:
            self._open_all()
            if self._holds:
                self._looking(lambda: learn_pass(self._work, self.lease))
        except BaseException:
            if self._holds:
                self.lease.close()
            raise

    @classmethod
    def join(cls, url: str, *, execution: str, holder: str, fence: int, schema: str) -> PostgresTarget:
        """Work under a lease that another process holds; raises FenceLost when it holds it no more."""
        tenure = Tenure(execution=execution, holder=holder, fence=fence)
        target = cls(url, execution=execution, holder=holder, schema=schema, under=tenure)
        try:
            target._looking(lambda: check_fence(target._look, execution, fence))
            target._looking(lambda: learn_pass(target._work, tenure))
        except BaseException:
            target.close()
            raise
        return target

    @contextmanager
    def branch(self) -> Iterator[PostgresTarget]:
        """Open sessions of their own under the same lease."""
        target = PostgresTarget(
            self._url,
            execution=self.lease.execution,
            holder=self.lease.holder,
            schema=self.schema,
            under=self.lease,
            waits=self.waits,
        )
        target.places = self.places
        try:
            yield target
        finally:
            target.close()

    def _open_all(self) -> None:
        self._generation = self.lease.generation
        self._sessions: list[psycopg.Connection[tuple[Any, ...]]] = []
        try:
            self._work = self._open()
            self._look = self._open()
        except BaseException:
            self._close_all()
            raise

    def application_fence(self) -> Fence:
        """Return the application's fence on this target, for as long as these sessions stand."""
        return Fence(self._work, self._look, self.lease, url=self._url, schema=self.schema, waits=self.waits)

    def programs(self) -> Programs:
        """Return how programs work on this target, for as long as these sessions stand."""
        return Programs(self._work, self._look, self.lease, url=self._url, schema=self.schema, waits=self.waits)

    def online(self, key: EffectKey, spec: ChangeSpec) -> PostgresChange:
        """Return a step's online change, for as long as these sessions stand."""
        from segue.databases.postgresql.online.change import PostgresChange
        from segue.databases.postgresql.online.site import Site

        site = Site(self._work, self._look, self.lease, url=self._url, schema=self.schema, waits=self.waits)
        return PostgresChange(site, key, spec)

    def changing(self, key: EffectKey) -> bool:
        """Return whether a step's online change was drawn up here."""
        from segue.databases.postgresql.online.change import PostgresChange

        return self._looking(lambda: PostgresChange.exists(self._look, key))

    @property
    def fence(self) -> int:
        """Return the number of this holding; it only grows."""
        return self.lease.fence

    def _open(self, **pins: str) -> psycopg.Connection[tuple[Any, ...]]:
        pins = {**self.lease.pins, **pins}
        session = open_session(self._url, application=self.lease.application, schema=self.schema, pins=pins)
        self._sessions.append(session)
        return session

    def alive(self) -> None:
        """Raise when the lease is known to be lost."""
        self.lease.alive()

    def recover(self, patience: float) -> None:
        """Reach the target again under the same lease."""
        deadline = clock.ticks() + patience
        while True:
            self._close_all()
            try:
                self.lease.recover(max(0.0, deadline - clock.ticks()), generation=self._generation)
                self._open_all()
            except TargetUnreachable:
                # It may go away again while it is reached again: a server that restarts does so more than once.
                if clock.ticks() > deadline:
                    raise
                clock.sleep(0.2)
            else:
                return

    def refresh(self) -> None:
        """Open the sessions anew where a branch has recovered the lease, and so ended them."""
        if self._generation == self.lease.generation:
            return
        self._close_all()
        # Lost again meanwhile: whoever works next finds that out, and recovers.
        with suppress(TargetUnreachable):
            self._open_all()

    def close(self) -> None:
        """Give the lease back, if it is this one's."""
        for job in self._jobs:
            job.close()
        for gauge in self._gauges:
            gauge.close()
        self._close_all()
        if self._holds:
            self.lease.close()

    def _close_all(self) -> None:
        for connection in self._sessions:
            connection.close()

    # -- effects

    def apply(
        self, key: EffectKey, statements: Sequence[Statement], patience: Patience, note: Callable[[str], None]
    ) -> None:
        """Bring about one effect once; a repeated call finds it done and returns."""
        self.alive()
        try:
            if all(statement.transactional for statement in statements):
                self._apply_together(key, statements, patience, note)
            else:
                (statement,) = statements
                self._apply_alone(key, statement, patience, note)
        except psycopg.Error as error:
            raise self._explain(error) from error

    def take_back(
        self,
        keys: Sequence[EffectKey],
        statements: Sequence[Statement],
        patience: Patience,
        note: Callable[[str], None],
    ) -> None:
        """Take effects back that were done, and forget them, in one transaction: they can be brought about again."""
        self.alive()
        try:
            self._apply_together(keys[0], statements, patience, note, back=keys)
        except psycopg.Error as error:
            raise self._explain(error) from error

    def _apply_together(
        self,
        key: EffectKey,
        statements: Sequence[Statement],
        patience: Patience,
        note: Callable[[str], None],
        *,
        back: Sequence[EffectKey] = (),
    ) -> None:
        text = ";\n".join(statement.sql for statement in statements)
        deadline = clock.ticks() + patience.work

        def attempt(piece: float) -> None:
            with self._work.transaction():
                self._work.execute("set transaction isolation level read committed, read write")
                check_fence(self._work, self.lease.execution, self.fence)
                if back:
                    erased = [history.erase(self._work, one) for one in back]
                    if not any(erased):
                        return  # taken back before
                elif not history.write(self._work, key, fence=self.fence, state="done", statement=text):
                    return  # done before: the row came with the effect, in one transaction
                locks = take_locks(self._work, statements, piece)
                for statement in statements:
                    # Rows that a statement must wait for are not known beforehand: each such statement has its slice.
                    left = piece if statement.duration is Duration.DATA else max(0.05, locks - clock.ticks())
                    self._execute(statement, left, max(0.1, deadline - clock.ticks()))
                journal.point("effect-before-commit")
            journal.point("effect-committed")

        lock_in_slices(self._work, self._look, statements, patience, self.waits, attempt, note)
        self._pin_again()

    def _pin_again(self) -> None:
        """Undo what a function or a DO block set for the session: the next step's names would mean other tables."""
        self._work.execute("reset session authorization")
        self._work.execute("reset role")
        pin(self._work, self.lease.application, self.schema, self.lease.pins)

    def _execute(self, statement: Statement, locks: float, work: float) -> None:
        """Run one statement inside the transaction; its time-out follows from how long it should hold its locks."""
        instant = statement.duration is Duration.INSTANT and bool(statement.locks)
        set_local(self._work, "lock_timeout", locks)
        set_local(self._work, "statement_timeout", min(work, INSTANT_SECONDS) if instant else work)
        try:
            self._work.execute(statement.sql.encode())
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            raise NotThisTime from error
        except psycopg.errors.QueryCanceled as error:
            limit = INSTANT_SECONDS if instant and work > INSTANT_SECONDS else work
            raise StepFailed(
                f"{statement.verb} was stopped after {limit:.0f} s and rolled back",
                hint="it was expected to be over at once; look for triggers or a larger table than thought"
                if instant
                else "raise the step's `timeout`, or make the step smaller",
            ) from error
        except psycopg.Error as error:
            if self._work.closed:
                raise
            raise explain_statement(error, statement) from error

    def _apply_alone(
        self, key: EffectKey, statement: Statement, patience: Patience, note: Callable[[str], None]
    ) -> None:
        """Run a statement that must not be in a transaction: begun is recorded before it, done after it."""
        state = history.state(self._work, key)
        if state == "done":
            return
        if state == "begun":
            seen = concurrent.outcome(self._work, statement)
            if seen is Observed.CANNOT_TELL:
                raise cannot_tell(key, statement)
            if seen is Observed.DONE:
                journal.point("effect-seen-done")
                history.finish(self._work, key)
                return
        check_fence(self._work, self.lease.execution, self.fence)
        if concurrent.prepare(self._work, statement, note=note):
            history.write(self._work, key, fence=self.fence, state="done", statement=statement.sql)
            history.finish(self._work, key)
            return
        if state is None:
            history.write(self._work, key, fence=self.fence, state="begun", statement=statement.sql)
        journal.point("effect-begun")
        try:
            self._send_alone(statement, patience, note)
        except psycopg.Error as error:
            if self._work.closed:
                raise
            left = not self._clear_failure(statement)
            if not left:
                history.forget(self._work, key)
            if isinstance(error, psycopg.errors.QueryCanceled):
                raise StepFailed(
                    f"{statement.verb} was stopped after {patience.work:.0f} s",
                    hint="raise the step's `timeout`; building an index waits for every older transaction to end",
                ) from error
            raise explain_statement(error, statement, left=left) from error
        except LockNotGranted:
            history.forget(self._work, key)
            raise
        journal.point("effect-ran")
        if concurrent.visible(statement) and concurrent.outcome(self._work, statement) is Observed.NOT_DONE:
            raise StepFailed(
                f"{statement.verb} ended without an error, but its effect is not there",
                hint="look at the index on the target; running again rebuilds it",
            )
        history.finish(self._work, key)
        journal.point("effect-committed")

    def settle(
        self, key: EffectKey, statements: Sequence[Statement], patience: Patience, note: Callable[[str], None]
    ) -> None:
        """Bring an effect that was begun to done or to not there, whichever is nearer: its undo must know which."""
        self.alive()
        try:
            if history.state(self._work, key) != "begun":
                return
            (statement,) = statements
            seen = concurrent.outcome(self._work, statement)
            if seen is Observed.CANNOT_TELL:
                raise cannot_tell(key, statement)
            if seen is Observed.DONE:
                history.finish(self._work, key)
                return
            check_fence(self._work, self.lease.execution, self.fence)
            if self._clear_failure(statement):
                note(f"{statement.verb} was interrupted; what it left was removed")
                history.forget(self._work, key)
                return
        except psycopg.Error as error:
            raise self._explain(error) from error
        self.apply(key, statements, patience, note)

    def _send_alone(self, statement: Statement, patience: Patience, note: Callable[[str], None]) -> None:
        """Send a statement outside a transaction; the session's time-outs are as before afterwards."""
        deadline = clock.ticks() + patience.work

        def attempt(piece: float) -> None:
            self._set("lock_timeout", piece)
            self._set("statement_timeout", max(0.1, deadline - clock.ticks()))
            try:
                self._work.execute(statement.sql.encode())
            except psycopg.errors.LockNotAvailable as error:
                raise NotThisTime from error

        try:
            if statement.lock.rank >= Lock.SHARE.rank and statement.duration is not Duration.SNAPSHOTS:
                # VACUUM FULL, CLUSTER: while they wait, the application would queue behind them.
                lock_in_slices(self._work, self._look, [statement], patience, self.waits, attempt, note)
            else:
                # No lock_timeout: CREATE INDEX CONCURRENTLY would die of any old snapshot and leave an INVALID index,
                # and the lock it waits for does not stop readers or writers.
                attempt(0)
        finally:
            if not self._work.closed:
                self._set("lock_timeout", 0)
                self._set("statement_timeout", 0)

    def _clear_failure(self, statement: Statement) -> bool:
        """Remove what a failed statement left; return whether nothing of it is left."""
        self._set("statement_timeout", CLEARING_SECONDS)
        try:
            return concurrent.clear_failure(self._work, statement)
        except (psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected):
            # Something old stands in the way of the removal too. It stays begun, and the next run heals it.
            return False
        finally:
            if not self._work.closed:
                self._set("statement_timeout", 0)

    def _set(self, name: str, seconds: float) -> None:
        self._work.execute("select pg_catalog.set_config(%s, %s, false)", [name, milliseconds(seconds)])

    def observe(self, key: EffectKey) -> Observed:
        """Look whether the effect took place; an effect that was begun alone is looked up by the step."""
        state = self._looking(lambda: history.state(self._look, key))
        return {"done": Observed.DONE, "begun": Observed.CANNOT_TELL}.get(state or "", Observed.NOT_DONE)

    def resolve(self, key: EffectKey, observed: Observed) -> None:
        """Record what a person has seen: done, or not done."""
        if observed is Observed.DONE:
            self._looking(lambda: history.finish(self._look, key))
        else:
            self._looking(lambda: history.forget(self._look, key))

    def mark(self, key: EffectKey, detail: Mapping[str, Any]) -> None:
        """Record an effect that consists of others as done."""

        def write() -> None:
            with self._work.transaction():
                check_fence(self._work, self.lease.execution, self.fence)
                history.write(self._work, key, fence=self.fence, state="done", detail=detail)
                journal.point("mark-before-commit")

        self._working(write)
        journal.point("mark-committed")

    def parts(self, execution: str, step: str, direction: str) -> dict[int, Observed]:
        """Return what the history says of a step's parts."""
        return self._looking(lambda: history.parts(self._look, execution, step, direction))

    # -- looking

    def query(self, sql: str, timeout: float, *, limit: int = 1000) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a query read-only; return the names of its columns and at most `limit` rows."""

        def ask() -> tuple[list[str], list[tuple[Any, ...]]]:
            with self._work.transaction():
                self._work.execute("set transaction read only")
                set_local(self._work, "statement_timeout", timeout)
                # Streamed: the rest of a large answer is cancelled on the server, and never held in memory here.
                with self._work.cursor() as cursor, closing(cast("Rows", cursor.stream(sql.encode()))) as stream:
                    try:
                        rows = list(islice(stream, limit))
                    except psycopg.ProgrammingError as error:
                        if error.sqlstate is not None:
                            raise
                        raise StepFailed("the query returns no rows", hint="write a SELECT") from error
                    except psycopg.DataError as error:
                        if error.sqlstate is not None:
                            raise
                        raise StepFailed(
                            f"the answer holds a value that cannot be compared: {error}", hint="cast it to text"
                        ) from error
                    except psycopg.errors.ReadOnlySqlTransaction as error:
                        raise StepFailed(
                            f"the query would change something: {error.diag.message_primary}",
                            hint="a question is asked read-only; write a `sql` step for what changes data",
                        ) from error
                    return [column.name for column in cursor.description or ()], rows

        return self._working(ask)

    def gauge(self) -> Gauge:
        """Return a look at the target that goes on beside the work; its sessions end with this target at the latest."""
        gauge = Gauge(self._url, application=self.lease.application, schema=self.schema)
        self._gauges.append(gauge)
        return gauge

    # -- chunked work

    def backfill(self, key: EffectKey, spec: BackfillSpec, patience: Patience) -> ChunkedWork:
        """Prepare a backfill of a table."""
        return self._working(lambda: Backfill(self._work, self._url, self.lease, self.schema, key, spec, patience))

    def data_job(self, key: EffectKey, spec: JobSpec) -> DataJob:
        """Prepare a data job."""
        from segue.databases.postgresql.jobs.job import PostgresJob

        elsewhere = self.places(spec.environment) if spec.environment is not None else None
        job = self._working(lambda: PostgresJob(self._work, self._url, self.lease, self.schema, key, spec, elsewhere))
        self._jobs.append(job)
        return job

    # -- the schema

    def drift(self, schema: str) -> Drift | None:
        """Return what somebody else changed since Segue last left the schema."""
        return self._looking(lambda: schema_state.drift(self._look, schema, self.lease.execution))

    def remember(self, schema: str, key: EffectKey | None) -> str:
        """Record the schema as Segue leaves it."""
        return self._looking(lambda: schema_state.remember(self._look, schema, key, self.lease.execution))

    # -- errors

    def _explain(self, error: psycopg.Error) -> SegueError:
        if self._work.closed or self._look.closed:
            return OutcomeUnknown(
                f"the connection to {place(self._url)} was lost while a statement ran",
                hint="run again: Segue looks at the target before it goes on",
            )
        return explain(error, place(self._url))

    def _looking(self, ask: Callable[[], T]) -> T:
        self.alive()
        try:
            return ask()
        except psycopg.Error as error:
            raise self._explain(error) from error

    _working = _looking


def explain_statement(error: psycopg.Error, statement: Statement, *, left: bool = False) -> SegueError:
    """Turn the server's refusal of a statement into an error that quotes both; `left`: it left something behind."""
    detail = [line for line in (error.diag.message_detail, error.diag.message_hint) if line]
    return StepFailed(
        f"{statement.verb}: {error.diag.message_primary or error} (SQLSTATE {error.sqlstate})",
        details=[" ".join(statement.sql.split())[:200], *detail],
        hint="something of it is left behind, which the next run takes up; correct the cause and run again"
        if left
        else "Segue works as the tables' owner, with CREATE on their schemas; grant what is missing and run again"
        if isinstance(error, psycopg.errors.InsufficientPrivilege)
        else "nothing of this statement took effect; correct the cause and run again",
    )


def cannot_tell(key: EffectKey, statement: Statement) -> CannotTell:
    """Say that a person must look whether a statement took effect."""
    return CannotTell(
        f'whether "{statement.verb}" of step "{key.step}" took effect cannot be seen on the target: '
        "the connection was lost while it ran",
        details=[" ".join(statement.sql.split())[:200]],
        hint="look at the target, then `segue run PLAN --env ENV --resolve done` or `--resolve not-done`",
    )
