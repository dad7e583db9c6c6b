"""How the tables of a move differ from what they become: which table from which, and by which expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Term(BaseModel):
    """SQL or a name from a shape file, and where it stands there, from 1."""

    model_config = ConfigDict(frozen=True)

    text: str
    line: int
    column: int


class Lookup(BaseModel):
    """A table in which each row of the source finds at most one row, called by an alias. `on`: by what."""

    model_config = ConfigDict(frozen=True)

    alias: str
    table: Term
    on: Term


class Part(BaseModel):
    """What rows of one source table become in one target table.

    Expressions call the source's row `s`, and in `reverse` the target's row `t`. `where`: which rows, None for all.
    `columns`: expressions by column of the target; those that are not there come from the source's column of the same
    name. `drop`: columns of the source without a home. `reverse`: by column of the source, for the way back.
    """

    model_config = ConfigDict(frozen=True)

    target: Term
    source: Term
    where: Term | None = None
    columns: Mapping[str, Term] = {}
    drop: tuple[Term, ...] = ()
    lookups: tuple[Lookup, ...] = ()
    reverse: Mapping[str, Term] = {}


class Shape(BaseModel):
    """All parts of a move. `way_back`: whether what is written over there comes back; `file`: where it was read."""

    model_config = ConfigDict(frozen=True)

    file: str
    parts: tuple[Part, ...]
    way_back: bool = True

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the source tables, each once, as the file writes them."""
        return tuple(dict.fromkeys(part.source.text for part in self.parts))

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the target tables, each once, as the file writes them."""
        return tuple(dict.fromkeys(part.target.text for part in self.parts))

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it; `Shape.model_validate` reads that."""
        return self.model_dump(mode="json")
