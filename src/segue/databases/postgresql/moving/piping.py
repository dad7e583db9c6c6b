"""Rows passed from one database to another through psql: the driver hands on one row at a time, psql whole blocks."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

from psycopg import conninfo, sql

from segue.databases.postgresql.moving.archive import programs
from segue.databases.postgresql.moving.support import where
from segue.errors import ConfigurationError, StepFailed, TargetUnreachable
from segue.model.urls import redact

if TYPE_CHECKING:
    from segue.databases.postgresql.moving.support import Connection, Pair

#: What is read from the pipe at a time, in bytes.
BLOCK = 256 * 1024
#: psql's exit code where the connection was lost.
_LOST = 2
# The role's own settings would be those of this session; in binary form these are all that matter.
_BEGIN = (
    "begin isolation level repeatable read, read only",
    "set local statement_timeout = 0",
    "set local lock_timeout = 0",
    "set local idle_in_transaction_session_timeout = 0",
    "set local row_security = off",
    "set local enable_seqscan = off",
)


class Pipe:
    """How rows are read of a source: by psql, in sessions of its own at a snapshot."""

    def __init__(self, pair: Pair, source: Connection, snapshot: str) -> None:
        """Find psql; raises ConfigurationError where there is none that fits."""
        given: dict[str, Any] = {
            **conninfo.conninfo_to_dict(pair.source.url),
            "application_name": f"segue move {pair.id}",
        }
        secret = given.pop("password", None)
        self._environment = {**os.environ, "LC_ALL": "C", "PGCLIENTENCODING": "UTF8"}
        if secret is not None:
            # By a variable: the arguments of a process can be read by others.
            self._environment["PGPASSWORD"] = str(secret)
        program = programs(source) / "psql"
        if not program.exists():
            raise ConfigurationError(f'there is no "{program}"', hint="install postgresql-client")
        begin = [*_BEGIN, sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)).as_string(source)]
        self._command = [str(program), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        self._command += [f"--dbname={conninfo.make_conninfo('', **given)}"]
        self._command += [f"--command={statement}" for statement in begin]
        self._where = where(pair, pair.source)

    def pass_on(self, copy_out: str, target: Connection, copy_in: sql.Composed) -> int:
        """Copy what `COPY … TO STDOUT (FORMAT binary)` gives into `COPY … FROM STDIN`; return the rows.

        Raises TargetUnreachable where the source's connection is lost, StepFailed where the source refuses, and the
        driver's errors of the target, whose transaction is of no more use then.
        """
        cursor = target.cursor()
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [*self._command, f"--command={copy_out}"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                with cursor.copy(copy_in) as into:
                    while process.stdout is not None and (block := os.read(process.stdout.fileno(), BLOCK)):
                        into.write(block)
                    if process.wait():
                        errors.seek(0)
                        raise self._failed(process.returncode, errors.read().decode(errors="replace"))
            finally:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
        return cursor.rowcount

    def _failed(self, code: int, said: str) -> StepFailed | TargetUnreachable:
        lines = [redact(line) for line in said.splitlines() if line.strip()][-5:]
        if code == _LOST or code < 0:
            return TargetUnreachable(f"{self._where} went away while it was read", details=lines)
        return StepFailed(f"{self._where} could not be read", details=lines)
