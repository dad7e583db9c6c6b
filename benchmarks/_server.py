"""A PostgreSQL server of a benchmark's own, set up as for production, and identical copies of its data."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

from segue.embedded import Cluster

# As an administrator sets a server up that is used for work: everything reaches the disk, and checkpoints come by
# time, not in the middle of each contender.
_OPTIONS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "logical",
    "max_wal_size": "8GB",
    "maintenance_work_mem": "256MB",
    "checkpoint_timeout": "15min",
}
_PRISTINE = "pristine"


@dataclass(slots=True)
class Server:
    """A running server with one database to copy from."""

    cluster: Cluster

    def pristine(self) -> str:
        """Make the database that copies are made of and return its URL; fill it, then close its sessions."""
        self._administer(sql.SQL("create database {}").format(sql.Identifier(_PRISTINE)))
        return self.cluster.url(_PRISTINE)

    @contextlib.contextmanager
    def copy(self, name: str, tables: list[str]) -> Iterator[str]:
        """Give the URL of a fresh copy, file by file as the original is, ready to be timed; drop it at the end."""
        name_ = sql.Identifier(name)
        self._administer(
            sql.SQL("create database {} template {} strategy file_copy").format(name_, sql.Identifier(_PRISTINE))
        )
        try:
            with psycopg.connect(self.cluster.url(name), autocommit=True) as connection:
                connection.execute("vacuum (analyze)")
                # Reads the tables into memory, so that nobody pays for the copy's first reader.
                connection.execute("set enable_indexscan = off")
                connection.execute("set enable_indexonlyscan = off")
                for table in tables:
                    connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(table)))
                # Nobody pays for what was written before: not for its pages, not for its log.
                connection.execute("checkpoint")
            os.sync()
            yield self.cluster.url(name)
        finally:
            self._administer(sql.SQL("drop database if exists {} with (force)").format(name_))

    def wal_position(self) -> int:
        """Return how many bytes of log the server has written."""
        with psycopg.connect(self.cluster.url("postgres"), autocommit=True) as connection:
            row = connection.execute("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
        assert row is not None
        return int(row[0])

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.cluster.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def server(folder: Path, *, bin_dir: Path | None = None, **options: str) -> Iterator[Server]:
    """Start a server in a new folder; leaving stops it and deletes its data.

    `bin_dir`: another PostgreSQL than the embedded one; `options`: settings beside the usual ones.
    """
    cluster = Cluster(
        folder, options={**_OPTIONS, "shared_buffers": _buffers(), **options}, database="bench", bin_dir=bin_dir
    )
    try:
        with cluster.use():
            yield Server(cluster)
    finally:
        cluster.destroy()


def _buffers() -> str:
    """Return a quarter of the machine's memory, as the manual recommends, and 2 GB at most."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{min(2048, memory // 4 // 1024**2)}MB"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child process ended: exit code, the most memory it had at once in MB (10^6 bytes), and its CPU time."""

    code: int
    memory_mb: float
    cpu_seconds: float


def run_child(
    command: list[str], environment: dict[str, str], out: IO[bytes], err: IO[bytes], folder: Path | None = None
) -> Ended:
    """Run a process to its end and look at what it used; it is killed when we are interrupted."""
    import signal
    import subprocess

    # A session of its own: Ctrl-C at the terminal is ours to handle.
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=True,
        cwd=folder,
    )
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, _bytes(usage) / 1e6, usage.ru_utime + usage.ru_stime)


def _bytes(usage: resource.struct_rusage) -> int:
    # Linux counts in KiB, macOS in bytes.
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
