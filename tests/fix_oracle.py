"""Writers that keep a journal of what was acknowledged to them, and a judge that compares it with the table.

Each writer has keys of its own, so that whatever it reads back after a commit is what must be there until it writes
again. The journal is of the client's side: nothing of it is in the database.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
from psycopg import sql

Row = tuple[str | None, ...]
#: What a writer knows of a key: the row, or None once it is deleted.
Known = dict[int, Row | None]

#: Key columns by name: their definition, and their values as text for a number, as the server writes them.
KEYS: dict[str, tuple[tuple[str, ...], Callable[[int], tuple[str, ...]]]] = {
    "int": (("int",), lambda n: (str(n),)),
    "negative": (("bigint",), lambda n: (str(-n * 1_000_000_007),)),
    "text": (("text",), lambda n: (f"{'aBc-Z é'[n % 7]}{n}",)),
    "text C": (('text COLLATE "C"',), lambda n: (f"{'aBc-Z é'[n % 7]}{n}",)),
    "uuid": (("uuid",), lambda n: (f"{n * 2654435761 % (1 << 32):08x}-0000-4000-8000-{n:012x}",)),
    "moment": (("timestamptz",), lambda n: (_moment(n),)),
    "two": (("int", "text"), lambda n: (str(n % 7), f"k{n}")),
}


def _moment(number: int) -> str:
    """Return a moment as the server writes it, another one for each number."""
    hours, rest = divmod(number, 3600)
    day = f"{2000 + hours % 40}-01-{1 + hours // 40 % 28:02d}"
    assert hours < 40 * 28 * 24
    return f"{day} {hours // 1120 % 24:02d}:{rest // 60:02d}:{rest % 60:02d}+00"


@dataclass(frozen=True)
class Shape:
    """A table that is written to: its key, and one more column with the values that it takes, as text."""

    table: str = "t"
    key: str = "int"
    type: str = "numeric"
    values: tuple[str | None, ...] = ("1.5", None)
    rows: int = 300

    @property
    def keys(self) -> list[str]:
        """Return the names of the key's columns."""
        return [f"k{number}" for number, _ in enumerate(KEYS[self.key][0], 1)]

    @property
    def columns(self) -> list[str]:
        """Return the columns that are compared, the key first."""
        return [*self.keys, "code", "n", "note", "big", "v"]

    def make(self) -> list[str]:
        """Return statements that make the table."""
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(self.keys, KEYS[self.key][0], strict=True))
        return [
            f"CREATE TABLE {self.table} ({columns}, code text UNIQUE, n int, note text, big text, v {self.type}, "
            f"PRIMARY KEY ({', '.join(self.keys)}))",
            f"ALTER TABLE {self.table} ALTER big SET STORAGE EXTERNAL",
            f"CREATE INDEX ON {self.table} (n)",
        ]

    def key_of(self, number: int) -> tuple[str, ...]:
        """Return the key of a number."""
        return KEYS[self.key][1](number)


@dataclass
class Verdict:
    """What became of what was acknowledged: keys whose row is gone, is there although it should not, or is another."""

    rows: int
    lost: list[Any]
    extra: list[Any]
    wrong: list[Any]
    errors: list[str]

    @property
    def right(self) -> bool:
        """Return whether everything is as it was acknowledged, and nothing failed."""
        return not (self.lost or self.extra or self.wrong or self.errors)


