"""Encrypt what must not lie open in the store: database URLs with their passwords."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

    from segue.settings import Settings


def encrypt(settings: Settings, text: str) -> str:
    """Return the text encrypted under the key of these settings; makes the key file on first use.

    Raises ConfigurationError when the key is unusable.
    """
    return _fernet(settings, create=True).encrypt(text.encode()).decode("ascii")


def decrypt(settings: Settings, token: str) -> str:
    """Return the text that `encrypt` was given.

    Raises ConfigurationError when the key is missing, unusable or another than the one it was encrypted with.
    """
    from cryptography.fernet import InvalidToken

    fernet = _fernet(settings, create=False)
    try:
        return fernet.decrypt(token.encode()).decode()
    except (InvalidToken, UnicodeError) as error:
        raise ConfigurationError(
            f"a stored database URL cannot be decrypted with the key from {_origin(settings)}",
            hint="set SEGUE_KEY to the key it was stored with, or add the environment again",
        ) from error


def _origin(settings: Settings) -> str:
    return "SEGUE_KEY" if settings.key else f'"{settings.home / "key"}"'


def _fernet(settings: Settings, *, create: bool) -> Fernet:
    from cryptography.fernet import Fernet

    key = settings.key or _from_file(settings, create=create)
    try:
        return Fernet(key)
    except ValueError as error:
        raise ConfigurationError(
            f"the key from {_origin(settings)} is not a key",
            hint="a key is 32 random bytes in URL-safe base64, as this prints: "
            'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"',
        ) from error


def _from_file(settings: Settings, *, create: bool) -> str:
    path = settings.home / "key"
    try:
        if create and not path.exists():
            _create(settings.prepare_home(), path)
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or os.geteuid() not in (found.st_uid, 0):
            raise ConfigurationError(
                f'the key file "{path}" must be readable by its owner only', hint=f'run chmod 600 "{path}"'
            )
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise ConfigurationError(
            f'there is no key: SEGUE_KEY is not set and "{path}" does not exist',
            hint="set SEGUE_KEY to the key that the environments were stored with, or restore the file",
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f'the key file "{path}" cannot be read: {error.strerror}',
            hint="run Segue as the user whom the file belongs to, or set SEGUE_KEY",
        ) from error
    except UnicodeError as error:
        raise ConfigurationError(
            f'the key file "{path}" holds something else than a key',
            hint="restore the file, or set SEGUE_KEY to the key that the environments were stored with",
        ) from error


def _create(folder: Path, path: Path) -> None:
    from cryptography.fernet import Fernet

    draft = folder / f".key-{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, does not replace the key that another process has made and used meanwhile.
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return
        # Without this a crash of the machine could lose the key but keep what was encrypted with it.
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        draft.unlink(missing_ok=True)
