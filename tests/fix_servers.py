"""Real PostgreSQL servers for tests, and a fresh database for each test that asks."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from fix_hostile import liberate, occupied
from psycopg import sql

from segue import embedded
from segue.embedded import Cluster
from segue.embedded.account import open_to_all

DEBIAN = Path("/usr/lib/postgresql/15/bin")
#: Where `make servers-all` puts the versions that CI does without.
OTHERS = Path(__file__).parent.parent / "build" / "servers"
#: The embedded server's major version, and Debian's.
EMBEDDED_MAJOR, DEBIAN_MAJOR = 18, 15
MAJORS = (14, 15, 16, 17, 18)

#: Nothing of a test outlives its machine, so nothing needs to reach the disk.
HASTY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}


#: What `--server-version` chose.
_chosen: list[int] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server-version",
        type=int,
        choices=MAJORS,
        default=EMBEDDED_MAJOR,
        help="the PostgreSQL that stands in for the embedded one (`make servers-all` fetches 14, 16 and 17)",
    )


def pytest_configure(config: pytest.Config) -> None:
    _chosen[:] = [config.getoption("--server-version")]


def pytest_report_header() -> list[str]:
    lines = [f"servers: embedded {version(embedded.binaries())}", f"         Debian   {version(DEBIAN)}"]
    if chosen() is not None:
        lines.append(f"         in place of the embedded one {version(chosen() or DEBIAN)}")
    return lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip a test of whose own SQL an older server does not know the syntax; what Segue sends must be known."""
    try:
        return (yield)
    except psycopg.errors.SyntaxError as error:
        frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        if chosen() is None or any("/src/segue/" in name for name in frames):
            raise
        pytest.skip(f"its SQL needs a newer server: {error.diag.message_primary}")


def chosen() -> Path | None:
    """Return the programs of the server that tests use where they name none; None: the embedded one."""
    return binaries_of(_chosen[0]) if _chosen else None


def binaries_of(major: int) -> Path | None:
    """Return where the programs of a PostgreSQL are, None for the embedded one; skips the test without them."""
    if major == EMBEDDED_MAJOR:
        return None
    folder = DEBIAN if major == DEBIAN_MAJOR else OTHERS / str(major) / "bin"
    if not (folder / "postgres").exists():
        if major == DEBIAN_MAJOR:
            # In CI a missing server would turn these tests off without anybody's notice.
            outcome = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            outcome("needs Debian's PostgreSQL 15: run `make test` as root, or apt-get install postgresql-15")
        pytest.skip(f"needs PostgreSQL {major}: run `make servers-all`")
    if major != DEBIAN_MAJOR and os.geteuid() == 0 and not open_to_all(folder):
        pytest.skip(f'the user that PostgreSQL runs as cannot reach "{folder}"')
    return folder


def version(bin_dir: Path) -> str:
    """Return what `postgres --version` says, or that it is missing."""
    if not (bin_dir / "postgres").exists():
        return f"missing (no {bin_dir})"
    return subprocess.run(
        [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def short_folder() -> Path:
    """Return a new folder with a path short enough for sockets, through which a server's user may pass."""
    # Memory where there is plenty: making a cluster writes sixty megabytes, and nothing here must outlive the machine.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4e9
    folder = Path(tempfile.mkdtemp(prefix="segue-", dir=memory if roomy else "/tmp"))
    folder.chmod(0o711)
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Cluster]:
    """Give the embedded server that tests share, or what stands in for it."""
    yield from shared_server(chosen())


@pytest.fixture(scope="session")
def debian_server() -> Iterator[Cluster]:
    """Give a server of Debian's PostgreSQL 15 that tests share."""
    yield from shared_server(binaries_of(DEBIAN_MAJOR))


def shared_server(bin_dir: Path | None, **options: str) -> Iterator[Cluster]:
    """Give a server of these programs, the embedded ones for None, and destroy it afterwards."""
    folder = short_folder()
    # The embedded server has no such library.
    more = {"shared_preload_libraries": "pg_stat_statements"} if bin_dir == DEBIAN else {}
    cluster = Cluster(folder / "pg", options={**HASTY, **more, **options}, bin_dir=bin_dir)
    try:
        with cluster.use():
            yield cluster
    finally:
        cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def fresh_databases(cluster: Cluster) -> Iterator[Callable[[], str]]:
    """Give a function that makes an empty database and returns its URL; all of them are dropped at the end."""
    made: list[str] = []
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:

        def make() -> str:
            name = f"test_{secrets.token_hex(6)}"
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            made.append(name)
            return occupied(cluster.url(name))

        yield make
        for name in made:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            liberate(connection, name)


@pytest.fixture
def new_database(server: Cluster) -> Iterator[Callable[[], str]]:
    """Give a function that makes an empty database on the shared embedded server and returns its URL."""
    yield from fresh_databases(server)


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    """Give the URL of an empty database of this test's own, as its superuser; with --hostile as an ordinary role."""
    return new_database()


@pytest.fixture
def new_debian_database(debian_server: Cluster) -> Iterator[Callable[[], str]]:
    """Give a function that makes an empty database on Debian's PostgreSQL 15 and returns its URL."""
    yield from fresh_databases(debian_server)


@pytest.fixture
def debian_database(new_debian_database: Callable[[], str]) -> str:
    """Give the URL of an empty database of this test's own on Debian's PostgreSQL 15, as its superuser."""
    return new_debian_database()


@pytest.fixture
def store_url(new_database: Callable[[], str]) -> str:
    """Give the URL of an empty database for a store, for `SEGUE_STORE`; quicker than an embedded store per test."""
    return new_database()


@pytest.fixture
def home() -> Iterator[Path]:
    """Give an empty home of Segue; servers left running below it are destroyed at the end."""
    folder = short_folder()
    try:
        yield folder
    finally:
        for door in list(folder.rglob("door")):
            Cluster(door.parent).destroy()
        shutil.rmtree(folder, ignore_errors=True)
