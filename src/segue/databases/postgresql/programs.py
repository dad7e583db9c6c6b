"""Effects that a user's programs bring about through sessions of their own: how they get in, and what is known."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from segue.databases.postgresql import history
from segue.databases.postgresql.connection import CLIENT_CHECK
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.lease import Tenure, check_fence
from segue.databases.postgresql.locking import NotThisTime, lock_in_slices, set_local
from segue.engine import journal
from segue.errors import Busy, OutcomeUnknown, StepFailed
from segue.model.impact import Duration, Statement
from segue.ports import Access, EffectKey, Patience, Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

# What of a URL a program's own URL has too; host, user and the like come from the session that stands.
_TLS = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "channel_binding": "PGCHANNELBINDING",
}
# How long the sessions of a program that has ended may take to end too, in milliseconds.
_ENDING = 10_000


class Programs:
    """See `segue.ports.Programs`."""

    def __init__(
        self,
        work: psycopg.Connection[Any],
        look: psycopg.Connection[Any],
        tenure: Tenure,
        *,
        url: str,
        schema: str,
        waits: Waits,
    ) -> None:
        self._work = work
        self._look = look
        self._tenure = tenure
        self._url = url
        self._schema = schema
        self._waits = waits

    # -- how they get in

    def access(self, key: EffectKey) -> Access:
        """Return how a program reaches this database, so that its sessions are known as this effect's."""
        info = self._work.info
        words = info.get_parameters()
        application = self._application(key)
        options = " ".join(filter(None, (words.get("options", ""), *self._options())))
        tls = {word: words[word] for word in _TLS if words.get(word)}
        password = info.password or ""
        variables = {
            "DATABASE_URL": _url(info, password, {"application_name": application, "options": options, **tls}),
            "PGHOST": info.host,
            "PGPORT": str(info.port),
            "PGDATABASE": info.dbname,
            "PGUSER": info.user,
            "PGPASSWORD": password,
            "PGAPPNAME": application,
            "PGOPTIONS": options,
            **{_TLS[word]: value for word, value in tls.items()},
        }
        # As it is, and as a URL writes it.
        secret = [password, quote(password, safe=""), *self._tenure.pins.values()]
        given = {name: value for name, value in variables.items() if value}
        return Access(given, tuple(filter(None, dict.fromkeys(secret))), self._tenure.holder, self._schema)

    def _application(self, key: EffectKey) -> str:
        # The lease's own name at the beginning: whoever takes over ends these sessions too.
        mark = hashlib.sha256(f"{key.step}/{key.direction}".encode()).hexdigest()[:8]
        return f"{self._tenure.application}:{mark}"

    def _options(self) -> list[str]:
        names = dict.fromkeys([self._schema, "public"])
        settings = {
            "search_path": ",".join(sql.Identifier(name).as_string(self._work) for name in names),
            # Time-outs of the role are meant for the application's statements; the step has one of its own.
            "statement_timeout": "0",
            "client_connection_check_interval": CLIENT_CHECK,
            **self._tenure.pins,
        }
        return [f"-c {name}={_escaped(value)}" for name, value in settings.items()]

    def end_sessions(self, key: EffectKey) -> int:
        """End the sessions of this effect's program, which has ended itself; return how many there still were."""

        def end() -> int:
            rows = self._look.execute(
                "select pid from pg_catalog.pg_stat_activity "
                "where datname = current_database() and application_name = %s",
                [self._application(key)],
            ).fetchall()
            for (pid,) in rows:
                self._look.execute("select pg_catalog.pg_terminate_backend(%s, %s)", [pid, _ENDING])
            left = self._look.execute(
                "select pid from pg_catalog.pg_stat_activity where pid = any (%s) and application_name = %s",
                [[pid for (pid,) in rows], self._application(key)],
            ).fetchone()
            if left is not None:
                raise Busy(
                    f'session {left[0]} of the script of step "{key.step}" does not end',
                    hint="it may be in the middle of an uninterruptible step; run again when it is gone",
                )
            return len(rows)

        return self._told(end)

    # -- what is known

    def begun(self, key: EffectKey) -> int | None:
        """Return under which fence an effect was begun that has not ended; None when there is none."""
        return self._told(lambda: history.begun(self._look, key))

    def begin(self, key: EffectKey, text: str) -> None:
        """Record that an effect is about to be brought about."""
        self._fenced(lambda: history.begin(self._work, key, fence=self._tenure.fence, statement=text))
        journal.point("script-begun")

    def finish(self, key: EffectKey) -> None:
        """Record that an effect that was begun has been brought about."""
        self._fenced(lambda: history.finish(self._work, key))
        journal.point("effect-committed")

    def forget(self, key: EffectKey) -> None:
        """Record that an effect that was begun is not there."""
        self._fenced(lambda: history.forget(self._work, key))

    def _fenced(self, write: Callable[[], object]) -> None:
        def act() -> None:
            with self._work.transaction():
                check_fence(self._work, self._tenure.execution, self._tenure.fence)
                write()

        self._told(act)

    # -- functions

    def call(
        self,
        key: EffectKey,
        text: str,
        patience: Patience,
        note: Callable[[str], None],
        function: Callable[[Any], object],
        *,
        transaction: bool,
    ) -> None:
        """Call a function with the working session."""
        self._told(
            lambda: self._work.execute(
                "select pg_catalog.set_config('application_name', %s, false)", [self._application(key)]
            )
        )
        if not transaction:
            self._told(lambda: function(self._work))
            return
        named = Statement(text, 0, text, (), Duration.DATA, transactional=True)

        def attempt(piece: float) -> None:
            with self._work.transaction():
                self._attempt(key, text, patience, piece, function)

        self._told(lambda: lock_in_slices(self._work, self._look, [named], patience, self._waits, attempt, note))

    def _attempt(
        self, key: EffectKey, text: str, patience: Patience, piece: float, function: Callable[[Any], object]
    ) -> None:
        self._work.execute("set transaction isolation level read committed, read write")
        set_local(self._work, "idle_in_transaction_session_timeout", patience.work)
        set_local(self._work, "lock_timeout", piece)
        try:
            check_fence(self._work, self._tenure.execution, self._tenure.fence)
            # First of all: whoever ends this transaction past us leaves it behind, and so what they did is not lost.
            history.begin(self._work, key, fence=self._tenure.fence, statement=text)
            if history.state(self._work, key) == "done":
                return
            inside = self._transaction()
            function(self._work)
            if self._transaction() != inside:
                raise StepFailed(
                    f'the function of step "{key.step}" ended its transaction itself',
                    hint="leave COMMIT and ROLLBACK to Segue, or write `transaction: false`; some of it may be done",
                )
            history.finish(self._work, key)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            raise NotThisTime from error
        except psycopg.errors.InFailedSqlTransaction as error:
            raise StepFailed(
                f'the function of step "{key.step}" went on after a statement had failed, which PostgreSQL refuses',
                hint="wrap what may fail in `with connection.transaction():`; nothing of it took effect",
            ) from error
        journal.point("effect-before-commit")

    def _transaction(self) -> object:
        row = self._work.execute("select pg_catalog.pg_current_xact_id_if_assigned()::text").fetchone()
        return row[0] if row else None

    # -- errors

    def _told(self, ask: Callable[[], T]) -> T:
        self._tenure.alive()
        try:
            return ask()
        except psycopg.Error as error:
            if self._work.closed or self._look.closed:
                raise OutcomeUnknown(
                    f"the connection to {place(self._url)} was lost while a script ran",
                    hint="run again: Segue looks at the target before it goes on",
                ) from error
            raise explain(error, place(self._url)) from error


def _url(info: psycopg.ConnectionInfo, password: str, words: Mapping[str, str]) -> str:
    """Return a URL as libpq and the drivers of other languages read it: a socket's folder stands behind the `?`."""
    user = quote(info.user, safe="") + (f":{quote(password, safe='')}" if password else "")
    if info.host.startswith(("/", "@")):
        where, words = "", {"host": info.host, "port": str(info.port), **words}
    else:
        where = f"[{info.host}]:{info.port}" if ":" in info.host else f"{info.host}:{info.port}"
    return f"postgresql://{user}@{where}/{quote(info.dbname, safe='')}?{urlencode(words, quote_via=quote)}"


def _escaped(value: str) -> str:
    """Return a value as it stands in `options`, which are split at spaces."""
    return "".join(f"\\{sign}" if sign in "\\ " else sign for sign in value)
