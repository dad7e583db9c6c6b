"""Online changes assembled by hand on a real server: a table, its shadow, a log, and what goes on between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from segue.databases.postgresql.keys import KEYS
from segue.databases.postgresql.online import capture
from segue.databases.postgresql.online.blueprint import Flow, KeyColumn, Mapped, Place, Relation
from segue.databases.postgresql.online.copying import Copy
from segue.databases.postgresql.online.drain import Drainer, backlog, drain
from segue.databases.postgresql.online.site import Site
from segue.databases.postgresql.target import PostgresTarget
from segue.model.online import Drained
from segue.ports import EffectKey, Pace, Patience, Shared
from segue.rows.chunks import Remainder
from segue.rows.walk import Walk

if TYPE_CHECKING:
    # Loaded as a set of fixtures after this one; imported from here first, its assertions would not be rewritten.
    from fix_targets import Open

#: The id of every change that is assembled by hand; a test has a database of its own.
CHANGE = "tchange1"
PATIENCE = Patience(locks=10, work=60)

_COLUMNS = """
select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
from pg_catalog.pg_attribute as a
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attnum
"""


def site_of(target: PostgresTarget) -> Site:
    """Return where an online change works on a target, as `PostgresTarget.online` makes it."""
    return Site(target._work, target._look, target.lease, url=target._url, schema=target.schema, waits=target.waits)


@dataclass
class HandMade:
    """One member of a change, on its way forward unless said otherwise."""

    url: str
    target: PostgresTarget
    flow: Flow
    log: Place
    relations: tuple[Relation, ...]
    member: int = 1
    direction: str = "forward"
    indexed: bool = False
    notes: list[str] = field(default_factory=list)
    _drainer: Drainer | None = None

    def __post_init__(self) -> None:
        self.site = site_of(self.target)

    @property
    def into(self) -> str:
        """Return the destination's name as SQL writes it."""
        return str(self.flow.into)

    @property
    def source(self) -> str:
        """Return the source's name as SQL writes it."""
        return str(self.flow.source)

    def capture(self, *, enabled: bool = True) -> None:
        """Begin to log the keys that are touched."""
        capture.make_log(self.site, self.flow, self.log)
        capture.make_functions(self.site, self.flow, self.log)
        capture.install(
            self.site, self.relations, self.flow, self.log, CHANGE, PATIENCE, self.notes.append, enabled=enabled
        )

    def work(self, round_: int = 1) -> Copy:
        """Return the copy, begun or not."""
        key = EffectKey(self.site.lease.execution, "plan", "hash", f"step:{self.member}.{round_}", self.direction, 0)
        return Copy(self.site, key, self.flow, CHANGE, self.member, self.direction)

    def copy(
        self,
        *,
        size: int = 10,
        largest: int = 50_000,
        workers: int = 1,
        seconds: float = 0.3,
        pause: float = 0.0,
        boundary: Callable[[], None] = lambda: None,
        round_: int = 1,
    ) -> int:
        """Walk the copy to its end; return how many rows were copied now."""
        work = self.work(round_)
        walk = Walk(
            Shared(work, seconds, largest, pause),
            Remainder.of(work.progress(loose=True)),
            size=size,
            workers=workers,
            patience=30,
            boundary=boundary,
            pace=Pace,
            slots=lambda wanted: wanted,
            note=lambda batches: None,
        )
        walk.go()
        return walk.rows

    def index(self) -> None:
        """Give the destination a unique index over the walked key."""
        names = ", ".join('"' + column.into.replace('"', '""') + '"' for column in self.flow.key)
        run_sql(self.url, f"CREATE UNIQUE INDEX ON {self.into} ({names})")
        self.indexed = True

    @property
    def drainer(self) -> Drainer:
        """Return the drainer in the working session; the destination needs its key by then."""
        if self._drainer is None:
            self._drainer = Drainer(self.site.work, self.flow, self.log, CHANGE, self.member, self.direction)
        return self._drainer

    def drain(self, most: int | None = None, *, compare: bool = False, anew: bool = False) -> Drained:
        """Drain in a transaction of its own."""
        return drain(self.site, self.drainer, most, compare=compare, anew=anew)

    def settle(self) -> None:
        """Copy, index and drain until nothing is left."""
        self.copy()
        self.index()
        while self.drain(1000).left:
            pass
        self.drain()

    def left(self) -> int:
        """Return how many entries are in the log."""
        return backlog(self.site.look, self.log)

    def touched(self) -> list[tuple[Any, ...]]:
        """Return the logged keys, each once, in order."""
        names = ", ".join(f"segue_k{number}" for number, _ in enumerate(self.flow.key, 1))
        return rows(self.url, f"SELECT DISTINCT {names} FROM {self.log} ORDER BY {names}")

    def differences(self) -> list[tuple[Any, ...]]:
        """Return rows that one side has and the other has not, as text, as a psql user would look for them."""
        wanted = ", ".join(f"({column.expression}\n)::text" for column in self.flow.columns)
        found = ", ".join('"' + column.into.replace('"', '""') + '"::text' for column in self.flow.columns)
        mine = f"SELECT {wanted} FROM {self.source}"
        theirs = f"SELECT {found} FROM {self.into}"
        return rows(
            self.url,
            f"(SELECT 'missing', w.* FROM ({mine} EXCEPT ALL {theirs}) AS w) UNION ALL "
            f"(SELECT 'extra', w.* FROM ({theirs} EXCEPT ALL {mine}) AS w)",
        )

    def conflicts(self) -> list[tuple[Any, ...]]:
        """Return the keys and rules of the conflicts."""
        return rows(
            self.url,
            "SELECT key, sqlstate, rule FROM segue.conflict WHERE change = %s AND direction = %s ORDER BY key",
            CHANGE,
            self.direction,
        )


