"""What a move keeps in each of its two databases: which side is open, what is moved, and markers to follow it by."""

from __future__ import annotations

import re
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import sql

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.errors import Blocked, Busy, CannotTell, ConfigurationError, DriftFound, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Connection = psycopg.Connection[tuple[Any, ...]]

Name = Literal["source", "target"]

#: Both servers from this version on leave out of the way back what came by the way there.
BOTH_WAYS = 16

_REFERRING = """
select k.conrelid::regclass::text, pg_catalog.quote_ident(k.conname)
from pg_catalog.pg_constraint as k
where k.contype = 'f' and k.conparentid = 0 and k.confrelid = any(%s::regclass[]) and k.conrelid <> all(%s::regclass[])
order by 1, 2
"""

_STATE = "select open, epoch, both_ways from {}.state"


@dataclass(frozen=True, slots=True)
class Side:
    """One of a move's two databases. `reach`: how the other side's server connects to it; None: as we do."""

    name: Name
    url: str
    reach: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A move, by its id (lower-case letters and digits), and its two databases."""

    id: str
    source: Side
    target: Side

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]{1,16}", self.id):
            raise InvalidInput(f'"{self.id}" cannot name a move', hint="use at most 16 lower-case letters and digits")

    @property
    def name(self) -> str:
        """Return what the schema, the publications and the triggers of this move are called."""
        return f"segue_move_{self.id}"

    def channel(self, publisher: Side) -> str:
        """Return what the slot on one side, and the subscription to it on the other, are called."""
        return f"{self.name}_{publisher.name}"

    def other(self, side: Side) -> Side:
        """Return the side opposite."""
        return self.target if side.name == "source" else self.source

    def open(self, side: Side) -> Connection:
        """Open a session on one side; whoever opens it closes it."""
        return open_session(side.url, application=f"segue move {self.id}")


@dataclass(frozen=True, slots=True)
class State:
    """Whether the application may write on a side, since which switch (a number that only grows)."""

    open: bool
    epoch: int
    #: Whether both directions are followed all the time.
    both_ways: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A moved table or one of its partitions; `name` as SQL writes it, `root` the number of the table it is of."""

    root: int
    name: str
    partition: bool
    key: bool
    identity: str
    persistence: str
    signature: str


@dataclass(frozen=True, slots=True)
class SequenceLimits:
    """A sequence of the moved tables as it is, and with the limits it had when the move began."""

    name: str
    increment: int
    minimum: int
    maximum: int
    cycle: bool
    start: int


def new_id() -> str:
    """Return an id for a new move."""
    return secrets.token_hex(4)


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except psycopg.Error as error:
        raise explain(error, where) from error


def where(pair: Pair, side: Side) -> str:
    """Name a side for people."""
    return f"the {side.name} {place(side.url)} of move {pair.id}"


def identity(connection: Connection) -> str:
    """Return what tells a database from every other one."""
    row = connection.execute(
        "select s.system_identifier || '/' || d.oid from pg_catalog.pg_control_system() as s, "
        "pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()"
    ).fetchone()
    return str(row[0]) if row else ""


def cluster(connection: Connection) -> int:
    """Return the number by which a server's data is known, whichever of its databases is asked."""
    row = connection.execute("select system_identifier from pg_catalog.pg_control_system()").fetchone()
    return int(row[0]) if row else 0


def check_other(pair: Pair, side: Side, connection: Connection, other: str) -> None:
    """Raise Blocked where a side has a move of this name with another database."""
    if state(pair, connection) is None:
        return
    query = sql.SQL("select other from {}.state").format(sql.Identifier(pair.name))
    row = connection.execute(query).fetchone()
    if row is not None and row[0] != other:
        raise Blocked(
            f"{where(pair, side)} has a move of this name with another database",
            hint="give this one another name, or end that one with `segue move cancel`",
        )


