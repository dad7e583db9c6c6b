"""Every sort of shape at once under writers, followers killed and connections cut: what is there is the journal."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from fix_targets import Background, rows, run_sql, until
from fix_unlike import PATIENCE, Reshaped

from segue.errors import SegueError
from segue.model.verifying import VerifySpec

Make = Callable[..., Reshaped]
Key = tuple[Any, ...]

# Merged, renamed, dropped, computed and retyped; some of the rows; partitions whose key is turned round.
SOURCE = """
    CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, amount numeric(12,2), old text DEFAULT 'kept');
    CREATE TABLE firms (id int PRIMARY KEY, title text UNIQUE, amount numeric(12,2));
    CREATE TABLE docs (tenant int, id int, body text, PRIMARY KEY (tenant, id));
    CREATE TABLE events (day int, id int, v text, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
    CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
"""
TARGET = """
    CREATE TABLE parties (
        kind text, id text, label text, cents bigint, shout text GENERATED ALWAYS AS (upper(label)) STORED,
        PRIMARY KEY (kind, id)
    );
    CREATE UNIQUE INDEX ON parties (label) WHERE kind = 'f';
    CREATE INDEX ON parties (cents);
    CREATE TABLE papers (id bigint, tenant smallint, body varchar(100), PRIMARY KEY (id, tenant));
    CREATE TABLE log (id bigint, day bigint, v text, PRIMARY KEY (id, day));
"""
SHAPE = """
tables:
  parties:
    - from: people
      columns: {kind: "'p'", id: "s.id::text", label: s.name, cents: "(s.amount * 100)::bigint"}
      drop: [old]
      reverse: {amount: "t.cents / 100.0"}
    - from: firms
      columns: {kind: "'f'", id: "s.id::text", label: s.title, cents: "(s.amount * 100)::bigint"}
      reverse: {amount: "t.cents / 100.0"}
  papers: {from: docs, where: "s.tenant < 3"}
  log: {from: events}
"""
#: Where each sort of entity stands on either side: the table, its key, and its value, as SQL over the neutral form.
PLACES: dict[str, dict[str, tuple[str, tuple[str, ...], str]]] = {
    "source": {
        "p": ("people", ("id",), "name"),
        "f": ("firms", ("id",), "title"),
        "d": ("docs", ("tenant", "id"), "body"),
        "e": ("events", ("day", "id"), "v"),
    },
    "target": {
        "p": ("parties", ("kind", "id"), "label"),
        "f": ("parties", ("kind", "id"), "label"),
        "d": ("papers", ("tenant", "id"), "body"),
        "e": ("log", ("day", "id"), "v"),
    },
}
EVERYTHING = {
    "source": "SELECT 'p' || id, name, amount FROM people UNION ALL SELECT 'f' || id, title, amount FROM firms"
    " UNION ALL SELECT 'd' || tenant || '/' || id, body, NULL FROM docs WHERE tenant < 3"
    " UNION ALL SELECT 'e' || day || '/' || id, v, NULL FROM events",
    "target": "SELECT kind || id, label, (cents / 100.0)::numeric(12,2) FROM parties"
    " UNION ALL SELECT 'd' || tenant || '/' || id, body, NULL FROM papers"
    " UNION ALL SELECT 'e' || day || '/' || id, v, NULL FROM log",
}


@dataclass
class Writer:
    """Writes entities of its own to whichever side is open, and keeps a journal of what was acknowledged."""

    move: Reshaped
    number: int
    seed: int
    live: str = "source"
    there: dict[str, str] = field(default_factory=dict)
    count: int = 0
    acknowledged: int = 0
    errors: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        chance = random.Random(self.seed * 10 + self.number)
        with (
            psycopg.connect(self.move.source, autocommit=True) as a,
            psycopg.connect(self.move.target, autocommit=True) as b,
        ):
            while not self.over.is_set():
                session, side = (b, "target") if self.live == "target" else (a, "source")
                changed = dict(self.there)
                undone = chance.random() < 0.1
                try:
                    with session.transaction(force_rollback=undone):
                        # As a trigger of a replication system, or a restore, would write.
                        role = "replica" if chance.random() < 0.15 else "origin"
                        session.execute(f"SET LOCAL session_replication_role = {role}".encode())
                        for _ in range(chance.choice([1, 1, 4])):
                            self._change(session, side, chance, changed)
                        with suppress(_Undo), session.transaction():
                            self._change(session, side, chance, dict(changed))
                            raise _Undo
                except psycopg.Error as error:
                    if error.diag.constraint_name != "segue_fence":
                        self.errors.append(f"{side}: {type(error).__name__}: {error}")
                    continue
                if not undone:
                    self.there = changed
                    self.acknowledged += 1
                self.over.wait(chance.random() * 0.01)

    def _change(self, session: Any, side: str, chance: random.Random, now: dict[str, str]) -> None:
        self.count += 1
        word = f"w{self.number}-{self.count}"
        sort = chance.choice("pfde")
        mine = [one for one in now if one.startswith(sort)]
        what = chance.choice(["insert", "insert", "update", "update", "delete", "key", "upsert", "again", "swap"])
        if what == "insert" or len(mine) < 4:
            number = self.number * 1_000_000 + self.count
            new = f"{sort}{chance.choice([1, 2])}/{number}" if sort in "de" else f"{sort}{number}"
            self._insert(session, side, new, word)
            now[new] = word
            return
        one = chance.choice(mine)
        table, _, value = PLACES[side][sort]
        where, key = _where(side, one)
        if what == "update":
            session.execute(f"UPDATE {table} SET {value} = %s WHERE {where}".encode(), [word, *key])
            now[one] = word
        elif what == "delete":
            session.execute(f"DELETE FROM {table} WHERE {where}".encode(), key)
            del now[one]
        elif what == "key":
            new = (f"{sort}{chance.choice([1, 2])}/" if sort in "de" else sort) + str(
                self.number * 1_000_000 + self.count
            )
            names = PLACES[side][sort][1]
            given = ", ".join(f"{name} = %s" for name in names)
            session.execute(f"UPDATE {table} SET {given} WHERE {where}".encode(), [*_where(side, new)[1], *key])
            now[new] = now.pop(one)
        elif what == "upsert":
            names = ", ".join(PLACES[side][sort][1])
            marks = ", ".join(["%s"] * (len(key) + 1))
            session.execute(
                f"INSERT INTO {table} ({names}, {value}) VALUES ({marks}) "
                f"ON CONFLICT ({names}) DO UPDATE SET {value} = excluded.{value}".encode(),
                [*key, word],
            )
            now[one] = word
        elif what == "again":
            session.execute(f"DELETE FROM {table} WHERE {where}".encode(), key)
            self._insert(session, side, one, word)
            now[one] = word
        else:
            # A unique value moves from one row to the other.
            other = chance.choice([name for name in mine if name != one])
            (first, key_1), (second, key_2) = _where(side, one), _where(side, other)
            session.execute(f"UPDATE {table} SET {value} = %s WHERE {first}".encode(), [word, *key_1])
            session.execute(f"UPDATE {table} SET {value} = %s WHERE {second}".encode(), [now[one], *key_2])
            session.execute(f"UPDATE {table} SET {value} = %s WHERE {first}".encode(), [now[other], *key_1])
            now[one], now[other] = now[other], now[one]

    def _insert(self, session: Any, side: str, one: str, word: str) -> None:
        table, names, value = PLACES[side][one[0]]
        amount = {"source": ", amount", "target": ", cents"}[side] if one[0] in "pf" else ""
        given: list[Any] = [*_where(side, one)[1], word]
        given += [12.5 if side == "source" else 1250] if amount else []
        session.execute(
            f"INSERT INTO {table} ({', '.join(names)}, {value}{amount}) "
            f"VALUES ({', '.join(['%s'] * len(given))})".encode(),
            given,
        )


class _Undo(Exception):
    """A savepoint that is rolled back."""


def _where(side: str, one: str) -> tuple[str, Key]:
    """Return the condition on an entity's key, and the key."""
    _, names, _ = PLACES[side][one[0]]
    rest = one[1:].split("/")
    key: Key = (one[0], rest[0]) if side == "target" and one[0] in "pf" else tuple(int(part) for part in rest)
    return " AND ".join(f"{name} = %s" for name in names), key


@contextmanager
def disturbed(move: Reshaped, seed: int) -> Iterator[None]:
    """Have followers that are killed by and by, and Segue's sessions ended."""
    chance = random.Random(seed)
    over = threading.Event()
    words = (
        "import sys; from segue.databases.postgresql.reshaping.mover import ReshapingMover;"
        "from segue.model.shapes import Shape; from segue.ports import Patience;"
        "ReshapingMover('shop', *sys.argv[1:3], Shape.model_validate_json(sys.argv[3]))"
        ".follow(once=False, patience=Patience(60, 60), note=print)"
    )
    arguments = [sys.executable, "-c", words, move.source, move.target, move.shape.model_dump_json()]

    def disturb() -> None:
        while not over.is_set():
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            over.wait(1.0 + chance.random())
            for url in (move.source, move.target):
                if chance.random() < 0.5:
                    run_sql(
                        url,
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
                        "'segue move shop' AND datname = current_database() AND random() < 0.5",
                    )
            over.wait(chance.random())
            process.kill()
            process.wait()

    thread = Background(disturb)
    try:
        yield
    finally:
        over.set()
        thread.result()


def turn(move: Reshaped, to: str) -> None:
    """Switch as `segue move switch` does, as often as it takes: connections are cut meanwhile."""

    def tried() -> bool:
        try:
            if move.mover.look().open is None:
                move.mover.recover(finish=True, note=move.notes.append)
            if move.mover.look().open != to:
                move.turn(to)
        except SegueError as error:
            move.notes.append(error.message)
            return False
        return move.mover.look().open == to

    until(tried, 120)
    move.open = to


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4, 5))])
def test_the_journal_is_what_is_there_after_kills_cuts_and_turns(reshape: Make, seed: int) -> None:
    move = reshape(SOURCE, TARGET, SHAPE)
    writers = [Writer(move, number, seed) for number in range(1, 4)]
    threads = [Background(writer.run) for writer in writers]

    def written(more: int) -> None:
        mark = sum(writer.acknowledged for writer in writers)
        until(lambda: sum(writer.acknowledged for writer in writers) > mark + more, 120)

    try:
        written(100)
        move.start()
        with disturbed(move, seed):
            for to in ("target", "source", "target"):
                written(100)
                turn(move, to)
                for writer in writers:
                    writer.live = to
            # What stays in the source is the application's the whole time.
            run_sql(
                move.source, "INSERT INTO docs VALUES (3, 1, 'stays')", "UPDATE docs SET body = 'x' WHERE tenant = 3"
            )
            written(100)
    finally:
        for writer in writers:
            writer.over.set()
        for thread in threads:
            thread.result()
    move.level()
    assert [error for writer in writers for error in writer.errors] == []
    journal = {one: word for writer in writers for one, word in writer.there.items()}
    for side in ("target", "source"):
        found = rows(move.url(side), EVERYTHING[side])
        assert {one: word for one, word, _ in found} == journal
        assert len(found) == len(journal)
    assert sorted(rows(move.source, EVERYTHING["source"]), key=str) == sorted(
        rows(move.target, EVERYTHING["target"]), key=str
    )
    assert rows(move.source, "SELECT body FROM docs WHERE tenant = 3") == [("x",)]
    assert all(one.equal for one in move.mover.verify(VerifySpec(), move.notes.append))
    move.mover.complete(PATIENCE, move.notes.append)
    assert move.remains() == []