@dataclass
class Oracle:
    """Eight writers on one table. `alike`: how values of a column are to be read before they are compared."""

    url: str
    shape: Shape
    writers: int = 8
    seed: int = 0
    pause: float = 0.004
    alike: dict[str, Callable[[str], Any]] = field(default_factory=dict)
    #: SQLSTATEs of errors that the application is told of beforehand, counted apart.
    announced: Sequence[str] = ()
    prepare_threshold: int | None = None

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self.errors: list[str] = []
        self.told: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._known: list[Known] = [{} for _ in range(self.writers)]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._gate = threading.Condition()
        self._inside = 0
        self._closed = False

    # -- before and after

    def fill(self) -> None:
        """Make the table with its first rows, and know them."""
        with self._connect() as connection:
            for statement in self.shape.make():
                connection.execute(statement.encode())
            names = sql.SQL(", ").join(map(sql.Identifier, self.shape.columns))
            copy = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(self.shape.table), names)
            with connection.cursor().copy(copy) as rows:
                for number in range(1, self.shape.rows + 1):
                    value = self.shape.values[number % len(self.shape.values)]
                    note = None if number % 3 == 0 else f"note {number}"
                    rows.write_row([*self.shape.key_of(number), f"c{number}", number, note, str(number) * 20, value])
            found = self._read(connection)
        for number in range(1, self.shape.rows + 1):
            self._known[number % self.writers][number] = found[self.shape.key_of(number)]

    @contextmanager
    def writing(self) -> Iterator[Oracle]:
        """Have the writers write beside the block."""
        self._stop.clear()
        self._threads = [
            threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(self.writers)
        ]
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def judge(self) -> Verdict:
        """Compare the table with what was acknowledged. To be asked when nobody writes."""
        with self._connect() as connection:
            there = self._read(connection)
        known = {self.shape.key_of(n): row for mine in self._known for n, row in mine.items()}
        must = {key: row for key, row in known.items() if row is not None}
        return Verdict(
            rows=len(must),
            lost=sorted(must.keys() - there.keys()),
            extra=sorted(there.keys() - must.keys()),
            wrong=sorted(key for key in must.keys() & there.keys() if not self._same(must[key], there[key])),
            errors=list(self.errors),
        )

    def truncate(self) -> None:
        """Empty the table at a moment when no writer is within a transaction."""
        with self._gate:
            self._closed = True
            self._gate.wait_for(lambda: self._inside == 0)
        try:
            with self._connect() as connection:
                connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(self.shape.table)))
            for mine in self._known:
                mine.update(dict.fromkeys(mine))
        finally:
            with self._gate:
                self._closed = False
                self._gate.notify_all()

    def _same(self, one: Row, other: Row) -> bool:
        return all(
            self._normal(n, a) == self._normal(n, b) for n, a, b in zip(self.shape.columns, one, other, strict=True)
        )

    def _normal(self, column: str, text: str | None) -> Any:
        return text if text is None or column not in self.alike else self.alike[column](text)

    def _read(self, connection: psycopg.Connection[Any]) -> dict[tuple[str, ...], Row]:
        rows = connection.execute(
            sql.SQL("SELECT {} FROM {}").format(self._texts(), sql.Identifier(self.shape.table))
        ).fetchall()
        size = len(self.shape.keys)
        found = {row[:size]: row for row in rows}
        if len(found) != len(rows):
            self.errors.append(f"{len(rows) - len(found)} keys are there twice")
        return found

    def _texts(self) -> sql.Composed:
        return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in self.shape.columns)

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(
            self.url, autocommit=True, prepare_threshold=self.prepare_threshold, application_name="writer"
        )
        connection.execute("SET TimeZone = 'UTC'; SET extra_float_digits = 1; SET DateStyle = 'ISO, YMD'")
        return connection

    # -- writing

    def _write(self, number: int) -> None:
        try:
            writer = Writer(self, number, self._connect())
            try:
                writer.go(self._stop)
            finally:
                writer.connection.close()
        except BaseException as error:
            self.errors.append(f"writer {number} died: {type(error).__name__}: {error}")

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with self._gate:
            self._gate.wait_for(lambda: not self._closed or self._stop.is_set())
            self._inside += 1
        try:
            yield
        finally:
            with self._gate:
                self._inside -= 1
                self._gate.notify_all()


