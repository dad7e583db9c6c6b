"""Statements are read into changes whose forms were measured, each at its place."""

from __future__ import annotations

import pytest

from segue.databases.postgresql import forms
from segue.databases.postgresql.changes import read
from segue.errors import SqlSyntaxError
from segue.model import changes as to


@pytest.mark.parametrize("key", forms.keys())
def test_every_form_is_read_into_changes_that_were_measured(key: str) -> None:
    (statement,) = read(forms.form(key).example)
    assert statement.changes
    assert {change.form for change in statement.changes} <= {"", *forms.keys()}


def test_places_count_characters() -> None:
    text = "/* é */ SELECT 'é';\n-- é\n  DROP TABLE a, b ; "
    first, second = read(text)
    assert (first.sql, first.offset) == ("SELECT 'é'", 8)
    assert (second.sql, second.offset) == ("DROP TABLE a, b", text.index("DROP"))


def test_parts_of_a_statement_are_changes_of_their_own() -> None:
    (statement,) = read("ALTER TABLE a ADD x int DEFAULT 1 REFERENCES b CHECK (x > 0), DROP y")
    assert [(type(change), change.form) for change in statement.changes] == [
        (to.AddColumn, "add-column-constant-default"),
        (to.AddConstraint, "add-column-references-default"),
        (to.AddConstraint, "add-column-check"),
        (to.DropColumn, "drop-column"),
    ]


@pytest.mark.parametrize(
    ("default", "filling"),
    [
        ("NULL", ""),
        ("'{}'::jsonb", "constant"),
        ("now()", "stable"),
        ("CURRENT_TIMESTAMP", "stable"),
        ("random() * 2", "volatile"),
        ("own()", "unknown"),
    ],
)
def test_default_says_where_its_values_come_from(default: str, filling: str) -> None:
    (change,) = read(f"ALTER TABLE a ADD x text DEFAULT {default}")[0].changes
    assert isinstance(change, to.AddColumn)
    assert change.column.filling == filling


def test_syntax_error_says_its_character() -> None:
    with pytest.raises(SqlSyntaxError) as caught:
        read("SELECT 'é'; CREATE TABEL x ()")
    assert caught.value.offset == 19
