"""Under which user a server runs: PostgreSQL refuses root, so root's servers run as `nobody`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group that a server and its files belong to."""

    uid: int
    gid: int

    @property
    def foreign(self) -> bool:
        """Return whether this is another user than the one running now."""
        return self.uid != os.geteuid()

    def own(self, path: Path, mode: int) -> None:
        """Give a file or folder to this user with this mode."""
        if self.foreign:
            os.chown(path, self.uid, self.gid)
        path.chmod(mode)

    def run(
        self, command: Sequence[str | Path], *, cwd: Path, env: dict[str, str] | None = None, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this user to its end, with output and errors in `stdout`.

        Raises ConfigurationError when the program cannot be started at all.
        """
        switch: dict[str, Any] = {}
        if self.foreign:
            # Without extra_groups the server would keep root's groups.
            switch = {"user": self.uid, "group": self.gid, "extra_groups": []}
        words = [str(word) for word in command]
        try:
            return subprocess.run(
                words,
                cwd=cwd,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **(env or {})},
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                **switch,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigurationError(
                f'"{words[0]}" cannot be run: {getattr(error, "strerror", None) or error}',
                hint="set SEGUE_STORE to a PostgreSQL server of yours",
            ) from error


def server_account() -> Account:
    """Return the account of new servers: our own, or `nobody` for root."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    import pwd

    try:
        found = pwd.getpwnam("nobody")
    except KeyError as error:
        raise ConfigurationError(
            'PostgreSQL refuses to run as root, and there is no user "nobody" to run it as',
            hint="run segue as an ordinary user, or set SEGUE_STORE to a PostgreSQL server of yours",
        ) from error
    return Account(found.pw_uid, found.pw_gid)


def open_to_all(path: Path) -> bool:
    """Return whether any user of the machine may pass through this folder and all folders above it."""
    resolved = path.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (resolved, *resolved.parents))
