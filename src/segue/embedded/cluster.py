"""One PostgreSQL cluster: made on first use, started on demand, shared by processes, stopped by the last of them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from segue import clock
from segue.embedded import placement as places
from segue.embedded import processes
from segue.embedded.locks import FileLock
from segue.embedded.placement import Placement
from segue.embedded.processes import Postmaster
from segue.embedded.wheel import binaries
from segue.errors import ConfigurationError
from segue.settings import prepare_folder

USER = "segue"

_DOOR_LIMIT = 180.0  # seconds to wait for others that make, start or stop the server
_START_LIMIT = 300.0  # seconds; recovery after a crash replays the write-ahead log first
_STOP_LIMIT = 60.0
_LOG_LIMIT = 10_000_000  # bytes after which the log is set aside at the next start
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_OPTION = re.compile(r"[a-z_][a-z0-9_.]*", re.IGNORECASE)

_DEFAULTS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


class Cluster:
    """A PostgreSQL cluster in a folder of ours.

    Any number of processes may hold an object for the same folder. `use` is the ordinary way in; `start`, `stop` and
    `kill` act whoever else uses the server.
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Mapping[str, str] | None = None,
        database: str = "segue",
        bin_dir: Path | None = None,
        tcp: bool = False,
    ) -> None:
        """Describe a cluster; nothing is touched yet.

        `options` are server settings in effect from the next start; `bin_dir` holds the binaries of another
        PostgreSQL than the embedded one; `tcp` listens on a free port of 127.0.0.1 besides the Unix socket.
        """
        if not _IDENTIFIER.fullmatch(database):
            raise ValueError(f'"{database}" is not a plain database name')
        for name, value in (options or {}).items():
            if not _OPTION.fullmatch(name) or "\n" in value:
                raise ValueError(f'"{name}" is not a server setting')
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100 - the path is kept as it was given
        self.database = database
        self._options = dict(options or {})
        self._bin_dir = bin_dir
        self._tcp = tcp

    def __repr__(self) -> str:
        return f"Cluster({str(self.directory)!r})"

    def url(self, database: str | None = None) -> str:
        """Return the URL of a database, password included; psql and psycopg take it.

        ConfigurationError when the cluster has not been started yet for the first time.
        """
        place = self._place()
        found = processes.recorded(place.data)
        try:
            password = (self.directory / "password").read_text().strip()
        except OSError as error:
            raise ConfigurationError(
                f'the password of the embedded PostgreSQL cannot be read: "{self.directory / "password"}"',
                hint="restore the file, or run segue as its owner",
            ) from error
        name = quote(self.database if database is None else database, safe="")
        if found is not None and found.address:
            return f"postgresql://{USER}:{password}@127.0.0.1:{found.port}/{name}"
        folder = quote(found.sockets if found is not None and found.sockets else str(place.sockets), safe="")
        port = found.port if found is not None and found.port else self._port(place)
        return f"postgresql://{USER}:{password}@/{name}?host={folder}&port={port}"

    def running(self) -> bool:
        """Return whether the server runs and accepts connections."""
        place = places.find(self.directory)
        return place is not None and _is_up(processes.living(place.data, place.account))

    def log(self) -> Path:
        """Return the path of the server's log."""
        return self._place().log

    @contextlib.contextmanager
    def use(self, hold: bool = False) -> Iterator[Cluster]:
        """Have the server running inside the block; whoever leaves last stops it.

        `hold` leaves it running afterwards, until `stop` or until it dies. Raises ConfigurationError with the end of
        the server's log when it cannot run, Busy when another process keeps starting or stopping it.
        """
        door = self._enter_door()
        users = FileLock(self.directory / "users")
        try:
            # Only who has the door ever takes this lock alone, so it is granted at once. A process that is killed
            # loses it by itself.
            users.share()
            place = self._start()
            life = place.data.stat()
            if hold:
                self._hold()
            door.release()
            try:
                yield self
            finally:
                # The same open file as before: even if the folder was deleted meanwhile, all who used this server
                # still meet at it, and its last user still ends it.
                door.wait_exclusive(_DOOR_LIMIT)
                if users.try_exclusive() and not self._is_held():
                    if _is_same(place.data, life):
                        self._stop(place, "fast")
                    else:
                        processes.kill_all(place.data, place.account, deleted=True)
        finally:
            users.close()
            door.close()

    def start(self) -> None:
        """Start the server if it is not running, and hold it until `stop`."""
        with self._door():
            self._start()
            self._hold()

    def stop(self, mode: str = "fast") -> None:
        """Stop the server whoever uses it, and end any hold; nothing happens when it is not running.

        `mode` is PostgreSQL's: `smart` waits for clients, `fast` disconnects them, `immediate` skips the checkpoint.
        """
        if places.find(self.directory) is None:
            return
        with self._door():
            place = places.find(self.directory)
            if place is not None:
                self._stop(place, mode)
            (self.directory / "held").unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill the server and all its processes at once, as a power failure would."""
        place = self._place()
        processes.kill_all(place.data, place.account)

    def destroy(self) -> None:
        """Stop the server and delete all its data, the folder included."""
        if not self.directory.exists():
            return
        with self._door():
            place = places.find(self.directory)
            if place is not None:
                processes.kill_all(place.data, place.account)
                place.remove()
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- who may start and stop ------------------------------------------------------------------------------------

    def _enter_door(self) -> FileLock:
        """Return the lock under which alone the server is made, started, stopped or deleted."""
        while True:
            prepare_folder(self.directory.parent)
            prepare_folder(self.directory)
            try:
                door = FileLock(self.directory / "door")
                door.wait_exclusive(_DOOR_LIMIT, fresh=True)
            except ConfigurationError:
                if self.directory.exists():
                    raise
                continue  # somebody destroyed the cluster between two lines
            return door

    @contextlib.contextmanager
    def _door(self) -> Iterator[None]:
        door = self._enter_door()
        try:
            yield
        finally:
            door.close()

    def _hold(self) -> None:
        found = processes.recorded(self._place().data)
        if found is not None:
            draft = self.directory / ".held"
            draft.write_text(found.identity)
            draft.replace(self.directory / "held")

    def _is_held(self) -> bool:
        """Return whether this very life of the server is held; a hold does not outlive a crash or restart."""
        try:
            held = (self.directory / "held").read_text()
            found = processes.recorded(self._place().data)
        except (OSError, ConfigurationError):
            return False
        return found is not None and found.identity == held

    # -- making ------------------------------------------------------------------------------------------------------

    def _place(self) -> Placement:
        place = places.find(self.directory)
        if place is None:
            raise ConfigurationError(f'there is no embedded PostgreSQL in "{self.directory}" yet')
        return place

    def _bin(self) -> Path:
        return self._bin_dir or binaries()

    def _create(self) -> Placement:
        place = places.choose(self.directory)
        self._remove_drafts(place)
        password = self._password()
        draft = place.folder / f"draft-{secrets.token_hex(4)}"
        try:
            draft.mkdir(mode=0o700)
            place.account.own(draft, 0o700)
            # The server's user must be able to read the password for a moment; nobody else can look into this folder.
            word = draft / "password"
            word.write_text(password + "\n")
            place.account.own(word, 0o600)
            data = draft / "data"
            self._initdb(place, data, word)
            with (data / "postgresql.conf").open("a") as file:
                file.write("\n# Written by Segue before each start.\ninclude_if_exists = 'segue.conf'\n")
            # The database is made before the cluster has its name, so no half-made cluster is ever seen.
            self._must(
                place,
                [self._bin() / "postgres", "--single", "-D", data, "-c", "log_min_messages=error", "postgres"],
                f"CREATE DATABASE {self.database};\n",  # a plain identifier, checked by __init__
            )
            data.rename(place.data)
            places.settle(self.directory, place)
        except OSError as error:
            raise ConfigurationError(
                f'the embedded PostgreSQL cannot be made in "{place.folder}": {error.strerror or error}',
                hint="free some space there, or set SEGUE_HOME to a folder elsewhere",
            ) from error
        finally:
            self._remove_drafts(place)
        return place

    @staticmethod
    def _remove_drafts(place: Placement) -> None:
        """Remove what was made half: of this process, and of one that was killed while its initdb went on writing."""
        for _ in range(20):
            left = list(place.folder.glob("draft-*"))
            for draft in left:
                shutil.rmtree(draft, ignore_errors=True)
            if not left:
                return
            clock.sleep(0.05)

    def _initdb(self, place: Placement, data: Path, password: Path) -> None:
        command: list[str | Path] = [self._bin() / "initdb", "-D", data, "-U", USER, f"--pwfile={password}"]
        command += ["-A", "scram-sha-256", "-E", "UTF8"]
        # The built-in provider (17 and later) needs nothing of the system's, and sorts the same everywhere.
        version = place.account.run([self._bin() / "postgres", "--version"], cwd=Path("/")).stdout
        major = re.search(r"\d+", version)
        if major and int(major[0]) >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        else:
            command += ["--locale=C.UTF-8" if _system_has_c_utf8() else "--locale=C"]
        if self._options.get("fsync") == "off":
            command.append("--no-sync")
        self._must(place, command)

    def _password(self) -> str:
        path = self.directory / "password"
        if path.exists():
            return path.read_text().strip()
        password = secrets.token_urlsafe(24)
        # First the file, then the cluster: the other order could leave a cluster that nobody can enter.
        draft = self.directory / f".password-{secrets.token_hex(4)}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        return password

    def _must(self, place: Placement, command: list[str | Path], text: str = "") -> str:
        # From / because the working directory may be closed to the server's user.
        done = place.account.run(command, cwd=Path("/"), text=text)
        if done.returncode != 0:
            raise self._failure(place, f'"{Path(command[0]).name}" failed', done.stdout)
        return done.stdout

    def _failure(self, place: Placement, what: str, output: str) -> ConfigurationError:
        hint = "see the lines above, or set SEGUE_STORE to a PostgreSQL server of yours"
        if "No space left" in output:
            hint = f'free some space on the disk of "{place.folder}"'
        elif "Permission denied" in output and place.account.foreign:
            hint = f'the user that PostgreSQL runs as must reach "{place.folder}": look at each folder above it'
        lines = [line for line in output.splitlines() if line.strip()]
        return ConfigurationError(
            f'the embedded PostgreSQL in "{self.directory}" cannot run: {what}', hint=hint, details=lines[-20:]
        )

    # -- starting and stopping, always behind the door -------------------------------------------------------------

    def _start(self) -> Placement:
        place = places.find(self.directory) or self._create()
        deadline = clock.ticks() + _START_LIMIT
        failures = 0
        while clock.ticks() < deadline:
            found = processes.living(place.data, place.account)
            if _is_up(found):
                return place
            if found is not None:
                clock.sleep(0.02)  # somebody's start that was killed half-way goes on, or a stop is under way
                continue
            # Processes of a killed server stay attached to its memory until they notice, and keep the next one away.
            processes.kill_all(place.data, place.account)
            output = self._launch(place)
            if output is None or processes.living(place.data, place.account) is not None:
                continue
            failures += 1
            patient = "shared memory" in output or "lock file" in output or "could not bind" in output
            if failures >= (20 if patient else 2):
                raise self._failure(place, "it does not start", output)
            clock.sleep(min(0.05 * failures, 1.0))
        raise self._failure(place, f"it did not start within {_START_LIMIT:.0f} s", _tail(place.log, 0))

    def _launch(self, place: Placement) -> str | None:
        """Start the server once; return None when it runs, else what it said."""
        self._check_version(place)
        try:
            # The caller has just seen that no such server lives. PostgreSQL itself would take any process of this user
            # that got the old number for the server, and refuse for ever.
            for stale in (place.data / "postmaster.pid", *place.sockets.glob(".s.PGSQL.*")):
                stale.unlink(missing_ok=True)
            self._configure(place)
            with place.log.open("a"):
                pass
            if place.log.stat().st_size > _LOG_LIMIT:
                place.log.replace(place.log.with_suffix(".log.1"))
                place.log.touch()
            place.account.own(place.log, 0o600)
            before = place.log.stat().st_size
        except OSError as error:
            raise self._failure(place, f'"{error.filename}": {error.strerror or error}', str(error)) from error
        # Names relative to the folder and the data folder from the environment, because pg_ctl hands its words to a
        # shell, which would act on a $ in a path. -w waits until the server accepts connections.
        done = place.account.run(
            [self._bin() / "pg_ctl", "start", "-w", "-s", "-t", f"{_START_LIMIT:.0f}", "-l", place.log.name],
            cwd=place.folder,
            env={"PGDATA": str(place.data)},
        )
        if done.returncode == 0:
            return None
        return done.stdout + _tail(place.log, before)

    def _check_version(self, place: Placement) -> None:
        try:
            made_by = (place.data / "PG_VERSION").read_text().strip()
        except OSError as error:
            raise self._failure(place, "its data folder is damaged", str(error)) from error
        version = place.account.run([self._bin() / "postgres", "--version"], cwd=Path("/")).stdout
        if re.search(rf"\b{re.escape(made_by)}\.|\b{re.escape(made_by)}\b", version) is None:
            raise self._failure(
                place, f"its data was made by PostgreSQL {made_by}, and this is another version", version
            )

    def _configure(self, place: Placement) -> None:
        words = {**_DEFAULTS, "unix_socket_directories": str(place.prepare_sockets())}
        words["port"] = str(self._port(place, choose=True))
        if self._tcp:
            words["listen_addresses"] = "127.0.0.1"
        words |= self._options
        path = place.data / "segue.conf"
        quoted = {name: value.replace("\\", "\\\\").replace("'", "''") for name, value in words.items()}
        # Renamed into place: in the server's own folder, its user could have put a link to a file of root's.
        draft = place.folder / f".segue.conf-{secrets.token_hex(4)}"
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write("".join(f"{name} = '{value}'\n" for name, value in quoted.items()))
            place.account.own(draft, 0o600)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _port(self, place: Placement, *, choose: bool = False) -> int:
        """Return the port; without TCP it is only a part of the socket's name."""
        if not self._tcp:
            return 5432
        path = place.folder / "port"
        with contextlib.suppress(OSError, ValueError):
            port = int(path.read_text())
            if not choose or _is_free(port):
                return port
        port = _free_port()
        path.write_text(str(port))
        return port

    def _stop(self, place: Placement, mode: str) -> None:
        found = processes.living(place.data, place.account)
        if found is None:
            processes.kill_all(place.data, place.account)  # orphans of a server that was killed
            return
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        for way in (signals[mode], signal.SIGQUIT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, way)
            deadline = clock.ticks() + _STOP_LIMIT
            while clock.ticks() < deadline:
                if processes.living(place.data, place.account) is None:
                    return
                clock.sleep(0.01)
        processes.kill_all(place.data, place.account)


def _is_up(found: Postmaster | None) -> bool:
    return found is not None and found.status in ("ready", "standby") and found.answers()


def _is_same(path: Path, before: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), before)
    except FileNotFoundError:
        return False


def _system_has_c_utf8() -> bool:
    import locale

    before = locale.setlocale(locale.LC_COLLATE)
    try:
        locale.setlocale(locale.LC_COLLATE, "C.UTF-8")
    except locale.Error:
        return False
    locale.setlocale(locale.LC_COLLATE, before)
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _tail(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(start, file.tell() - 8000))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
