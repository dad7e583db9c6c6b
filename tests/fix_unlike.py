"""Two databases whose tables differ in shape, a shape file between them, and traffic with a journal on either side."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from fix_targets import Background, rows, run_sql

from segue.databases.postgresql.reshaping.mover import ReshapingMover
from segue.model.shapes import Shape
from segue.planning import shapefile
from segue.ports import Patience

PATIENCE = Patience(20, 20)

#: A table that is renamed, retyped and split into two, and one of which some rows move.
SOURCE = """
    CREATE TABLE countries (id integer PRIMARY KEY, code text NOT NULL);
    INSERT INTO countries VALUES (1, 'DE'), (2, 'FR'), (3, 'JP');
    CREATE TABLE users (
        id serial PRIMARY KEY, first text NOT NULL, last text NOT NULL, email text UNIQUE, born text, bio text,
        country_id integer REFERENCES countries, legacy_flag boolean NOT NULL DEFAULT false
    );
    CREATE TABLE notes (tenant integer NOT NULL, id integer NOT NULL, body text, PRIMARY KEY (tenant, id));
    INSERT INTO users (first, last, email, born, bio, country_id, legacy_flag)
        SELECT 'f' || g, 'l' || g, 'm' || g, '2000-01-01', CASE WHEN g % 3 = 0 THEN repeat('b', 3000) END,
            nullif(g % 4, 0), g % 2 = 0 FROM generate_series(1, 300) AS g;
    INSERT INTO notes SELECT 1 + g % 3, g, 'n' || g FROM generate_series(1, 90) AS g;
"""
TARGET = """
    CREATE TYPE mood AS ENUM ('calm', 'loud');
    CREATE TABLE customers (
        customer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, full_name text NOT NULL, email varchar(200) UNIQUE,
        born date, country_code char(2), created_at timestamptz NOT NULL DEFAULT now(),
        shout text GENERATED ALWAYS AS (upper(full_name)) STORED
    );
    CREATE TABLE profiles (id text PRIMARY KEY, bio text, mood mood NOT NULL);
    CREATE TABLE memos (tenant bigint, id bigint, body text, PRIMARY KEY (id, tenant));
"""
SHAPE = """
tables:
  customers:
    from: users
    columns:
      customer_id: s.id
      full_name: "s.first || ' ' || s.last"
      born: s.born::date
      country_code: c.code
    drop: [legacy_flag]
    lookup: {c: {table: countries, on: c.id = s.country_id}}
    reverse:
      first: split_part(t.full_name, ' ', 1)
      last: split_part(t.full_name, ' ', 2)
      born: t.born::text
      country_id: "case t.country_code when 'DE' then 1 when 'FR' then 2 when 'JP' then 3 end"
  profiles:
    from: users
    columns:
      id: s.id::text
      mood: "case when s.legacy_flag then 'loud' else 'calm' end"
    reverse: {legacy_flag: t.mood = 'loud'}
  memos:
    from: notes
    where: s.tenant in (1, 2)
"""
#: The rows of either side in the shape of the target.
QUERIES = {
    "source": {
        "customers": "SELECT u.id::bigint, first || ' ' || last, email, born::date::text, c.code FROM users u "
        "LEFT JOIN countries c ON c.id = country_id ORDER BY 1",
        "profiles": "SELECT u.id::text, bio, CASE WHEN legacy_flag THEN 'loud' ELSE 'calm' END FROM users u "
        "ORDER BY u.id",
        "memos": "SELECT tenant, id, body FROM notes WHERE tenant IN (1, 2) ORDER BY 1, 2",
    },
    "target": {
        "customers": "SELECT customer_id, full_name, email, born::text, country_code FROM customers ORDER BY 1",
        "profiles": "SELECT id, bio, mood::text FROM profiles ORDER BY id::bigint",
        "memos": "SELECT tenant, id, body FROM memos ORDER BY 1, 2",
    },
}


@dataclass
class Reshaped:
    """A move between two shapes."""

    source: str
    target: str
    mover: ReshapingMover
    shape: Shape
    notes: list[str] = field(default_factory=list)
    open: str = "source"

    def start(self, workers: int = 2) -> dict[str, int]:
        return self.mover.start((), workers=workers, patience=PATIENCE, note=self.notes.append).tables

    def turn(self, to: str, **settings: Any) -> None:
        settings = {"budget": 10.0, "margin": 100, "patience": PATIENCE, "note": self.notes.append, **settings}
        self.mover.turn(to, **settings)
        self.open = to

    def level(self) -> int:
        """Carry over until nothing is left."""
        return self.mover.follow(once=True, patience=PATIENCE, note=self.notes.append)

    def url(self, side: str) -> str:
        return self.source if side == "source" else self.target

    def content(self, side: str) -> dict[str, list[tuple[Any, ...]]]:
        """Return a side's rows in the shape of the target."""
        return {name: rows(self.url(side), query) for name, query in QUERIES[side].items()}

    def remains(self) -> list[tuple[Any, ...]]:
        """Return what there is of the move on both sides."""
        query = """
            SELECT 'schema', nspname::text FROM pg_namespace WHERE nspname LIKE 'segue%'
            UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT 'sequence', relname FROM pg_sequence JOIN pg_class ON oid = seqrelid
                WHERE seqmax NOT IN (9223372036854775807, 2147483647)
        """
        return [row for side in ("source", "target") for row in rows(self.url(side), query)]

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow beside the block."""
        over = threading.Event()
        thread = Background(
            lambda: self.mover.follow(once=False, patience=PATIENCE, note=self.notes.append, stop=over.is_set)
        )
        try:
            yield
        finally:
            over.set()
            thread.result()


@pytest.fixture
def reshape(new_database: Callable[[], str]) -> Callable[..., Reshaped]:
    """Give a function that makes two databases and a move between them, by their tables and a shape file."""

    def make(source: str = SOURCE, target: str = TARGET, shape: str = SHAPE) -> Reshaped:
        urls = new_database(), new_database()
        run_sql(urls[0], source)
        run_sql(urls[1], target)
        found = shapefile.read(shape, file="shape.yaml")
        return Reshaped(*urls, ReshapingMover("shop", *urls, found), found)

    return make


@dataclass
class Seen:
    """What traffic has seen: people as acknowledged, by id; errors other than the fence's."""

    live: str
    people: list[dict[int, tuple[str, str | None, str | None] | None]]
    acknowledged: int = 0
    fenced: int = 0
    errors: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def wanted(self) -> dict[int, tuple[str, str | None, str | None]]:
        """Return name, mail and words of everybody who was touched and must be there."""
        return {k: v for one in self.people for k, v in one.items() if v is not None}

    def gone(self) -> set[int]:
        """Return who must not be there."""
        return {k for one in self.people for k, v in one.items() if v is None}


