"""Indexes of a shadow: several at a time, each once, cancelled when somebody wants to stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest
from fix_online import site_of
from fix_targets import Open, rows, run_sql, session, until, value
from psycopg import sql

from segue.databases.postgresql.online import shadow
from segue.databases.postgresql.online.blueprint import Blueprint, Index, Member
from segue.databases.postgresql.online.building import Builder
from segue.databases.postgresql.online.site import Site
from segue.model.online import ChangeSpec, TableChange
from segue.ports import Pace

NEW = "segue_abcdefgh_new"
SLOW = "CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 FROM (SELECT pg_sleep(60)) AS s'"


@dataclass
class Yard:
    """A shadow with rows and no index, and what was recorded as done."""

    url: str
    site: Site
    member: Member
    done: list[str] = field(default_factory=list)

    def builder(self, *, stop: Sequence[BaseException] = ()) -> Builder:
        def boundary() -> None:
            for error in stop:
                raise error

        return Builder(self.site, 2, Pace, boundary, self._ticking)

    @contextmanager
    def _ticking(self, connection: psycopg.Connection[tuple[object, ...]], what: str) -> Iterator[None]:
        with self.site.transaction(connection):
            yield
        self.done.append(what)

    def build(self, builder: Builder, *indexes: Index) -> None:
        builder.build(self.member, indexes or self.member.indexes, lambda what: what in self.done)

    def index(self, name: str, expression: str) -> Index:
        text = f"CREATE INDEX {name} ON {self.member.forward.into} ({expression})"
        return Index(name=name, sql=text, table=self.member.forward.into)

    def indexes(self) -> list[tuple[object, ...]]:
        return rows(self.url, f"SELECT indexname FROM pg_indexes WHERE schemaname = '{NEW}' ORDER BY 1")


@pytest.fixture
def yard(any_database: str, open_target: Open) -> Yard:
    run_sql(
        any_database,
        "CREATE TABLE items (id int PRIMARY KEY, n int UNIQUE, note text)",
        "CREATE INDEX items_note ON items (note)",
        "CREATE INDEX items_both ON items (note, n)",
        "INSERT INTO items SELECT g, g, 'x' FROM generate_series(1, 500) g",
        SLOW,
    )
    site = site_of(open_target(any_database))
    (member,) = shadow.draw_up(
        site, "abcdefgh", ChangeSpec((TableChange("items", ("ALTER n TYPE bigint",)),)), "shadow-table"
    )
    shadow.create(site, Blueprint(id="abcdefgh", strategy="shadow-table", members=(member,)))
    run_sql(any_database, f"INSERT INTO {member.forward.into} SELECT * FROM items")
    return Yard(any_database, site, member)


def test_every_index_is_built_and_recorded_once(yard: Yard) -> None:
    yard.build(yard.builder())
    names = ["items_both", "items_n_key", "items_note", "items_pkey"]
    assert yard.indexes() == [(name,) for name in names]
    assert sorted(yard.done) == ["built 1 " + name for name in names] + ["made 1 items_n_key", "made 1 items_pkey"]
    assert value(yard.url, f"SELECT count(*) FROM pg_constraint WHERE conrelid = '{NEW}.items'::regclass "
                           "AND contype IN ('p', 'u')") == 2  # fmt: skip
    before = list(yard.done)
    yard.build(yard.builder())
    assert yard.done == before


def test_one_that_was_killed_before_its_constraint_goes_on_with_it(yard: Yard) -> None:
    key = next(index for index in yard.member.indexes if index.primary)
    run_sql(yard.url, key.sql)
    yard.done.append("made 1 items_pkey")
    yard.build(yard.builder(), key)
    assert yard.done == ["made 1 items_pkey", "built 1 items_pkey"]


@pytest.mark.parametrize(
    ("at_once", "pace", "sessions"),
    [(2, Pace(), 2), (2, Pace(duty=0.5), 1), (2, Pace(watched=True), 1), (1, Pace(), 1)],
)
def test_as_many_are_built_at_a_time_as_the_application_leaves_room_for(
    yard: Yard, at_once: int, pace: Pace, sessions: int
) -> None:
    with session(yard.url, f"LOCK TABLE {NEW}.items IN ROW EXCLUSIVE MODE") as other:
        stop: list[BaseException] = []
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '^CREATE INDEX'"

        def seen() -> int:
            return int(value(yard.url, waiting))

        def boundary() -> None:
            if not stop and seen() >= sessions:
                assert seen() == sessions
                stop.append(StopIteration())
                other.rollback()

        builder = Builder(yard.site, at_once, lambda: pace, boundary, yard._ticking)
        yard.build(builder, yard.index("one", "n"), yard.index("two", "note"), yard.index("three", "id"))
    assert stop
    assert len(yard.done) == 3


def test_who_wants_to_stop_does_not_wait_for_the_end(yard: Yard) -> None:
    with pytest.raises(TimeoutError):
        yard.build(
            yard.builder(stop=[TimeoutError()]),
            yard.index("one", "public.slow(id)"),
            yard.index("two", "public.slow(id)"),
        )
    assert yard.indexes() == []
    until(lambda: value(yard.url, "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^CREATE INDEX' "
                                  "AND state = 'active' AND pid <> pg_backend_pid()") == 0)  # fmt: skip


def test_one_that_fails_ends_the_others(yard: Yard) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        yard.build(yard.builder(), yard.index("one", "public.slow(id)"), yard.index("two", "(1 / (n - 7))"))
    assert yard.indexes() == []
    assert yard.done == []


def test_what_runs_beside_ends_with_what_it_runs_beside(yard: Yard) -> None:
    slow = sql.SQL("SELECT pg_sleep(60)").format()
    with pytest.raises(KeyError), yard.builder().beside(slow):
        raise KeyError
    with yard.builder().beside(sql.SQL("VACUUM (ANALYZE) {}").format(yard.member.forward.into.sql)):
        pass
    assert value(yard.url, f"SELECT reltuples FROM pg_class WHERE oid = '{NEW}.items'::regclass") == 500
