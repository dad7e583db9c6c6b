"""Migrations of a Django project: the SQL of each operation, tied to the line that calls for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import InvalidInput
from segue.lint.sources.programs import Program, asked, joined, shown

if TYPE_CHECKING:
    from segue.lint.sources import Source

_SETTINGS = re.compile(r"DJANGO_SETTINGS_MODULE['\"]\s*,\s*['\"]([\w.]+)['\"]")


def migrations(project: str, python: str | None, version: int) -> list[Source]:
    """Return the migrations of a project, in the order in which they are applied.

    `project` is its settings module or its manage.py. Raises InvalidInput where it cannot be loaded.
    """
    from segue.lint.sources import Source

    settings, folder = _settings(project)
    content = asked("django.py", {"settings": settings, "version": version}, python, folder)
    found = []
    for item in content["migrations"]:
        program = Program(item["path"])
        pieces, unanalysed, later = [], [], []
        for operation in item["operations"]:
            place = program.place(operation["line"])
            pieces += [(words, place) for words in operation["sql"]]
            later += [(words, place) for words in operation["later"]]
            unanalysed += [(place[0], why) for why in operation["unanalysed"]]
        sql, parts = joined([*pieces, *later])
        found.append(
            Source(
                shown(item["path"]),
                program.text,
                sql,
                bool(item["atomic"]),
                parts=parts,
                unanalysed=tuple(unanalysed),
                session=tuple(content["session"].items()),
                program=True,
            )
        )
    return found


def _settings(project: str) -> tuple[str, Path]:
    """Return the settings module, and the folder to load it from."""
    path = Path(project)
    if not path.name.endswith(".py"):
        return project, Path.cwd()
    try:
        said = _SETTINGS.search(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f'"{project}" cannot be read') from error
    if said is None:
        raise InvalidInput(
            f'"{project}" does not say its settings module', hint="name it: segue lint --django shop.settings"
        )
    return said[1], path.resolve().parent