def install(
    pair: Pair, side: Side, connection: Connection, tables: Sequence[str], *, both_ways: bool, other: str
) -> None:
    """Make a side's tables of the move, the source's open and the target's closed; nothing where they are there.

    Raises NotFound and InvalidInput for tables that cannot be followed: publishing those would make the application's
    updates fail.
    """
    if state(pair, connection) is not None:
        return
    script = files("segue.databases.postgresql").joinpath("sql/moving.sql").read_text(encoding="utf-8")
    schema = sql.Identifier(pair.name)
    with connection.transaction():
        names = [qualified(connection, table) for table in tables]
        found = relations(connection, names)
        refuse(found)
        connection.execute(sql.SQL(script).format(schema=schema))
        connection.execute(
            sql.SQL("insert into {}.state (open, epoch, both_ways, other) values (%s, 0, %s, %s)").format(schema),
            [side.name == "source", both_ways, other],
        )
        for number, name in enumerate(names):
            connection.execute(
                sql.SQL("insert into {}.member (number, name, signature) values (%s, %s, %s)").format(schema),
                [number, name, _signature(found, number)],
            )
        connection.execute(
            sql.SQL(
                "insert into {}.sequence (name, increment, minimum, maximum, cycle, start) "
                "select * from unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::boolean[], "
                "%s::bigint[])"
            ).format(schema),
            [
                list(column)
                for column in zip(
                    *(
                        (s.name, s.increment, s.minimum, s.maximum, s.cycle, s.start)
                        for s in sequences_of(connection, names)
                    ),
                    strict=True,
                )
            ]
            or [[]] * 6,
        )


def qualified(connection: Connection, table: str) -> str:
    """Return a table's name with its schema, as SQL writes it; raises NotFound."""
    row = connection.execute(
        "select pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relkind in ('r', 'p') "
        "from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace "
        "where c.oid = pg_catalog.to_regclass(%s)",
        [table],
    ).fetchone()
    if row is None or not row[1]:
        raise NotFound(f"{table} is not there, or is no table", hint="name the tables as SQL does, with their schema")
    return str(row[0])


def refuse(found: Sequence[Relation]) -> None:
    """Raise InvalidInput for relations that logical replication cannot follow, or not without a scan for each row."""
    wrong = []
    for relation in found:
        if not relation.key:
            wrong.append(f"{relation.name} has no primary key, or a deferrable one")
        elif relation.identity not in ("d", "i"):
            wrong.append(f"{relation.name} has REPLICA IDENTITY {'FULL' if relation.identity == 'f' else 'NOTHING'}")
        elif relation.persistence != "p":
            wrong.append(f"{relation.name} is not logged")
    if wrong:
        raise InvalidInput(
            "not every table can be followed",
            details=wrong,
            hint="once published, updates of such a table would fail or scan: give it a plain primary key, "
            "REPLICA IDENTITY DEFAULT and SET LOGGED",
        )


def state(pair: Pair, connection: Connection) -> State | None:
    """Return how a side stands, None where the move has nothing there."""
    row = connection.execute("select pg_catalog.to_regclass(%s) is not null", [f"{pair.name}.state"]).fetchone()
    if row is None or not row[0]:
        return None
    found = connection.execute(sql.SQL(_STATE).format(sql.Identifier(pair.name))).fetchone()
    return State(*found) if found else None


def known_state(pair: Pair, side: Side, connection: Connection) -> State:
    """Return how a side stands; raises NotFound where the move has nothing there."""
    found = state(pair, connection)
    if found is None:
        raise NotFound(f"move {pair.id} has nothing in {where(pair, side)}", hint="was it completed or cancelled?")
    return found


def standing(pair: Pair, a: State, b: State) -> Side | None:
    """Return the open side, from how source and target stand; None when both are closed. Raises CannotTell."""
    if a.open and b.open:
        raise CannotTell(
            f"both sides of move {pair.id} are open, which Segue never writes",
            hint=f'somebody changed "{pair.name}".state; close one side by hand after comparing the tables',
        )
    return pair.source if a.open else pair.target if b.open else None


def members(pair: Pair, connection: Connection) -> list[str]:
    """Return the moved tables, as SQL writes them."""
    query = sql.SQL("select name from {}.member order by number").format(sql.Identifier(pair.name))
    return [str(row[0]) for row in connection.execute(query).fetchall()]


