"""Where Segue keeps its things, and who uses it: from `SEGUE_*`, `segue.toml` or `[tool.segue]`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.errors import ConfigurationError

#: What `segue.toml` and `[tool.segue]` may hold. The key is missing on purpose: such files end up in version control.
FILE_KEYS = ("home", "store", "user")


@dataclass(frozen=True, slots=True)
class Settings:
    """What was set. Passwords and keys are in `store` and `key`: neither is shown by `repr`."""

    #: The folder with Segue's own files: the embedded store and the key. It need not exist yet.
    home: Path
    #: URL of a PostgreSQL database that a team shares as its store; None for the embedded one.
    store: str | None
    #: Key that database URLs are encrypted with, from `SEGUE_KEY`; None when the file `home/key` holds it.
    key: str | None
    #: The name under which this person's acts are recorded.
    user: str

    def __repr__(self) -> str:
        secret = {True: "…", False: None}
        return (
            f"Settings(home={self.home!r}, store={secret[self.store is not None]!r}, "
            f"key={secret[self.key is not None]!r}, user={self.user!r})"
        )

    def prepare_home(self) -> Path:
        """Make the home folder if it is missing and return it; ConfigurationError when it cannot be used."""
        return prepare_folder(self.home)


def load(environ: Mapping[str, str] | None = None, start: Path | None = None) -> Settings:
    """Return the settings; `SEGUE_*` win over the file nearest above `start` (the working directory).

    Raises ConfigurationError naming file and key.
    """
    environ = os.environ if environ is None else environ
    given = _from_files(start)
    for key in ("home", "store", "key", "user"):
        if value := environ.get(f"SEGUE_{key.upper()}", "").strip():
            given[key] = value
    store = given.get("store")
    if store is not None and not store.startswith(("postgresql://", "postgres://")):
        # The value stays out of the message: it may hold a password in some other form.
        raise ConfigurationError(
            'the store is not a PostgreSQL URL (setting "store" or SEGUE_STORE)',
            hint="write postgresql://user@host/database, or leave it out to use the embedded PostgreSQL",
        )
    home = given.get("home")
    return Settings(
        home=_absolute(home) if home else _default_home(environ),
        store=store,
        key=given.get("key"),
        user=given.get("user") or _user_name(),
    )


def prepare_folder(path: Path) -> Path:
    """Make a folder of Segue's own, and its missing parents, and return it.

    Only the owner may list or write it. As root, others may pass through it: the embedded server runs as an ordinary
    user and must reach its data below. An existing folder is left as it is unless it is root's and empty.
    """
    passable = 0o711 if os.geteuid() == 0 else 0o700
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=passable, exist_ok=True)
            folder.chmod(passable)
        if not missing and os.geteuid() == 0:
            found = path.stat()
            if found.st_uid == 0 and not found.st_mode & 0o001 and not any(path.iterdir()):
                path.chmod(found.st_mode | 0o001)
        if not path.is_dir():
            raise NotADirectoryError(20, "it is not a folder")
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "it is not writable")
    except OSError as error:
        raise ConfigurationError(
            f'the folder "{path}" cannot be used: {error.strerror or error}',
            hint="set SEGUE_HOME to a folder that you may write",
        ) from error
    return path


def _from_files(start: Path | None) -> dict[str, str]:
    try:
        here = (start or Path.cwd()).resolve()
    except FileNotFoundError:  # the working directory was removed under us
        return {}
    for folder in (here, *here.parents):
        own, project = folder / "segue.toml", folder / "pyproject.toml"
        if _exists(own):
            return _checked(own, "", _parsed(own))
        if _exists(project):
            tool = _parsed(project).get("tool")
            if isinstance(tool, dict) and "segue" in tool:
                return _checked(project, "tool.segue.", tool["segue"])
    return {}


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # a folder above us that we may not look into is none of ours
        return False


def _parsed(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f'"{path}" cannot be read: {error.strerror or error}') from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f'"{path}" is not valid TOML: {error}') from error


def _checked(path: Path, prefix: str, table: object) -> dict[str, str]:
    if not isinstance(table, dict):
        raise ConfigurationError(f'"{path}": "{prefix.rstrip(".")}" must be a table')
    result: dict[str, str] = {}
    for key, value in table.items():
        if key == "key":
            raise ConfigurationError(
                f'"{path}": "{prefix}key" does not belong in a file',
                hint="set SEGUE_KEY in the environment, or let Segue keep the key in its home folder",
            )
        if key not in FILE_KEYS:
            raise ConfigurationError(f'"{path}": unknown key "{prefix}{key}"', hint=f"known are {', '.join(FILE_KEYS)}")
        if not isinstance(value, str) or not value.strip():
            raise ConfigurationError(f'"{path}": "{prefix}{key}" must be a text that is not empty')
        # A relative folder in a file means: beside that file, wherever the command is started.
        result[key] = str(path.parent / Path(value.strip()).expanduser()) if key == "home" else value.strip()
    return result


def _absolute(text: str) -> Path:
    try:
        return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - resolve() would follow symbolic links
    except (RuntimeError, FileNotFoundError) as error:
        raise ConfigurationError(f'the home folder "{text}" (setting "home" or SEGUE_HOME) is not known') from error


def _default_home(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/segue")
    data = environ.get("XDG_DATA_HOME", "")
    if data.startswith("/"):  # the XDG rules: a relative path is to be ignored
        return Path(data) / "segue"
    return _absolute("~/.local/share/segue")


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may run under a number without a name
        return str(os.geteuid())
