"""Where a cluster's files lie: in the folder asked for, or elsewhere when its server could not reach them there."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from segue.embedded import wheel
from segue.embedded.account import Account, open_to_all, server_account
from segue.errors import ConfigurationError
from segue.settings import prepare_folder

#: A socket's whole path may have 103 bytes (macOS) or 107 (Linux); its name takes up to 16 of them.
_SOCKET_FOLDER_LIMIT = 87
#: libpq and PostgreSQL split lists of folders at commas, and the kernel knows abstract names that begin with @.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")


@dataclass(frozen=True, slots=True)
class Placement:
    """The folders of one cluster and the user that its server runs as."""

    folder: Path  # holds all of the others
    account: Account

    @property
    def data(self) -> Path:
        """Return PostgreSQL's data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Return the server's log."""
        return self.folder / "server.log"

    @property
    def sockets(self) -> Path:
        """Return the folder of the Unix socket: ours, or a short one where ours is too long for a socket."""
        own = self.folder / "socket"
        if len(os.fsencode(own)) <= _SOCKET_FOLDER_LIMIT and _PLAIN_PATH.fullmatch(str(own)):
            return own
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path("/tmp") / f"segue-{name}"  # noqa: S108 - made for us alone, and refused when it is not

    def prepare_sockets(self) -> Path:
        """Make the folder of the socket and return it; ConfigurationError when somebody else made it."""
        path = self.sockets
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            found = path.lstat()
            # In a folder that all may write, somebody could have put a link or a folder of their own here.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (self.account.uid, os.geteuid()):
                raise ConfigurationError(
                    f'"{path}" belongs to somebody else', hint="remove it, or set SEGUE_HOME to a shorter path"
                ) from None
        self.account.own(path, 0o700)
        return path

    def remove(self) -> None:
        """Delete the cluster's files."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def find(directory: Path) -> Placement | None:
    """Return where the cluster of this folder lies, or None when it has none yet."""
    record = directory / "place"
    try:
        if record.exists():
            folder = wheel.SHARED / "clusters" / record.read_text().strip()
            if not (folder / "data").exists():
                raise ConfigurationError(
                    f'the data of "{directory}" is gone from "{folder}"',
                    hint=f'restore it, or start with an empty store: rm -r "{directory}"',
                )
            return _placed(folder)
        if (directory / "data").exists():
            return _placed(directory.resolve())
    except PermissionError as error:
        raise ConfigurationError(
            f'"{error.filename}" belongs to another user', hint="set SEGUE_HOME to a folder of your own"
        ) from error
    return None


def choose(directory: Path) -> Placement:
    """Return where a new cluster of this folder goes; `settle` records it once the data is there."""
    account = server_account()
    if not account.foreign or open_to_all(directory):
        return Placement(directory.resolve(), account)
    # A new random name each time: a folder that was deleted and made again must never meet its old data.
    clusters = prepare_folder(prepare_folder(wheel.SHARED) / "clusters")
    if not open_to_all(clusters):
        raise ConfigurationError(
            f'neither "{directory}" nor "{clusters}" can be reached by the user that PostgreSQL runs as',
            hint="set SEGUE_HOME to a folder whose parents let others pass (chmod o+x)",
        )
    return Placement(prepare_folder(clusters.resolve() / secrets.token_hex(8)), account)


def settle(directory: Path, placement: Placement) -> None:
    """Record that this folder's cluster lies elsewhere, if it does."""
    if placement.folder == directory.resolve():
        return
    (placement.folder / "belongs-to").write_text(f"{directory.resolve()}\n")
    draft = directory / ".place"
    draft.write_text(placement.folder.name + "\n")
    draft.replace(directory / "place")


def _placed(folder: Path) -> Placement:
    owner = (folder / "data").stat()
    account = Account(owner.st_uid, owner.st_gid)
    if account.foreign and os.geteuid() != 0:
        raise ConfigurationError(
            f'the embedded PostgreSQL in "{folder}" belongs to another user',
            hint="run segue as that user, or set SEGUE_HOME to a folder of your own",
        )
    return Placement(folder, account)
