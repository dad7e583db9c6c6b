"""A table with everything that can hang on one, its shadow, and a swap by hand: for what moves at a swap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from fix_hostile import administrator

from segue.databases.postgresql.online import dependents, reading, shadow, writing
from segue.databases.postgresql.online.blueprint import Blueprint, Member, Place
from segue.model.online import ChangeSpec, TableChange

EVERYTHING = Path(__file__).parent / "online" / "everything.sql"
#: What of it PostgreSQL 14 does not know.
NEWER = (
    " nulls not distinct",
    ' (id, code, "Note ""x""") where (amount > 5)',
    "create publication spaces for tables in schema audit;",
)
WIDER = "alter id type bigint, alter number type bigint, add extra text default 'more'"


def everything(connection: psycopg.Connection[Any]) -> None:
    """Make the table that has everything."""
    if connection.execute("select 1 from pg_tablespace where spcname = 'everything_space'").fetchone() is None:
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute("create tablespace everything_space location ''")
    text = EVERYTHING.read_text()
    if connection.info.server_version < 150000:
        for newer in NEWER:
            assert newer in text
            text = text.replace(newer, "")
    connection.execute(text.encode())


class Hanging:
    """A change of some tables, from an empty shadow to after its swap and back, without the rows' own way."""

    def __init__(self, connection: psycopg.Connection[Any], tables: dict[str, str | TableChange]) -> None:
        self.connection = connection
        self.connection.execute("set row_security = off")
        self.change = Blueprint(id="everyth1", strategy="shadow-table")
        spec = ChangeSpec(
            tables=tuple(
                alter if isinstance(alter, TableChange) else TableChange(table=table, alter=(alter,) if alter else ())
                for table, alter in tables.items()
            )
        )
        site: Any = SimpleNamespace(work=self.connection)
        members = shadow.draw_up(site, self.change.id, spec, "shadow-table")
        found = [
            member.model_copy(
                update={"dependents": {**member.dependents, **dependents.find(self.connection, member, members)}}
            )
            for member in members
        ]
        self.change = self.change.model_copy(update={"members": tuple(found)})

    def make(self) -> None:
        """Make the shadows with their rows and indexes."""
        new = self.change.new_schema
        self.run(f"create schema {new}", f"create schema {self.change.old_schema}")
        for member in self.change.members:
            drawn = reading.Definition.model_validate(member.drawn)
            for made in writing.tables(drawn, new):
                self.run(*made)
            flow = member.forward
            names = ", ".join('"' + column.into.replace('"', '""') + '"' for column in flow.columns)
            values = ", ".join(column.expression for column in flow.columns)
            self.run(f"insert into {flow.into} ({names}) overriding system value select {values} from {flow.source}")
            for index in member.indexes:
                self.run(*writing.build(index, index.table or flow.into))

    @property
    def member(self) -> Member:
        return self.change.members[0]

    @property
    def found(self) -> dict[str, Any]:
        return self.member.dependents

    def run(self, *statements: str) -> None:
        for text in statements:
            self.connection.execute(text.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode()).fetchall()

    def dress(self) -> None:
        """Make the shadows, and give them everything that they get before the swap."""
        self.make()
        for member in self.change.members:
            with self.connection.transaction():
                self.run(*dependents.before(member, self.change))
        with self.connection.transaction():
            for member in self.change.members:
                self.run(*dependents.matviews_before(member, self.change, "forward"))

    def swap(self, direction: str = "forward") -> None:
        """Swap in one transaction, under the locks that are said to be enough, and do what comes after."""
        change = self.change
        with self.connection.transaction():
            self.run(*dependents.views_first(change))
            for member in change.members:
                for table, mode in dependents.locks(member, change, direction):
                    self.run(f"lock table {table} in {mode} mode")
            self.run(*self.swapping(direction))
        for member in change.members:
            self.run(*dependents.after(member, change, direction))

    def swapping(self, direction: str) -> list[str]:
        """Return the statements of a swap."""
        change = self.change
        found = [text for member in change.members for text in dependents.swap_out(member, change, direction)]
        old = [relation for member in change.members for relation in member.old]
        new = [relation for member in change.members for relation in member.new]
        for relation in old + new if direction == "forward" else new + old:
            here, there = relation.place.schema_name, relation.goes_to
            if direction == "backward":
                here, there = there, here
            place = Place(schema_name=here, name=relation.place.name)
            there = there.replace('"', '""')
            found.append(f'alter table {place} set schema "{there}"')
        return found + [text for member in change.members for text in dependents.swap_in(member, change, direction)]


Hang = Callable[..., Hanging]


@pytest.fixture
def hanging(any_database: str) -> Iterator[Hang]:
    """Give a function that makes tables by SQL and draws a change of them up; `everything.sql` by default."""
    yield from hangings(any_database)


@pytest.fixture
def hanging_here(database: str) -> Iterator[Hang]:
    """Give the same on the embedded server alone."""
    yield from hangings(database)


def hangings(database: str) -> Iterator[Hang]:
    """Give a function that draws changes up in a database; its sessions are closed at the end."""
    opened = []

    def make(script: str | None = None, tables: dict[str, Any] | None = None) -> Hanging:
        connection = psycopg.connect(administrator(database), autocommit=True, prepare_threshold=None)
        opened.append(connection)
        connection.execute("set search_path = public")
        if script is None:
            everything(connection)
        else:
            connection.execute(script.encode())
        return Hanging(connection, tables or {"shop.orders": WIDER})

    yield make
    for connection in opened:
        connection.close()
