"""What all tables share: the schema, the names of constraints, column types, and the guard around lifecycles."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    inspect,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

from segue.model.lifecycles import Lifecycle, LifecycleError
from segue.store.ids import new_id

SCHEMA = "segue_store"

# Prisma's names, so that a team that has generated the lesson's tables with Prisma finds the same ones here.
_NAMES = {
    "pk": "%(table_name)s_pkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}

Id = Annotated[str, mapped_column(Text, primary_key=True, default=new_id)]
BigInt = Annotated[int, mapped_column(BigInteger)]
# None is SQL's NULL, not JSON's null: a column that is NOT NULL refuses it.
Json = Annotated[Any, mapped_column(JSONB(none_as_null=True))]
IntList = Annotated[list[int], mapped_column(ARRAY(Integer), default=list)]


class Row(DeclarativeBase):
    """A stored record. JSON and list values are replaced, never changed in place: a change inside is not noticed."""

    metadata = MetaData(schema=SCHEMA, naming_convention=_NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        int: Integer,
        float: Double,
        bool: Boolean,
        datetime: DateTime(timezone=True),
    }

    # The attribute that holds the record's status or phase, and its lifecycle.
    life: ClassVar[tuple[str, Lifecycle[Any]] | None] = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a status may only begin here, never change: `transitions.advance` changes it."""
        if self.life is not None and name == self.life[0]:
            lifecycle = self.life[1]
            if not inspect(self).transient:
                raise LifecycleError(
                    f'the {name} of the {lifecycle.noun} was assigned "{value}"', hint="use transitions.advance"
                )
            if lifecycle.word(value) not in lifecycle.initial:
                raise LifecycleError(f'the {lifecycle.noun} cannot begin as "{value}"', hint="use transitions.advance")
        super().__setattr__(name, value)


def one_of(column: str, words: type[StrEnum]) -> CheckConstraint:
    """Return a CHECK that allows exactly these words in the column."""
    # The words are our own enumerations, without a quote in them.
    listed = ", ".join(f"'{word.value}'" for word in words)
    return CheckConstraint(f'"{column}" IN ({listed})', name=column)


def refers(target: str, on_delete: str) -> ForeignKey:
    """Return a foreign key to `table.column`; on update it cascades, as Prisma's do."""
    return ForeignKey(f"{SCHEMA}.{target}", ondelete=on_delete, onupdate="CASCADE")


def index(*columns: str) -> Index:
    """Return an index over these columns."""
    return Index(None, *columns)


def unique(*columns: str, name: str | None = None) -> UniqueConstraint:
    """Return a unique constraint over these columns; `name` where the usual one is longer than PostgreSQL's 63."""
    return UniqueConstraint(*columns, name=name)
