"""Opening the store: the embedded server or a team's, its schema brought up to date, and sessions on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

from segue.errors import Busy, ConfigurationError, PrivilegeMissing, SegueError, TargetUnreachable
from segue.settings import Settings
from segue.store import migrations

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.orm import Session

OLDEST_SERVER = 14

# Whatever the role's or the database's defaults are. Timeouts off: a heartbeat must not fail because an administrator
# limits statements for applications. With fewer digits a time of 8.7 seconds would be read as 9, and a library's own
# conversions would fail. Only a superuser may set the last one, so it is touched only where it must be: with "replica"
# the ledger could be changed unseen.
PINNED: LiteralString = """
    SET exit_on_error = off; SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0;
    SET idle_in_transaction_session_timeout = 0; SET search_path = pg_catalog;
    SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE;
    SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1;
    SET bytea_output = 'hex'; SET standard_conforming_strings = on; SET transform_null_equals = off;
    SET array_nulls = on; SET row_security = off; SET client_min_messages = warning;
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout';
    SELECT set_config('session_replication_role', 'origin', false)
     WHERE current_setting('session_replication_role') <> 'origin'
"""

# What the server says when it is there but the URL is wrong; it says so before it can give an SQLSTATE.
_WRONG_URL = (
    "password authentication failed",
    "no password supplied",
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied for database",
    "is not permitted to log in",
)


class Store:
    """An open store. Threads may share it; each asks for sessions of its own."""

    def __init__(self, engine: Engine, url: str, *, embedded: bool) -> None:
        from sqlalchemy.orm import sessionmaker

        self._engine = engine
        # Rows stay readable after their transaction: services hand them out.
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        #: The URL that psql takes, with the password: never show it unasked.
        self.url = url
        #: Whether the server is Segue's own.
        self.embedded = embedded

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give a session in a transaction: committed at the end, rolled back on an error.

        Raises TargetUnreachable when the store went away, Busy on a deadlock or a lock time-out.
        """
        from sqlalchemy.exc import DBAPIError

        try:
            with self._sessions() as session, session.begin():
                yield session
        except DBAPIError as error:
            if (understood := _understood(error, self.url)) is None:
                raise
            raise understood from error

    def head(self) -> str:
        """Return the revision of the store's schema."""
        with self.session() as session:
            return migrations.revision(session.connection()) or ""

    def server_version(self) -> str:
        """Return the server's version as it says it, e.g. `18.1`."""
        with self.session() as session:
            from sqlalchemy import text

            return str(session.scalar(text("SHOW server_version"))).split()[0]


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """Open the store that the settings name, and bring its schema up to date.

    The embedded server is started when nobody else has started it, and stopped when nobody else uses it. Raises
    TargetUnreachable when there is no server, ConfigurationError when the URL is wrong or the store is newer than this
    Segue, PrivilegeMissing when the role may not create the schema.
    """
    if settings.store is not None:
        with _opened(settings.store, embedded=False) as store:
            yield store
        return
    from segue.embedded import Cluster

    settings.prepare_home()
    cluster = Cluster(settings.home / "store")
    with cluster.use(), _opened(cluster.url(), embedded=True) as store:
        yield store


@contextmanager
def _opened(url: str, *, embedded: bool) -> Iterator[Store]:
    from sqlalchemy.exc import DBAPIError

    engine = _engine(url)
    try:
        try:
            _check_server(engine)
            migrations.upgrade(engine)
        except DBAPIError as error:
            if (understood := _understood(error, url)) is None:
                raise
            raise understood from error
        yield Store(engine, url, embedded=embedded)
    finally:
        engine.dispose()


