"""A table with everything that can hang on one, its shadow, and a swap by hand: for what moves at a swap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_hostile import administrator

from segue.databases.postgresql.online import dependents, reading, writing
from segue.databases.postgresql.online.blueprint import Blueprint, Flow, KeyColumn, Mapped, Member, Place, Relation

EVERYTHING = Path(__file__).parent / "online" / "everything.sql"
WIDER = "alter table {} alter id type bigint, alter number type bigint, add extra text default 'more'"


class Hanging:
    """A change of some tables, from an empty shadow to after its swap and back, without the rows' own way."""

    def __init__(self, url: str, tables: dict[str, str]) -> None:
        self.connection = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        self.connection.execute("set row_security = off")
        self.change = Blueprint(id="everyth1", strategy="shadow-table")
        new, old = self.change.new_schema, self.change.old_schema
        self.run(f"create schema {new}", f"create schema {old}")
        members = []
        for number, (table, alter) in enumerate(tables.items(), 1):
            definition = reading.read(self.connection, table)
            for made in writing.tables(definition, new):
                self.run(*made)
            shadow = Place(schema_name=new, name=definition.name)
            if alter:
                self.run(alter.format(shadow))
            drawn = reading.read(self.connection, str(shadow))
            # As if it had its indexes already, which are made when the rows are there.
            drawn = drawn.model_copy(update={"indexes": definition.indexes, "constraints": definition.constraints})
            members.append(self._member(number, definition, drawn))
        self.members = members
        self.change = self.change.model_copy(
            update={
                "members": tuple(
                    member.model_copy(update={"dependents": dependents.find(self.connection, member, members)})
                    for member in members
                )
            }
        )
        for member in members:
            drawn = reading.Definition.model_validate(member.drawn)
            source, into = str(member.forward.source), str(member.forward.into)
            names = ", ".join('"' + column.into.replace('"', '""') + '"' for column in member.forward.columns)
            listed = ", ".join(column.expression for column in member.forward.columns)
            self.run(f"insert into {into} ({names}) overriding system value select {listed} from {source}")
            for index in writing.indexes(drawn, new):
                self.run(*writing.build(index, index.table))

    def _member(self, number: int, definition: reading.Definition, drawn: reading.Definition) -> Member:
        table = Place(schema_name=definition.schema_name, name=definition.name)
        shadow = Place(schema_name=self.change.new_schema, name=drawn.name)
        gone = Place(schema_name=self.change.old_schema, name=definition.name)
        key = tuple(KeyColumn(name=c, type="bigint", into=c, into_type="bigint") for c in definition.keys[0].columns)
        old = {column.name for column in definition.columns}
        columns = tuple(
            Mapped(into=c.name, type=c.type, expression='"' + c.name.replace('"', '""') + '"::' + c.type)
            for c in drawn.columns
            if not c.generated and c.name in old
        )
        back = tuple(
            Mapped(into=c.name, type=c.type, expression='"' + c.name.replace('"', '""') + '"::' + c.type)
            for c in definition.columns
            if not c.generated
        )
        return Member(
            number=number,
            oid=definition.oid,
            table=table,
            old=tuple(
                Relation(
                    place=Place(schema_name=d.schema_name, name=d.name),
                    goes_to=self.change.old_schema,
                    kind=d.kind,
                    leaf=d.bound is not None and d.kind == "r",
                )
                for d in definition.everything()
            ),
            new=tuple(
                Relation(
                    place=Place(schema_name=self.change.new_schema, name=d.name),
                    goes_to=table.schema_name,
                    kind=d.kind,
                    leaf=d.bound is not None and d.kind == "r",
                )
                for d in drawn.everything()
            ),
            forward=Flow(source=table, into=shadow, key=key, columns=columns),
            backward=Flow(source=table, into=gone, key=key, columns=back),
            definition=definition.model_dump(mode="json"),
            drawn=drawn.model_dump(mode="json"),
        )

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
        """Give the shadows everything that they get before the swap."""
        for member in self.change.members:
            with self.connection.transaction():
                self.run(*dependents.before(member, self.change))
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
            for member in change.members:
                self.run(*dependents.swap_out(member, change, direction))
            first, second = (
                ([r for m in change.members for r in m.old], [r for m in change.members for r in m.new])
                if direction == "forward"
                else ([], [])
            )
            for relation in first + second:
                self.run(f'alter table {relation.place} set schema "{relation.goes_to}"')
            if direction == "backward":
                for relation in [r for m in change.members for r in m.new]:
                    name = Place(schema_name=relation.goes_to, name=relation.place.name)
                    self.run(f"alter table {name} set schema {change.new_schema}")
                for relation in [r for m in change.members for r in m.old]:
                    name = Place(schema_name=relation.goes_to, name=relation.place.name)
                    self.run(f'alter table {name} set schema "{relation.place.schema_name}"')
            for member in change.members:
                self.run(*dependents.swap_in(member, change, direction))
        for member in change.members:
            self.run(*dependents.after(member, change, direction))


@pytest.fixture
def hanging(any_database: str) -> Iterator[Callable[..., Hanging]]:
    """Give a function that makes tables by SQL and draws a change of one of them; `everything.sql` by default."""
    opened: list[Hanging] = []

    def make(script: str | None = None, **tables: str) -> Hanging:
        url = administrator(any_database)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("set search_path = public")
            connection.execute((EVERYTHING.read_text() if script is None else script).encode())
        opened.append(Hanging(url, tables or {"shop.orders": WIDER}))
        return opened[-1]

    yield make
    for each in opened:
        each.connection.close()
