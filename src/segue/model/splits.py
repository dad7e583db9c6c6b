"""A database that is split into several: which table goes where, and what crosses the lines between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Domain:
    """A part with a database of its own: an environment's name, and tables as the file writes them.

    `reads`: shared tables of which its database gets a copy that follows their home and refuses writes.
    """

    name: str
    to: str
    tables: tuple[str, ...]
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Routing:
    """SQL on the source that sends the application to a domain's new database, and back.

    `{domain}` and `{to}` in them stand for a domain's name and its environment's, as SQL texts.
    """

    switch: str
    reverse: str


@dataclass(frozen=True, slots=True)
class Split:
    """What a split file says.

    `shared`: tables that domains may read in their own databases, and that are written to in one place: in that of the
    domain that has them, or else in the source.
    """

    name: str
    source: str
    domains: tuple[Domain, ...]
    shared: tuple[str, ...] = ()
    routing: Routing | None = None


@dataclass(frozen=True, slots=True)
class CrossingKey:
    """A foreign key whose tables get into different databases; no server can enforce it there.

    `actions`: what the server does by itself today, as in `ON DELETE CASCADE`. `writes`: rows of the table inserted or
    updated since the server's statistics began. `to_shared`: the other table has a read-only copy beside this one,
    so that they can be joined; the key is none even so, as the copy is a moment behind. `definition`: the key as SQL,
    for the way back.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    domain: str
    to_table: str
    to_columns: tuple[str, ...]
    to_domain: str
    actions: tuple[str, ...] = ()
    writes: int = 0
    to_shared: bool = False
    definition: str = ""


@dataclass(frozen=True, slots=True)
class Spanning:
    """Something that uses tables of several domains. `kind`: statement, view, function or trigger.

    `calls`: how often, for statements. `certain`: False where a function's text only mentions the names.
    """

    kind: str
    what: str
    tables: Mapping[str, tuple[str, ...]]
    advice: str
    calls: int | None = None
    certain: bool = True


@dataclass(frozen=True, slots=True)
class ReadCopy:
    """Shared tables of one home that a domain has a read-only copy of. `name`: its move's; `home`: the domain's.

    `to`: the environment of the domain that reads. `home` is "shared" where the tables stay in the source.
    """

    name: str
    domain: str
    to: str
    home: str
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a split meets.

    `tables`: each one's domain. `homeless`: those in none; `unseen`: what could not be looked at, and why.
    """

    tables: Mapping[str, str]
    homeless: tuple[str, ...]
    problems: tuple[str, ...]
    crossing: tuple[CrossingKey, ...]
    spanning: tuple[Spanning, ...]
    unseen: tuple[str, ...]
    copies: tuple[ReadCopy, ...] = ()

    @property
    def ready(self) -> bool:
        """Return whether every table has exactly one home, and every home is a table."""
        return not self.homeless and not self.problems


@dataclass(frozen=True, slots=True)
class Invariant:
    """What a foreign key was, looked at across two databases.

    `values`: different ones that were compared; `broken`: those without a row, `examples` of them.
    """

    name: str
    holds: bool
    values: int
    broken: int
    examples: tuple[str, ...] = ()
