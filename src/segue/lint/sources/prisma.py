"""Prisma's migrations: each file is sent to the server as one message, so that all its statements succeed or none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import PurePath

_FOLDER = re.compile(r"\d{14}_|\d+_init$")


def wrote(path: PurePath) -> bool:
    """Return whether a file, by its name and its folder's, is a migration of Prisma's."""
    return path.name == "migration.sql" and bool(_FOLDER.match(path.parent.name))
