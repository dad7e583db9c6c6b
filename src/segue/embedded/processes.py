"""Which processes belong to a server, and ending them; never a process of somebody else's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from segue import clock
from segue.embedded.account import Account

_PROC = Path("/proc")
_DYING_LIMIT = 10.0  # seconds; a process that waits for a broken disk cannot even be killed


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What `postmaster.pid` says of a server."""

    pid: int
    started: str
    port: int
    sockets: str
    address: str
    status: str  # "starting", "ready", "stopping", "standby"; empty while the file is being written

    @property
    def identity(self) -> str:
        """Return what tells this server's life from the ones before and after it."""
        return f"{self.pid} {self.started}"

    def answers(self) -> bool:
        """Return whether something accepts connections on the server's socket."""
        if not self.sockets:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2)
            try:
                probe.connect(f"{self.sockets}/.s.PGSQL.{self.port}")
            except OSError:
                return False
        return True


def recorded(data: Path) -> Postmaster | None:
    """Return what the data folder's `postmaster.pid` says, whether or not that process still lives."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    lines += [""] * (8 - len(lines))
    try:
        return Postmaster(int(lines[0]), lines[2], int(lines[3] or 0), lines[4], lines[5], lines[7].strip())
    except ValueError:  # caught half-written
        return None


def living(data: Path, account: Account) -> Postmaster | None:
    """Return the server of this data folder if it lives."""
    found = recorded(data)
    if found is None:
        return None
    # The number alone proves nothing: after a restart of the machine or container it belongs to anybody.
    if is_in(found.pid, data, account):
        return found
    # A server in another container that shares the folder cannot be seen, but it answers.
    return found if found.status in ("ready", "standby") and found.answers() else None


def is_in(pid: int, data: Path, account: Account) -> bool:
    """Return whether this process lives and works in this data folder, as all of a server's processes do."""
    if not _PROC.joinpath("self").exists():  # macOS
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    return _works_in([pid], data, account) == [pid]


def all_in(data: Path, account: Account, *, deleted: bool = False) -> list[int]:
    """Return the numbers of all processes that work in this data folder, or in one with its name that was deleted."""
    if not _PROC.joinpath("self").exists():  # macOS: only the postmaster is known, and its children leave with it
        found = living(data, account)
        return [found.pid] if found else []
    # The kernel marks the name of a folder that was deleted in this way.
    name = Path(f"{data} (deleted)") if deleted else data
    return _works_in([int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()], name, account)


def kill_all(data: Path, account: Account, *, deleted: bool = False) -> None:
    """Kill every process that `all_in` names, the server first, and wait until they are gone."""
    deadline = clock.ticks() + _DYING_LIMIT
    while (pids := all_in(data, account, deleted=deleted)) and clock.ticks() < deadline:
        first = None if deleted else recorded(data)
        if first is not None and first.pid in pids:
            # The parent first, or it would see its children crash and start them again.
            pids.remove(first.pid)
            pids.insert(0, first.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        clock.sleep(0.01)


def _works_in(pids: list[int], data: Path, account: Account) -> list[int]:
    wanted = str(data)
    result, hidden = [], []
    for pid in pids:
        try:
            if str(Path(f"/proc/{pid}/cwd").readlink()) == wanted:
                result.append(pid)
        except PermissionError:
            hidden.append(pid)
        except OSError:  # gone, or a dead one that waits for its parent
            continue
    if hidden and account.foreign and os.geteuid() == 0:
        # Root of a container may not look into other users' processes; those users themselves may.
        mine = []
        for pid in hidden:
            with contextlib.suppress(OSError):
                if (_PROC / str(pid)).stat().st_uid == account.uid:
                    mine.append(pid)
        if mine:
            shown = account.run(
                ["sh", "-c", 'for p in "$@"; do echo "$p $(readlink /proc/$p/cwd)"; done', "sh", *map(str, mine)],
                cwd=Path("/"),
            ).stdout
            for line in shown.splitlines():
                number, _, folder = line.partition(" ")
                if folder == wanted:
                    result.append(int(number))
    return result
