"""What an online change knows of its tables, as it is kept in `segue.change` and survives any death."""

from __future__ import annotations

from typing import Any

from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(_Kept):
    """A relation's schema and name, as they are in the catalogue."""

    schema_name: str
    name: str

    @property
    def sql(self) -> sql.Identifier:
        """Return the qualified name for a statement."""
        return sql.Identifier(self.schema_name, self.name)

    def __str__(self) -> str:
        """Return the qualified name as SQL writes it."""
        return ".".join('"' + part.replace('"', '""') + '"' for part in (self.schema_name, self.name))


class KeyColumn(_Kept):
    """A column of the key that is walked: in the source, and what it is called and typed in the destination."""

    name: str
    type: str  # format_type in the source
    collation: str | None = None  # quoted and qualified, where the index has another than the database's
    into: str
    into_type: str


class Mapped(_Kept):
    """A column of the destination, with its value as an SQL expression over the source's bare column names."""

    into: str
    type: str  # format_type in the destination; the expression has been cast to it
    expression: str


class Flow(_Kept):
    """How rows get from one table into the other.

    `kept`: columns of the destination that have no value in the source: a row that is brought up to date keeps them.
    Generated columns are in neither.
    """

    source: Place
    into: Place
    key: tuple[KeyColumn, ...]
    columns: tuple[Mapped, ...]
    kept: tuple[str, ...] = ()


class Index(_Kept):
    """An index of the new definition that is built once the rows are there; `sql` builds it on the shadow.

    `constraint`: the constraint that it serves, with `definition` for ALTER TABLE ADD ("PRIMARY KEY USING INDEX x" or,
    for an exclusion constraint, which builds its own index, the whole of it; `sql` is empty then).
    """

    name: str
    sql: str
    unique: bool = False
    primary: bool = False
    constraint: str | None = None
    definition: str | None = None
    #: Whether it enforces what the old table does not: rows may conflict.
    added: bool = False
    #: The shadow, or the partition of it, that it is of; without `sql` it is a constraint that comes once the rows are
    #: there, such as a CHECK that old rows need not obey.
    table: Place | None = None
    #: Statements that come after it: targets of statistics, CLUSTER ON and the like.
    after: tuple[str, ...] = ()
    #: Built right after the copy: by it a drain finds the rows.
    early: bool = False
    #: No part of the new definition: it serves the change, and goes with it.
    extra: bool = False


class Relation(_Kept):
    """A table or partition on one side of a change: where it lives, where it goes to at the swap, and its kind."""

    place: Place
    goes_to: str  # the schema that it is in after the swap
    kind: str = "r"  # pg_class.relkind
    leaf: bool = False  # a partition or inheritance member that stores rows: its writes may pass the root's triggers


class Member(_Kept):
    """One table of a change: the old side, the new side, and the two ways between them.

    `forward` leads from the original to its shadow before the swap, `backward` from the new table to the old one after
    it: their places are those that the relations have then.
    """

    number: int
    oid: int
    table: Place
    old: tuple[Relation, ...]
    new: tuple[Relation, ...]
    forward: Flow
    backward: Flow
    indexes: tuple[Index, ...] = ()
    #: Unique over the key that is walked in the *new* table; none where the new primary key is another one.
    keyed_by: str | None = None
    rows: int = 0
    bytes: int = 0
    #: Whatever hangs on the table and moves at the swap; see `dependents`.
    dependents: dict[str, Any] = Field(default_factory=dict)
    #: The definition of the original as it was when the change was drawn up, for parity and to find DDL meanwhile.
    definition: dict[str, Any] = Field(default_factory=dict)
    #: The new definition as the server gave it back, under the names that it has in the shadow's schema.
    drawn: dict[str, Any] = Field(default_factory=dict)

    @property
    def log(self) -> str:
        """Return the member's part of the name of a log: the change puts its own id before it."""
        return f"log_{self.number}"


class Blueprint(_Kept):
    """One change as it was drawn up. `id` is short, and is in every name that Segue makes for it."""

    id: str
    strategy: str
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    native: tuple[str, ...] = ()
    #: For each of them what takes it back, and what of it nothing does, in words.
    native_undo: tuple[tuple[str, ...], ...] = ()
    native_lost: tuple[str, ...] = ()
    native_groups: tuple[int, ...] = ()
    members: tuple[Member, ...] = ()
    system_identifier: str = ""
    timeline: int = 0

    @property
    def new_schema(self) -> str:
        """Return the schema in which the shadows are made; after a swap back, what was new."""
        return f"segue_{self.id}_new"

    @property
    def old_schema(self) -> str:
        """Return the schema that the originals are moved to."""
        return f"segue_{self.id}_old"

    def log(self, member: Member, direction: str) -> Place:
        """Return the log of touched keys of the member's source in a direction."""
        return Place(schema_name="segue", name=f"{self.id}_{member.log}_{direction}")
