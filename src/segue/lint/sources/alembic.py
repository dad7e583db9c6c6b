"""Revisions of an Alembic project: the SQL of each call of `op`, tied to its line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segue.lint.sources.programs import Program, asked, joined, shown

if TYPE_CHECKING:
    from segue.lint.sources import Source


def revisions(project: str, python: str | None, version: int) -> list[Source]:
    """Return the revisions of a project, in the order in which they are applied.

    `project` is its alembic.ini. Raises InvalidInput where it cannot be loaded.
    """
    from segue.lint.sources import Source

    ini = Path(project).resolve()
    content = asked("alembic.py", {"ini": str(ini), "version": version}, python, Path.cwd())
    found = []
    for item in content["revisions"]:
        program = Program(item["path"])
        pieces = [(piece["sql"], program.place(piece["line"])) for piece in item["statements"]]
        if any(words == "BEGIN;" for words, _ in pieces):
            # An autocommit block ends Alembic's transaction and begins another; Alembic ends that after the revision.
            pieces.append(("COMMIT;", pieces[-1][1]))
        sql, parts = joined(pieces)
        unanalysed = tuple((program.place(said["line"])[0], said["why"]) for said in item["unanalysed"])
        found.append(
            Source(shown(item["path"]), program.text, sql, True, parts=parts, unanalysed=unanalysed, program=True)
        )
    return found
