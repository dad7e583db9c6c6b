"""Projects whose migrations are programs: which one is meant, and which of its migrations are judged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import InvalidInput, UsageError
from segue.model.values import Value, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.lint.sources import Source

#: The servers' version that a project is asked for where none is named.
NEWEST = 18
#: Where what others wrote is installed.
_INSTALLED = frozenset({"site-packages", "dist-packages"})


class Project(Value):
    """A project of a framework, and the folders or files of it that are judged; none: all that is not installed."""

    framework: str
    name: str
    python: str | None
    version: int
    paths: tuple[str, ...]

    def gather(self) -> list[Source]:
        """Return its migrations in the order in which they are applied. Raises InvalidInput."""
        from segue.lint.sources import alembic, django

        load = django.migrations if self.framework == "django" else alembic.revisions
        found = load(self.name, self.python, self.version)
        folders = [Path(path).resolve() for path in self.paths]
        files = [Path(source.path).resolve() for source in found]
        for path, folder in zip(self.paths, folders, strict=True):
            if not any(file.is_relative_to(folder) for file in files):
                raise InvalidInput(f'no migration of the project is in "{path}"')
        wanted = [
            any(file.is_relative_to(folder) for folder in folders)
            if folders
            else self.framework == "alembic" or not _INSTALLED & set(file.parts)
            for file in files
        ]
        return [replace(source, reported=keep) for source, keep in zip(found, wanted, strict=True)]


def named(
    paths: Sequence[str], django: str | None, alembic: str | None, python: str | None, version: int | None
) -> Project | None:
    """Return the project that a command names by an option or by its file, None where there is none."""
    found = [("django", django), ("alembic", alembic)]
    rest = []
    for path in paths:
        name = Path(path).name
        if name == "manage.py":
            found.append(("django", path))
        elif re.fullmatch(r"alembic[\w.-]*\.ini", name):
            found.append(("alembic", path))
        else:
            rest.append(path)
    projects = [(framework, name) for framework, name in found if name]
    if len(projects) > 1:
        raise UsageError("one project at a time", hint="SQL files and other projects have a command of their own")
    if not projects:
        if python is not None:
            raise UsageError("--python is for projects", hint="name one with --django or --alembic")
        return None
    framework, name = projects[0]
    return Project(framework, name, python, version or NEWEST, tuple(rest))
