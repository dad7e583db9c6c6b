"""What a fitted shape comes to: for each direction, which keys are followed and what their rows become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a destination, and the SQL that gives its value where the rows come from.

    `type` as the destination writes it; `stage`: what it is held as on the way, where that is another one. `plain`: its
    bytes mean the same in both databases.
    """

    name: str
    type: str
    words: str
    plain: bool
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class Landing:
    """What the rows of one table become in another.

    `origin`, called `alias`, is joined to listed keys, called k, by `match`; `present` tells whether a row is there.
    `keys` are over k, `own_keys` the same over the origin's row. `kept`: columns of the destination that keep what they
    have. `walks`: by key column that is no constant, the origin's column as it is, None where the two sides may sort
    differently. `guard`: which rows of the destination, called s, are ours at all. `leads`: whether a row over there
    exists because this one does; where not, it is only updated.
    """

    number: int
    origin: str
    alias: str
    into: str
    match: tuple[str, ...]
    present: str
    joins: tuple[tuple[str, str, str], ...]
    where: str | None
    keys: tuple[Field, ...]
    own_keys: tuple[str, ...]
    values: tuple[Field, ...]
    kept: tuple[str, ...]
    walks: Mapping[str, str | None]
    guard: str | None = None
    leads: bool = True

    @property
    def binary(self) -> bool:
        """Return whether its rows can pass as bytes."""
        return all(field.plain for field in (*self.keys, *self.values))

    @property
    def joined(self) -> sql.Composed:
        """Return the lookups' joins."""
        return sql.SQL("").join(
            sql.SQL(" left join {} as {} on ({})").format(sql.SQL(table), sql.Identifier(alias), sql.SQL(on))
            for table, alias, on in self.joins
        )


@dataclass(frozen=True, slots=True)
class Feed:
    """A log from which keys are taken: `words` gives each over the log's columns, `only` which entries."""

    log: int
    words: tuple[str, ...]
    only: str


@dataclass(frozen=True, slots=True)
class Group:
    """Keys of one source table, of these types, and everything that their rows become, in its order.

    `own`: the same keys over a row of the first landing's origin, of which those that are `only` count.
    """

    number: int
    types: tuple[str, ...]
    own: tuple[str, ...]
    only: str | None
    feeds: tuple[Feed, ...]
    landings: tuple[Landing, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """A log of a table's touched keys: the table, and names and types of its key."""

    number: int
    table: str
    key: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Way:
    """One direction: the logs on the side it comes from, and its groups."""

    logs: tuple[Log, ...]
    groups: tuple[Group, ...]

    @property
    def origins(self) -> tuple[str, ...]:
        """Return the tables that are read, lookups among them, each once."""
        found = [landing.origin for group in self.groups for landing in group.landings]
        found += [join[0] for group in self.groups for landing in group.landings for join in landing.joins]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Fit:
    """A shape on its two databases. `back` is None where nothing comes back.

    `filters`: for a source table of which only some rows move, the condition on them. `sequences`: of the target, by
    the one of the source that it goes on after. `warnings`: what a person should know beforehand.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    there: Way
    back: Way | None
    filters: dict[str, str]
    sequences: dict[str, str]
    warnings: tuple[str, ...]
