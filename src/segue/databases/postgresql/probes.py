"""Look at a PostgreSQL database without changing it: version, size, traffic, privileges, what stands in between."""

from __future__ import annotations

from segue.databases.postgresql.errors import explain
from segue.errors import ConfigurationError
from segue.model.probe import Probe
from segue.model.urls import place

#: The oldest server that Segue knows.
OLDEST = 140000

#: Long enough for a rate that means something, short enough to wait for.
TRAFFIC_SECONDS = 1.0

_FACTS = """
    SELECT current_setting('server_version'), current_setting('server_version_num')::int, current_database(),
           current_user, pg_database_size(current_database()), current_setting('is_superuser') = 'on',
           has_database_privilege(current_database(), 'CREATE'), current_setting('wal_level'),
           pg_is_in_recovery(), pg_backend_pid()
"""

_TRANSACTIONS = """
    SELECT extract(epoch FROM clock_timestamp())::float, xact_commit + xact_rollback
    FROM pg_stat_database WHERE datname = current_database()
"""


def probe(url: str, *, where: str = "", seconds: float = TRAFFIC_SECONDS) -> Probe:
    """Look at the database behind a URL; takes about `seconds`, for the traffic, and no locks.

    Raises TargetUnreachable, PrivilegeMissing, or ConfigurationError (a wrong URL, password or server version).
    """
    import psycopg

    from segue.databases.postgresql.connection import glance

    where = where or f'"{place(url)}"'
    try:
        with psycopg.connect(
            # Not "segue:…": whoever takes the lease ends sessions of that name.
            url,
            connect_timeout=5,
            application_name="segue probe",
            autocommit=True,
            prepare_threshold=None,
        ) as connection:
            told = connection.info.backend_pid
            with glance(connection):
                facts = connection.execute(_FACTS).fetchone()
                before = connection.execute(_TRANSACTIONS).fetchone()
            with glance(connection):
                # There, not here: a role may end sessions that are idle for as long.
                connection.execute("SELECT pg_sleep(%s)", [seconds])
            with glance(connection):
                after = connection.execute(_TRANSACTIONS).fetchone()
    except psycopg.Error as error:
        raise explain(error, where) from error
    except UnicodeError as error:
        raise ConfigurationError(f"{where}: the URL cannot be read") from error
    if facts is None or before is None or after is None:  # each of them gives one row on every server
        raise ConfigurationError(f"{where}: this does not answer like PostgreSQL")
    version, number, database, user, size, superuser, may_create, wal_level, read_only, pid = facts
    if number < OLDEST:
        raise ConfigurationError(
            f"{where}: PostgreSQL {version} is older than what Segue knows", hint="PostgreSQL 14 or newer"
        )
    elapsed = max(after[0] - before[0], 0.001)
    return Probe(
        server_version=version.split()[0],
        version_num=number,
        database=database,
        user=user,
        size_bytes=size,
        tps=max(0.0, (after[1] - before[1]) / elapsed),
        is_superuser=superuser,
        can_create=may_create,
        wal_level=wal_level,
        read_only=read_only,
        # A proxy invents the process id that it tells its client; the server behind it says its own.
        pooler=told != pid,
    )
