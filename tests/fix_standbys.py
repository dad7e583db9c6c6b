"""Servers of a test module's own: with replicas, an archive and statistics on statements, and free to be broken."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from fix_servers import DEBIAN_MAJOR, HASTY, binaries_of, chosen, short_folder
from psycopg import conninfo

from segue import embedded
from segue.embedded import Cluster
from segue.embedded.account import server_account


class Server:
    """A primary that a test may do anything with, and its replicas."""

    def __init__(self, folder: Path, bin_dir: Path | None, options: dict[str, str]) -> None:
        self._folder = folder
        self._bin_dir = bin_dir
        self._options = {**HASTY, "hot_standby_feedback": "off", **options}
        self.cluster = Cluster(folder / "primary", options=self._options, bin_dir=bin_dir)
        self._databases = 0

    def database(self) -> str:
        """Make an empty database; return its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.cluster.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.cluster.url(name)

    @contextmanager
    def replica(self, name: str) -> Iterator[Cluster]:
        """Run a streaming replica of this name, with a slot of the same name; both are gone at the end."""
        place = self._folder / name
        place.mkdir()
        place.chmod(0o711)
        account = server_account()
        account.own(place, 0o711)
        source = conninfo.make_conninfo(self.cluster.url("postgres"), dbname="", application_name=name)
        slot = ["-C", "-S", name.replace("-", "_")]
        command = [(self._bin_dir or embedded.binaries()) / "pg_basebackup", "-d", source, "-D", place / "data"]
        done = account.run([*command, "-R", "-X", "stream", "-c", "fast", "--no-sync", *slot], cwd=Path("/"))
        assert done.returncode == 0, done.stdout
        shutil.copy(self.cluster.directory / "password", place / "password")
        cluster = Cluster(place, options=self._options, bin_dir=self._bin_dir)
        try:
            with cluster.use():
                yield cluster
        finally:
            cluster.destroy()
            self.run(f"SELECT pg_drop_replication_slot('{name.replace('-', '_')}')")

    def run(self, *commands: str) -> None:
        """Run commands as the superuser."""
        with psycopg.connect(self.cluster.url("postgres"), autocommit=True) as connection:
            for command in commands:
                connection.execute(command.encode())


def _own(bin_dir: Path | None, options: dict[str, str]) -> Iterator[Server]:
    folder = short_folder()
    server = Server(folder, bin_dir, options)
    try:
        with server.cluster.use():
            yield server
    finally:
        server.cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """Give an embedded server of this module's own, with statistics on statements and an archive that works."""
    options = {"shared_preload_libraries": "pg_stat_statements", "archive_mode": "on", "archive_command": "true"}
    yield from _own(chosen(), options)


@pytest.fixture(scope="module")
def own_debian_server() -> Iterator[Server]:
    """Give a server of Debian's PostgreSQL 15 of this module's own."""
    yield from _own(binaries_of(DEBIAN_MAJOR), {})