def _engine(url: str) -> Engine:
    """Return an engine whose connections libpq opens from the URL as it is, with every form that libpq knows."""
    import psycopg
    from sqlalchemy import create_engine

    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message would quote the URL, and with it the password.
        raise ConfigurationError(
            'the URL of the store cannot be read (setting "store" or SEGUE_STORE)',
            hint="write postgresql://user@host/database; special characters in a password are written as %XX",
        ) from None
    ours = {
        "application_name": "segue store",
        "connect_timeout": 10,
        "client_encoding": "UTF8",
        # A machine that vanished says nothing: without these a heartbeat would wait for it for hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    extra: dict[str, Any] = {key: value for key, value in ours.items() if key not in given}

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(url, autocommit=True, **extra)
        try:
            connection.execute(PINNED)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    return create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=5,
        max_overflow=10,
        pool_pre_ping=True,
        hide_parameters=True,  # an error's text would quote what was to be stored
    )


def _check_server(engine: Engine) -> None:
    from sqlalchemy import text

    with engine.connect() as connection:
        number = int(connection.scalar(text("SELECT current_setting('server_version_num')")) or 0)
        encoding = connection.scalar(text("SELECT current_setting('server_encoding')"))
    if number < OLDEST_SERVER * 10000:
        raise ConfigurationError(
            f"the store's server is PostgreSQL {number // 10000}, which is too old",
            hint=f"the store needs PostgreSQL {OLDEST_SERVER} or newer",
        )
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the store's database has the encoding {encoding}", hint="create it with ENCODING 'UTF8'"
        )


def place(url: str) -> str:
    """Return where a URL leads, for messages: host, port and database, never user or password."""
    import psycopg

    from segue.model import urls

    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "an unreadable URL"
    if not urls.is_whole(url):
        return "an unreadable URL"
    host = str(given.get("host") or given.get("hostaddr") or "localhost")
    port = f":{given['port']}" if given.get("port") else ""
    return f'"{host}{port}/{given.get("dbname") or ""}"'


def _understood(error: DBAPIError, url: str) -> SegueError | None:
    """Return the error as a person can act on it; None for an unknown one, which is a mistake of ours."""
    code = getattr(error.orig, "sqlstate", None)
    said = _first_line(error, url)
    where = place(url)
    if code in ("40001", "40P01", "55P03"):
        return Busy("the store is busy: " + said, hint="try again")
    if code == "42501":
        return PrivilegeMissing(
            f"the store {where} refuses: {said}",
            hint="the role needs CREATE on the database the first time, and afterwards to own the schema segue_store",
        )
    if code == "42P01":
        # A table is missing that our mark says is there: somebody dropped it, or restored only a part.
        return ConfigurationError(
            f"the schema segue_store of the store {where} is damaged: {said}",
            hint="restore the store from a backup, or point SEGUE_STORE at another database",
        )
    if code == "25006":
        return ConfigurationError(f"the store {where} is read-only", hint="point SEGUE_STORE at the primary server")
    if code is None and any(words in said for words in _WRONG_URL):
        return ConfigurationError(
            f"the store {where} refuses the connection: {said}", hint="check SEGUE_STORE: user, password and database"
        )
    if code is not None and (code.startswith("53") or code == "58030") and code != "53300":
        # As one that went away: whoever runs waits for it, and goes on once somebody has made room.
        return TargetUnreachable(
            f"the store {where} cannot write: {said}", hint="make room on the disk of the store's server"
        )
    gone = code is not None and (code.startswith(("08", "57P")) or code == "53300")
    if gone or error.connection_invalidated or (code is None and type(error).__name__ == "OperationalError"):
        return TargetUnreachable(
            f"the store {where} cannot be reached: {said}", hint="is the server running, and is SEGUE_STORE right?"
        )
    return None


def _first_line(error: DBAPIError, url: str) -> str:
    import psycopg

    from segue.model import urls

    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    # Where several addresses were tried, the last line says what the server said.
    if "FATAL:" in str(error.orig):
        said = str(error.orig).split("FATAL:")[-1].splitlines()[0].strip()
    try:
        password = psycopg.conninfo.conninfo_to_dict(url).get("password")
    except psycopg.ProgrammingError:
        # libpq quotes what it cannot read, and that may be a password with a bare % or the like.
        return said.partition(': "')[0]
    if not urls.is_whole(url):
        return "the URL cannot be read; in it, a password's own signs are written as %2F for / and so on"
    return said.replace(str(password), "…") if password else said
