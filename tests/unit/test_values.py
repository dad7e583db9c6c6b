"""Values are made as dataclasses are, are never changed, and are what is in them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from segue.model.changes import AddColumn, Column, DropColumn
from segue.model.findings import Fix
from segue.model.values import replace

COLUMN = Column(name="day", type="date")
CHANGE = AddColumn(offset=3, table="orders", column=COLUMN)


def test_value_has_its_fields_and_those_of_its_parents_with_their_defaults() -> None:
    assert (CHANGE.offset, CHANGE.table, CHANGE.form, CHANGE.column.type) == (3, "orders", "", "date")
    assert (Fix(("a",)).statements, Fix(("a",), True).outside, Fix(("a",)).outside) == (("a",), True, False)


def test_values_are_equal_by_what_is_in_them() -> None:
    again = AddColumn(offset=3, table="orders", column=Column(name="day", type="date"))
    assert again == CHANGE
    assert len({again, CHANGE, pickle.loads(pickle.dumps(CHANGE))}) == 1
    assert replace(CHANGE, offset=4) != CHANGE
    assert DropColumn(offset=3, table="orders", column="day") != CHANGE


def test_replace_leaves_the_value_as_it_was() -> None:
    assert replace(CHANGE, table="lines").table == "lines"
    assert CHANGE.table == "orders"


@pytest.mark.parametrize("name", ["offset", "unknown"])
def test_value_is_not_changed(name: str) -> None:
    with pytest.raises(AttributeError, match=f"AddColumn.{name}"):
        setattr(CHANGE, name, 1)


@pytest.mark.parametrize("given", [{}, {"name": "a"}, {"name": "a", "type": "b", "kind": "c"}])
def test_missing_and_unknown_fields_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Column has the fields name, type"):
        Column(**given)


def test_too_many_fields_are_refused() -> None:
    make: Any = Fix
    with pytest.raises(TypeError, match="Fix has the fields"):
        make((), False, 1)
