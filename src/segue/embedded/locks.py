"""Locks on files that the kernel lets go when their process dies, however it dies."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from segue import clock
from segue.errors import Busy, ConfigurationError


class FileLock:
    """One open file and the lock on it; two objects exclude each other even inside one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = self._open()

    def _open(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            folder = self.path.parent.stat()
            found = os.fstat(descriptor)
            # Never a link: in a folder of somebody else's, root would give a file of its own away.
            if os.geteuid() == 0 and folder.st_uid != 0 and found.st_uid == 0 and found.st_nlink == 1:
                # Otherwise root's visit would shut the folder's owner out for good.
                os.fchown(descriptor, folder.st_uid, folder.st_gid)
        except OSError as error:
            raise ConfigurationError(f'"{self.path}" cannot be opened: {error.strerror}') from error
        return descriptor

    def share(self) -> None:
        """Take the lock shared; only for a lock that nobody holds exclusively for long."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take the lock alone if nobody else has it; a shared lock of our own becomes exclusive, or is lost."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise ConfigurationError(f'"{self.path}" cannot be locked: {error.strerror}') from error
            return False
        return True

    def wait_exclusive(self, limit: float, *, fresh: bool = False) -> None:
        """Take the lock alone within this many seconds, else raise Busy.

        `fresh`: lock the file that has this path now. Whoever waited on a file that was removed meanwhile would hold
        a lock that nobody else sees.
        """
        deadline = clock.ticks() + limit
        while True:
            if self.try_exclusive():
                if not fresh or self._is_present():
                    return
                self.close()
                self._descriptor = self._open()
                continue
            if clock.ticks() > deadline:
                raise Busy(
                    f'another process has been starting or stopping the server of "{self.path.parent}" for too long',
                    hint="look for a segue process that hangs, end it, and try again",
                )
            clock.sleep(0.02)

    def _is_present(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let the lock go; the file stays open."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let the lock go and close the file."""
        os.close(self._descriptor)