class Writer:
    """One session of the application, with keys of its own."""

    def __init__(self, oracle: Oracle, number: int, connection: psycopg.Connection[Any]) -> None:
        self.oracle, self.number, self.connection = oracle, number, connection
        self.shape = oracle.shape
        self.known = oracle._known[number]
        self.random = random.Random(oracle.seed * 1000 + number)
        highest = max(self.known, default=number)
        self._next = count(highest + oracle.writers * 100, oracle.writers)
        self._todo: Known = {}
        table = sql.Identifier(self.shape.table)
        key = sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Identifier, self.shape.keys)))
        values = sql.SQL("({})").format(sql.SQL(", ").join(sql.Placeholder() for _ in self.shape.keys))
        self._parts = {"table": table, "key": key, "values": values, "row": oracle._texts()}
        row = connection.execute("SHOW max_prepared_transactions").fetchone()
        self._version = connection.info.server_version
        self.acts: list[tuple[str, Callable[[], None]]] = [
            ("update", self.update),
            ("update", self.update),
            ("null", self.null),
            ("delete", self.delete),
            ("insert", self.insert),
            ("upsert", self.upsert),
            ("move", self.move),
            ("swap", self.swap),
            ("savepoint", self.savepoint),
            *([("merge", self.merge)] if self._version >= 150000 else []),
        ]
        self.ends = ["commit"] * 7 + ["rollback", "async", *(["prepared"] if row and row[0] != "0" else [])]

    def go(self, stop: threading.Event) -> None:
        """Write until it is over."""
        while not stop.is_set() and len(self.oracle.errors) < 20:
            with self.oracle._entered():
                self.transaction()
            stop.wait(self.random.random() * self.oracle.pause)

    def transaction(self) -> None:
        """Do some acts in a transaction; know what they did once that is acknowledged."""
        self._todo = {}
        end = self.random.choice(self.ends)
        names = []
        try:
            self.connection.execute("BEGIN")
            if end == "async":
                self.connection.execute("SET LOCAL synchronous_commit = off")
            for _ in range(self.random.choice((1, 1, 2, 5))):
                name, act = self.random.choice(self.acts)
                names.append(name)
                act()
            if end == "rollback":
                self.connection.execute("ROLLBACK")
                self.oracle.done["rollback"] += 1
                return
            self._commit(end)
        except psycopg.Error as error:
            self._failed(error, names)
            return
        self.known.update(self._todo)
        self.oracle.done.update([*names, end])

    def _commit(self, end: str) -> None:
        if end != "prepared":
            self.connection.execute("COMMIT")
            return
        name = f"w{self.number}-{self.random.getrandbits(64)}"
        self.connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(name)))
        self.connection.execute(sql.SQL("COMMIT PREPARED {}").format(sql.Literal(name)))

    def _failed(self, error: psycopg.Error, names: list[str]) -> None:
        if not self.connection.closed:
            with suppress(psycopg.OperationalError):
                self.connection.execute("ROLLBACK")
        if not self.connection.closed and error.sqlstate in self.oracle.announced:
            self.oracle.told[error.sqlstate or ""] += 1
            return
        self.oracle.errors.append(f"{names}: {type(error).__name__}: {error}")
        if self.connection.closed:
            self._look()

    def _look(self) -> None:
        """See what became of a transaction whose acknowledgement was lost: all of it is there, or nothing."""
        for left in range(20, 0, -1):
            self.connection.close()
            try:
                self.connection = self.oracle._connect()
                there = self.oracle._read(self.connection)
                break
            except psycopg.OperationalError:
                if left == 1:
                    raise
                self.oracle._stop.wait(0.1)
        now = {number: there.get(self.shape.key_of(number)) for number in self._todo}
        if now == self._todo:
            self.known.update(self._todo)
        elif now != {number: self.known.get(number) for number in self._todo}:
            self.oracle.errors.append(f"half of a transaction is there: {now}")

    # -- acts

    def run(self, query: str, *parameters: Any) -> Row | None:
        """Run a statement that returns a row of the table, or none."""
        row: Row | None = self.connection.execute(sql.SQL(query).format(**self._parts), parameters).fetchone()
        return row

    def pick(self) -> int:
        """Return a key: one of a row that there is, most of the time."""
        seen = {**self.known, **self._todo}
        alive = [number for number, row in seen.items() if row is not None]
        if alive and self.random.random() < 0.9:
            return self.random.choice(alive)
        return self.random.choice(list(seen)) if seen else next(self._next)

    def value(self) -> str | None:
        """Return a value of the column that is drawn."""
        return self.random.choice(self.shape.values)

    def put(self, number: int, row: Row | None) -> None:
        """Know what a row is, once all is committed."""
        if row is not None:
            self._todo[number] = row

    def update(self) -> None:
        """Give a row other values."""
        number = self.pick()
        self.put(
            number,
            self.run(
                "UPDATE {table} SET n = coalesce(n, 0) + 1, note = coalesce(note, '') || 'x', v = %s "
                "WHERE {key} = {values} RETURNING {row}",
                self.value(),
                *self.shape.key_of(number),
            ),
        )

    def null(self) -> None:
        """Give a row NULLs."""
        number = self.pick()
        query = "UPDATE {table} SET note = NULL, v = NULL WHERE {key} = {values} RETURNING {row}"
        self.put(number, self.run(query, *self.shape.key_of(number)))

    def delete(self) -> None:
        """Delete a row."""
        number = self.pick()
        if self.run("DELETE FROM {table} WHERE {key} = {values} RETURNING {row}", *self.shape.key_of(number)):
            self._todo[number] = None

    def insert(self) -> None:
        """Insert a row with a value that is stored out of line."""
        self._insert(next(self._next), "", "z" * self.random.choice((10, 3000, 9000)))

    def upsert(self) -> None:
        """Insert a row, or write to the one that is there."""
        conflict = "ON CONFLICT {key} DO UPDATE SET n = -1, v = EXCLUDED.v"
        self._insert(self.pick(), conflict, "upserted")

    def _insert(self, number: int, conflict: str, big: str) -> None:
        names = ", ".join(self.shape.columns)
        places = ", ".join("%s" for _ in self.shape.columns)
        query = f"INSERT INTO {{table}} ({names}) VALUES ({places}) {conflict} RETURNING {{row}}"
        values = (f"c{number}-{self.random.getrandbits(40)}", number % 1000, None, big, self.value())
        self.put(number, self.run(query, *self.shape.key_of(number), *values))

    def move(self) -> None:
        """Give a row another key."""
        number, other = self.pick(), next(self._next)
        row = self.run(
            "UPDATE {table} SET {key} = ROW{values} WHERE {key} = {values} RETURNING {row}",
            *self.shape.key_of(other),
            *self.shape.key_of(number),
        )
        if row is not None:
            self._todo[number], self._todo[other] = None, row

    def swap(self) -> None:
        """Have two rows exchange a unique value."""
        one, other = self.pick(), self.pick()
        seen = {**self.known, **self._todo}
        if one == other or seen.get(one) is None or seen.get(other) is None:
            return
        place = self.shape.columns.index("code")
        codes = {number: (seen[number] or ())[place] for number in (one, other)}
        set_ = "UPDATE {table} SET code = %s WHERE {key} = {values} RETURNING {row}"
        self.run(set_, None, *self.shape.key_of(one))
        self.put(other, self.run(set_, codes[one], *self.shape.key_of(other)))
        self.put(one, self.run(set_, codes[other], *self.shape.key_of(one)))

    def savepoint(self) -> None:
        """Do something, take it back, and do something else."""
        before = dict(self._todo)
        self.connection.execute("SAVEPOINT here")
        self.update()
        self.delete()
        self.connection.execute("ROLLBACK TO SAVEPOINT here")
        self._todo = before
        self.insert()

    def merge(self) -> None:
        """Write to a row, or insert it, by MERGE, which says nothing of what it did."""
        number = self.pick()
        key = self.shape.key_of(number)
        same = " AND ".join(f"t.{name} = %s" for name in self.shape.keys)
        query = (
            f"MERGE INTO {{table}} AS t USING (SELECT 1) AS s ON {same} WHEN MATCHED THEN UPDATE SET n = 7 "
            f"WHEN NOT MATCHED THEN INSERT ({', '.join(self.shape.columns)}) VALUES "
            f"({', '.join('%s' for _ in key)}, NULL, 7, 'merged', NULL, NULL)"
        )
        self.connection.execute(sql.SQL(query).format(**self._parts), [*key, *key])
        self.put(number, self.run("SELECT {row} FROM {table} WHERE {key} = {values}", *self.shape.key_of(number)))
