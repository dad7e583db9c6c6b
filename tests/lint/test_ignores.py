"""Comments silence a rule where they stand, until their day, and say so when they are for nothing."""

from __future__ import annotations

from datetime import date

import pytest

from segue.databases.postgresql import changes, forms
from segue.databases.postgresql.safe_forms import Forms
from segue.lint.rule import Facts, Wanted
from segue.lint.rules import rules
from segue.lint.running import run
from segue.lint.sources import source

INDEX = "create-index-not-concurrently"
STATEMENT = "CREATE INDEX i ON t (a);"


class PostgreSQL:
    """What the judge needs to know about SQL."""

    read = staticmethod(changes.read)
    comments = staticmethod(changes.comments)
    forms = Forms()

    def measured(self, form: str, version: int | None) -> Facts:
        return forms.form(form).on(version or forms.NEWEST)


def names(text: str, *asked: str) -> list[str]:
    """Return the rules of what is found in a text on a day in 2026, by the index rule or those asked."""
    chosen = [rules()[name] for name in asked or (INDEX,)]
    found = run([source("x.sql", text.encode())], chosen, set(rules()), PostgreSQL(), Wanted(), date(2026, 6, 1))
    return [item.rule for item in found.findings]


@pytest.mark.parametrize(
    "text",
    [
        f"-- segue: ignore {INDEX}\n{STATEMENT}",
        f"-- segue: ignore {INDEX}, alter-type-rewrite\n{STATEMENT}",
        f'-- segue: ignore {INDEX} until=2026-06-01 reason="a small table"\n{STATEMENT}',
        f"{STATEMENT} -- segue: ignore {INDEX}",
        f"CREATE INDEX i /* segue: ignore {INDEX} */ ON t (a);",
        f"{STATEMENT}\n-- segue: ignore-file {INDEX}",
        f"SELECT 'é';\n-- segue: ignore {INDEX}\n{STATEMENT}",
    ],
)
def test_ignore_silences_its_statement(text: str) -> None:
    assert names(text) == []


def test_ignore_is_for_one_statement() -> None:
    assert names(f"-- segue: ignore {INDEX}\n{STATEMENT}\n{STATEMENT}") == [INDEX]


def test_words_in_a_string_ignore_nothing() -> None:
    assert names(f"SELECT '\n-- segue: ignore {INDEX}\n';\n{STATEMENT}") == [INDEX]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"-- segue: ignore {INDEX} until=2026-05-31\n{STATEMENT}", ["expired-ignore", INDEX]),
        (f"-- segue: ignore {INDEX}\nSELECT 1;", ["unused-ignore"]),
        (f"-- segue: ignore {INDEX} until=soon\n{STATEMENT}", ["wrong-ignore", INDEX]),
        (f"-- segue: ignore no-such-rule\n{STATEMENT}", ["wrong-ignore", INDEX]),
        (f"-- segue: ignore\n{STATEMENT}", ["wrong-ignore", INDEX]),
        ("-- segue: ignore alter-type-rewrite\nSELECT 1;", []),
    ],
)
def test_what_an_ignore_does_not_do_is_said(text: str, wanted: list[str]) -> None:
    assert names(text) == wanted