@contextmanager
def people_traffic(move: Reshaped, seed: int, writers: int = 4) -> Iterator[Seen]:
    """Have writers, each with people of its own, write to whichever side is live, in that side's shape."""
    seen = Seen(move.open, [{} for _ in range(writers)])
    threads = [Background(lambda w=w: _write(move, seen, w, writers, seed)) for w in range(writers)]
    try:
        yield seen
    finally:
        seen.over.set()
        for thread in threads:
            thread.result()


def _write(move: Reshaped, seen: Seen, number: int, writers: int, seed: int) -> None:
    chance = random.Random(seed * 100 + number)
    own = seen.people[number]
    ids = [g for g in range(1, 301) if g % writers == number]
    with psycopg.connect(move.source, autocommit=True) as a, psycopg.connect(move.target, autocommit=True) as b:
        while not seen.over.is_set():
            there = seen.live == "target"
            session = b if there else a
            changed: dict[int, tuple[str, str | None, str | None] | None] = {}
            undone = chance.random() < 0.1
            try:
                with session.transaction(force_rollback=undone):
                    for _ in range(chance.choice([1, 1, 3])):
                        _change(session, chance, ids, changed, there=there)
            except psycopg.Error as error:
                if error.diag.constraint_name == "segue_fence":
                    seen.fenced += 1
                else:
                    seen.errors.append(f"{type(error).__name__}: {error}")
                continue
            if not undone:
                own.update(changed)
                ids = [g for g in {*ids, *changed} if own.get(g, ("", "", "")) is not None]
                seen.acknowledged += 1
            seen.over.wait(chance.random() * 0.01)


def _change(
    session: psycopg.Connection[Any],
    chance: random.Random,
    ids: list[int],
    changed: dict[int, tuple[str, str | None, str | None] | None],
    *,
    there: bool,
) -> None:
    def one(query: str, *parameters: Any) -> tuple[Any, ...]:
        found = session.execute(query.encode(), parameters).fetchone()
        assert found is not None, f"own row not there: {query} {parameters}"
        return found

    word = f"x{chance.randrange(10**9)}"
    what = chance.choice(["insert", "update", "update", "delete", "swap"])
    mine = [g for g in ids if g not in changed]
    if what == "insert" and there:
        key = one("INSERT INTO customers (full_name, email) VALUES (%s, %s) RETURNING customer_id", f"{word} y", word)[
            0
        ]
        session.execute("INSERT INTO profiles VALUES (%s, %s, 'calm')", [str(key), word])
        changed[key] = (f"{word} y", word, word)
    elif what == "insert":
        query = "INSERT INTO users (first, last, email, bio) VALUES (%s, 'y', %s, %s) RETURNING id"
        changed[one(query, word, word, word)[0]] = (f"{word} y", word, word)
    elif len(mine) < 10:
        return
    elif what == "update":
        key = chance.choice(mine)
        if there:
            mail = one("UPDATE customers SET full_name = %s WHERE customer_id = %s RETURNING email", f"{word} z", key)[
                0
            ]
            session.execute("UPDATE profiles SET bio = %s WHERE id = %s", [word, str(key)])
        else:
            query = "UPDATE users SET first = %s, last = 'z', bio = %s WHERE id = %s RETURNING email"
            mail = one(query, word, word, key)[0]
        changed[key] = (f"{word} z", mail, word)
    elif what == "delete":
        key = chance.choice(mine)
        if there:
            session.execute("DELETE FROM profiles WHERE id = %s", [str(key)])
            one("DELETE FROM customers WHERE customer_id = %s RETURNING 1", key)
        else:
            one("DELETE FROM users WHERE id = %s RETURNING 1", key)
        changed[key] = None
    else:
        # A unique value moves from one row to the other.
        keys = chance.sample(mine, 2)
        table, name = ("customers", "customer_id") if there else ("users", "id")
        whole = "full_name" if there else "first || ' ' || last"
        bio = "(SELECT bio FROM profiles p WHERE p.id = customer_id::text)" if there else "bio"
        mails = [one(f"SELECT email FROM {table} WHERE {name} = %s FOR UPDATE", key)[0] for key in keys]
        session.execute(f"UPDATE {table} SET email = NULL WHERE {name} = %s".encode(), [keys[0]])
        for key, mail in ((keys[1], mails[0]), (keys[0], mails[1])):
            query = f"UPDATE {table} SET email = %s WHERE {name} = %s RETURNING {whole}, email, {bio}"
            changed[key] = one(query, mail, key)  # type: ignore[assignment]
