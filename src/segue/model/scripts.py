"""A program that a plan runs, as a value: what its file says, and the text of the files that it needs."""

from __future__ import annotations

import posixpath
import re
import shlex
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from segue.model.plans import Expectation, PlanModel

# What would lead a script to another database than the one that its run holds.
LEADING = frozenset(
    [
        *("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE"),
        *("PGSERVICEFILE", "PGOPTIONS", "PGAPPNAME", "DATABASE_URL"),
    ]
)
TYPESCRIPT = (".ts", ".mts", ".cts")

_NODE = (".js", ".mjs", ".cjs", *TYPESCRIPT)
_PYTHON = re.compile(r".+\.py:[A-Za-z_]\w*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def path(name: str) -> str:
    """Return a path relative to the plan in the one way in which it is written in `contents`."""
    return posixpath.normpath(name)


def names_function(value: str) -> str:
    """Return what names a function as `path/file.py:name`; raises ValueError for what does not."""
    if not _PYTHON.fullmatch(value):
        raise ValueError(f'"{value}" names no function; write path/file.py:name')
    return value


class Script(PlanModel):
    """A program: exactly one of `python`, `command`, `prisma`."""

    python: str | None = Field(
        default=None,
        description="A function as `path/file.py:name`, called with a psycopg connection to the target.",
    )
    command: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="A program and its arguments, started without a shell."
    )
    prisma: str | None = Field(default=None, description="A script in JavaScript or TypeScript, run by Node.")
    files: list[str] = Field(default_factory=list, description="Further files that the script needs.")
    env: dict[str, str] = Field(default_factory=dict, description="Variables for its environment.")
    cwd: str | None = Field(default=None, description="The folder that it runs in; by default one with its files.")
    transaction: bool = Field(
        default=True, description="Whether a function runs in one transaction with the record that it is done."
    )
    idempotent: bool = Field(default=False, description="Whether it may be run again after it stopped half-way.")
    done_when: Expectation | None = Field(
        default=None, description="A query whose result shows that the script has done its work."
    )
    contents: dict[str, str] = Field(
        default_factory=dict, description="The text of its files by path, filled in when the plan is read."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Script:
        if sum(form is not None for form in (self.python, self.command, self.prisma)) != 1:
            raise ValueError("a script is exactly one of python, command, prisma")
        if self.python is None and "transaction" in self.model_fields_set:
            raise ValueError("transaction goes with python only: other programs open sessions of their own")
        return self

    @field_validator("python")
    @classmethod
    def _names_function(cls, value: str | None) -> str | None:
        return names_function(value) if value is not None else None

    @field_validator("prisma")
    @classmethod
    def _names_script(cls, value: str | None) -> str | None:
        if value is not None and not value.endswith(_NODE):
            raise ValueError(f'"{value}" is no script for Node; its name ends in one of {", ".join(_NODE)}')
        return value

    @field_validator("env")
    @classmethod
    def _leads_nowhere_else(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f'"{name}" is no name of a variable')
            if name in LEADING or name.startswith("SEGUE_"):
                raise ValueError(f'"{name}" is set by Segue')
        return value

    @property
    def transactional(self) -> bool:
        """Return whether all that the script does is done or not done together with its record."""
        return self.python is not None and self.transaction

    @property
    def repeatable(self) -> bool:
        """Return whether it can go on after it was stopped anywhere, without a person's word."""
        return self.transactional or self.idempotent or self.done_when is not None

    @property
    def main(self) -> str | None:
        """Return the file that is the program, None when the program is one of the machine's."""
        if self.python is not None:
            return self.python.rpartition(":")[0]
        if self.command is not None:
            first = self.command[0]
            return first if "/" in first and not first.startswith("/") else None
        return self.prisma

    @property
    def text(self) -> str:
        """Return what is run, as one line for people."""
        if self.python is not None:
            return f"python {self.python}"
        return f"node {self.prisma}" if self.prisma is not None else shlex.join(self.command or ())

    @property
    def written(self) -> str | None:
        """Return the text of the file that is the program."""
        main = self.main
        return self.contents.get(path(main)) if main is not None else None