def sequences(pair: Pair, connection: Connection) -> list[SequenceLimits]:
    """Return the sequences of the moved tables, with the limits that they had when the move began."""
    query = sql.SQL("select name, increment, minimum, maximum, cycle, start from {}.sequence order by name")
    return [SequenceLimits(*row) for row in connection.execute(query.format(sql.Identifier(pair.name))).fetchall()]


def check_drift(pair: Pair, side: Side, connection: Connection) -> None:
    """Raise DriftFound if a moved table has another shape than when the move began, or is not published any more."""
    names = members(pair, connection)
    found = relations(connection, names)
    kept = connection.execute(
        sql.SQL("select number, name, signature from {}.member order by number").format(sql.Identifier(pair.name))
    ).fetchall()
    published = {
        row[0]
        for row in connection.execute(
            "select pg_catalog.format('%%I.%%I', n.nspname, c.relname) from pg_catalog.pg_publication as p "
            "join pg_catalog.pg_publication_rel as r on r.prpubid = p.oid "
            "join pg_catalog.pg_class as c on c.oid = r.prrelid "
            "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where p.pubname = %s",
            [pair.name],
        ).fetchall()
    }
    changed = [name for number, name, signature in kept if _signature(found, number) != signature]
    missing = [name for _, name, _ in kept if published and name not in published]
    if changed or missing:
        raise DriftFound(
            f"{len(changed) + len(missing)} tables of move {pair.id} have changed on {where(pair, side)}",
            details=[f"{name} has another definition than when the move began" for name in changed]
            + [f"{name} is not published any more" for name in missing],
            hint="take the change back (DDL is not followed), or `segue move cancel` and begin again",
        )


def check_referenced(pair: Pair, side: Side, connection: Connection) -> None:
    """Raise Blocked where a table that stays refers to one that moves.

    On the side that closes such a key would look at a copy that is a moment behind: the application's INSERT of a row
    that refers to a new one would fail. And what the copy loses by following, the key's CASCADE would not see.
    """
    found = referring(connection, [relation.name for relation in relations(connection, members(pair, connection))])
    if found:
        raise Blocked(
            f"{len(found)} foreign keys of tables that stay on {where(pair, side)} refer to tables that move",
            details=[f"alter table {table} drop constraint {name};" for table, name in found],
            hint="once the tables are apart no server can enforce them: drop them first, as above; `segue move probe` "
            "looks whether they still hold",
        )


def referring(connection: Connection, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the foreign keys of other tables that refer to these: table and constraint, as SQL writes them."""
    return [(row[0], row[1]) for row in connection.execute(_REFERRING, [list(names), list(names)]).fetchall()]


def _signature(found: Sequence[Relation], number: int) -> str:
    return "\n".join(sorted(f"{r.name} {r.signature}" for r in found if r.root == number))


def relations(connection: Connection, names: Sequence[str]) -> list[Relation]:
    """Return tables and all their partitions and heirs; missing ones are left out."""
    query = files("segue.databases.postgresql").joinpath("sql/moving_relations.sql").read_bytes()
    return [Relation(*row) for row in connection.execute(query, {"names": list(names)}).fetchall()]


def sequences_of(connection: Connection, names: Sequence[str]) -> list[SequenceLimits]:
    """Return the sequences that tables use, as they are."""
    query = files("segue.databases.postgresql").joinpath("sql/moving_sequences.sql").read_bytes()
    return [SequenceLimits(*row) for row in connection.execute(query, {"names": list(names)}).fetchall()]


def alone(pair: Pair, connection: Connection) -> None:
    """Take a side for as long as the session lasts; raises Busy while another process works on this move."""
    row = connection.execute(
        "select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(%s, 0))", [pair.name]
    ).fetchone()
    if row is None or not row[0]:
        raise Busy(f"another process works on move {pair.id}", hint="wait for it to end; `segue move status` tells")


def require_logical(pair: Pair, side: Side, connection: Connection) -> None:
    """Raise ConfigurationError if a side's server cannot be followed."""
    row = connection.execute("select pg_catalog.current_setting('wal_level')").fetchone()
    if row and row[0] != "logical":
        raise ConfigurationError(
            f"{where(pair, side)} runs with wal_level={row[0]}, so its changes cannot be followed",
            hint="set wal_level=logical and restart that server; a copy without following needs no such setting",
        )