Assemble = Callable[..., HandMade]


def rows(url: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run a query in a session of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


def run_sql(url: str, *commands: str) -> None:
    """Run commands in a session of their own, each by itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        for command in commands:
            connection.execute(command.encode())


def prepare_change(target: PostgresTarget) -> None:
    """Make what Segue keeps of online changes, with the row of one change."""
    script = files("segue.databases.postgresql").joinpath("sql/online.sql").read_bytes()
    target._work.execute(script)
    target._work.execute(
        "insert into segue.change (id, execution, step, plan_hash, phase, strategy, blueprint, fence) "
        "values (%s, %s, 'step', 'hash', 'copying', 'shadow-table', '{}', %s) on conflict do nothing",
        [CHANGE, target.lease.execution, target.lease.fence],
    )


def flow_of(url: str, table: str, shadow: str, changed: dict[str, str] | None = None, kept: Sequence[str] = ()) -> Flow:
    """Return the flow from a table to another: columns of the same names, cast to the types of the destination.

    `changed`: expressions by column of the destination, where there is more to it.
    """
    source, into = place_of(url, table), place_of(url, shadow)
    names, types, collations, _ = rows_named(url, KEYS, str(source))
    have = [name for name, _ in rows(url, _COLUMNS, str(source))]
    gets = dict(rows(url, _COLUMNS, str(into)))
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in {*have, *gets}}
    return Flow(
        source=source,
        into=into,
        key=tuple(
            KeyColumn(name=name, type=kind, collation=collation, into=name, into_type=gets[name])
            for name, kind, collation in zip(names, types, collations, strict=True)
        ),
        columns=tuple(
            # Cast to a length a text would be cut off, which an assignment refuses.
            Mapped(
                into=name,
                type=kind,
                expression=f"({(changed or {}).get(name, quoted[name])})::"
                + ("text" if kind.startswith("character varying") else kind),
            )
            for name, kind in gets.items()
            if name not in kept and (name in have or name in (changed or {}))
        ),
        kept=tuple(kept),
    )


def rows_named(url: str, query: str, table: str) -> Any:
    """Return the first row of a query about a table."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode(), {"table": table}).fetchone()


def place_of(url: str, table: str) -> Place:
    """Return a table's schema and name; a name without a schema is in `public`."""
    row = rows_named(
        url,
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = %(table)s::regclass",
        table if "." in table else f"public.{table}",
    )
    return Place(schema_name=row[0], name=row[1])


def relations_of(url: str, place: Place) -> tuple[Relation, ...]:
    """Return a table and its partitions or children, as a blueprint has them."""
    found = rows(
        url,
        "WITH RECURSIVE family AS (SELECT %s::regclass::oid AS oid, false AS below UNION ALL "
        "SELECT i.inhrelid, true FROM pg_inherits i JOIN family f ON i.inhparent = f.oid) "
        "SELECT n.nspname, c.relname, c.relkind::text, f.below FROM family f JOIN pg_class c ON c.oid = f.oid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace",
        str(place),
    )
    return tuple(
        Relation(
            place=Place(schema_name=schema, name=name),
            goes_to=f"segue_{CHANGE}_old",
            kind=kind,
            leaf=below and kind == "r",
        )
        for schema, name, kind, below in found
    )


@pytest.fixture
def assemble(open_target: Open) -> Assemble:
    """Give a function that assembles a change of a table that is there: `shadow` is the definition of the new one."""
    targets: dict[str, PostgresTarget] = {}

    def make(
        url: str,
        table: str,
        shadow: str,
        *,
        changed: dict[str, str] | None = None,
        kept: Sequence[str] = (),
        member: int = 1,
        capture: bool = True,
    ) -> HandMade:
        if url not in targets:
            targets[url] = open_target(url)
            prepare_change(targets[url])
        schema = f"segue_{CHANGE}_new"
        run_sql(url, f"CREATE SCHEMA IF NOT EXISTS {schema}")
        source = place_of(url, table)
        into = Place(schema_name=schema, name=source.name)
        run_sql(url, f"CREATE TABLE {into} {shadow}")
        change = HandMade(
            url,
            targets[url],
            flow_of(url, str(source), str(into), changed, kept),
            Place(schema_name="segue", name=f"{CHANGE}_log_{member}_forward"),
            relations_of(url, source),
            member,
        )
        if capture:
            change.capture()
        return change

    return make


@contextmanager
def replica_role(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Open a session in which only triggers fire that are enabled for it too, as in replication."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection
