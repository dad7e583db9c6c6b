"""The table of forms is what real servers do, every form of it, and cheap to read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fix_servers import MAJORS, binaries_of, shared_server
from measuring import FORMS, ORDER, forms, measure, world

from segue.databases.postgresql import forms as table
from segue.databases.postgresql.parse import statements
from segue.embedded import Cluster
from segue.model.impact import Duration, Lock

LENGTHS = (Duration.INSTANT, *ORDER)
WANTED = forms()
RECORDED: dict[str, dict[str, Any]] = json.loads((FORMS / "measured.json").read_text())


@pytest.fixture(scope="module", params=MAJORS)
def tried(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """Give a session in a world of each server that is here."""
    major: int = request.param
    shared = {15: "debian_server", table.NEWEST: "server"}.get(major)
    clusters: Iterator[Cluster] = (
        iter([request.getfixturevalue(shared)]) if shared else shared_server(binaries_of(major))
    )
    for cluster in clusters:
        with world(cluster) as connection:
            yield connection


def test_every_form_does_what_the_table_says(tried: psycopg.Connection) -> None:
    major = tried.info.server_version // 10000
    seen = {form.key: measure(tried, form) for form in WANTED}
    said = {key: _recorded(entry, major) for key, entry in RECORDED.items()}
    assert {key: facts for key, facts in seen.items() if facts != said.get(key)} == {}


def _recorded(entry: dict[str, Any], major: int) -> dict[str, Any]:
    for name, facts in entry.items():
        if name[0].isdigit() and int(name.split("-")[0]) <= major <= int(name.split("-")[1]):
            found: dict[str, Any] = facts
            return found
    raise AssertionError(f"nothing is recorded for PostgreSQL {major}")


def test_the_table_has_the_forms_of_the_files() -> None:
    assert [(form.key, form.words, form.sql) for form in WANTED] == [
        (form.key, form.words, form.example) for form in map(table.form, table.keys())
    ]


def test_some_server_knows_each_form() -> None:
    assert all(table.form(key).since in MAJORS for key in RECORDED)


def test_no_older_server_takes_more_than_the_newest() -> None:
    for key in RECORDED:
        newest = table.newest(key)
        for older in (facts for facts in table.form(key).facts.values() if not facts.error):
            assert (older.duration, older.alone) == (newest.duration, newest.alone), key
            assert all(lock.rank <= newest.lock(role).rank for role, lock in older.locks.items()), key


def test_prediction_is_no_milder_than_the_table() -> None:
    for form in WANTED:
        (predicted,) = statements(form.sql)
        facts = table.newest(form.key)
        assert predicted.transactional is not facts.alone, form.key
        assert predicted.lock.rank >= facts.lock().rank, form.key
        # What the text does not tell is said in a note; a single row takes no time worth speaking of.
        milder = LENGTHS.index(predicted.duration) < LENGTHS.index(facts.duration)
        assert not milder or predicted.notes or form.key in ("insert", "insert-foreign-key"), form.key


def test_facts_say_what_a_server_does_not_know() -> None:
    virtual = table.form("add-column-virtual")
    assert (virtual.on(17).error, virtual.since) == ("42601", 18)
    assert virtual.on(18).lock() is Lock.ACCESS_EXCLUSIVE
    assert virtual.on(18).duration is Duration.INSTANT


def test_a_newer_server_is_taken_for_the_newest_measured() -> None:
    assert table.form("add-check").on(25) == table.form("add-check").on(table.NEWEST)


def test_reading_the_table_imports_no_parser() -> None:
    command = (
        "import sys; from segue.databases.postgresql import forms; forms.form('add-check'); "
        "print(sorted({'yaml', 'postgast', 'psycopg', 'pydantic', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
