"""The parser's words, and what all readers of its trees need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from segue.databases.postgresql.grammar import symbol
from segue.databases.postgresql.relations import table_name
from segue.model import changes as to

Reader = Callable[[Any, int], Iterator[to.Change]]


def kind_of(number: int) -> str:
    """Return a kind of object in words: "table", "materialized view"."""
    word = symbol("ObjectType", number).removeprefix("OBJECT_").replace("_", " ").lower()
    return {
        "matview": "materialized view",
        "tabconstraint": "constraint",
        "domconstraint": "domain constraint",
    }.get(word, word)


def cascades(number: int) -> bool:
    """Return whether a DROP takes along what depends on its object."""
    return symbol("DropBehavior", number) == "DROP_CASCADE"


def of_relation(verb: str, form: str, field: str = "relation") -> Reader:
    """Return the reader of statements that name one table in a field of their tree, and of which no more is told."""

    def reader(statement: Any, offset: int) -> Iterator[to.Change]:
        relation = getattr(statement, field)
        yield to.Other(offset=offset, table=table_name(relation), form=form, verb=verb)

    return reader
