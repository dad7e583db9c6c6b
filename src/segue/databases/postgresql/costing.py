"""How long work takes on a target: a quick measurement of its speed, and what each kind of work costs at that speed.

The factors were measured on PostgreSQL 15 and 18 with tables of 300 thousand and of two million rows, in memory: there
an estimate is within a factor of two or three. It grows with the table, and shrinks with a faster server.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.catalogue import BLOCK, Relation
from segue.databases.postgresql.touching import Build, Match, Query, Rewrite, Scan, Work
from segue.model.facts import Speeds
from segue.model.quantities import count, size

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What is assumed where it cannot be measured: a modest server whose data is on disk.
ASSUMED = Speeds(round_trip=0.001, read=200e6, insert=500_000.0, cost=5e-6)
#: Seconds that the measurement may take, and each of its two halves.
MEASURING = 0.5
HALF = 0.2
PIECE_PAGES = 256
SAMPLE_ROWS = 4000
#: What the log and the files take at most while a table is written, whatever reading is like.
WRITTEN_PER_SECOND = 300e6

#: How the statements begin that measure reading: they are not the application's.
SAMPLING = "select count(*) from only "

# Times of a row's insert, unless said otherwise.
_MATCHED_ROW = 0.4  # looking a row up in another table
_SORTED_ROW = 0.9  # a row of an index over numbers
_SORTED_TEXT = 2.6  # the same for texts, compared by a collation
_CONCURRENT = 1.7  # CREATE INDEX CONCURRENTLY reads the table twice
_COPIED_ROW = 1.0  # a row of a table that is rewritten
_COMPUTED_ROW = 6.0  # the same when a function is called for it
_CHANGED_ROW = 6.0  # a row that is updated where it is
_INDEX_ENTRY = 9.0  # its new entry in an index, at a random place
_NEW_ENTRY = 2.0  # an entry of a new row
_COPIED_BESIDE = 1.5  # a row that is copied in pieces, along the key
_COMPARED_ROW = 1.5  # a row that is hashed, on one side
_SCANNED = 1.2  # times of reading: a check is computed for each row


@dataclass(frozen=True, slots=True)
class Cost:
    """What a piece of work costs: seconds, bytes read and written, rows, and the work in words."""

    seconds: float
    bytes: int
    rows: int
    words: str
    table: int = 0  # whose rows they are


def measure(connection: psycopg.Connection[Any], largest: Relation | None) -> Speeds:
    """Measure a round trip, a bounded read of the largest table concerned, and inserts into a temporary table."""
    deadline = clock.ticks() + MEASURING
    assumed = []
    read, cost = _measure_read(connection, largest, min(deadline, clock.ticks() + HALF))
    if read is None:
        assumed.append("reading")
    insert = _measure_insert(connection, min(deadline, clock.ticks() + HALF))
    if insert is None:
        assumed.append("writing")
    return Speeds(
        round_trip=_measure_round_trip(connection),
        read=read or ASSUMED.read,
        insert=insert or ASSUMED.insert,
        cost=cost or ASSUMED.cost,
        assumed=tuple(assumed),
    )


def _measure_round_trip(connection: psycopg.Connection[Any]) -> float:
    times = []
    for _ in range(3):
        began = clock.ticks()
        connection.execute("select 1")
        times.append(clock.ticks() - began)
    return min(times)


def _measure_read(
    connection: psycopg.Connection[Any], table: Relation | None, deadline: float
) -> tuple[float | None, float | None]:
    """Read some pages here and there; return bytes a second, and seconds for one unit of the planner's cost."""
    if table is None or table.pages == 0:
        return None, None
    piece = min(PIECE_PAGES, table.pages)
    pages, seconds, cost = 0, 0.0, 0.0
    for place in range(8):
        begin = (table.pages - piece) * place // 8
        query = sql.SQL(SAMPLING + "{} where ctid >= {}::tid and ctid < {}::tid").format(
            sql.Identifier(table.schema, table.bare),
            sql.Literal(f"({begin},0)"),
            sql.Literal(f"({begin + piece},0)"),
        )
        try:
            planned = connection.execute(sql.SQL("explain (format json) ") + query).fetchone()
            began = clock.ticks()
            connection.execute(query)
            seconds += clock.ticks() - began
        except psycopg.Error:
            if connection.closed:
                raise
            # It is locked, or may not be read, or reading takes too long even for a piece.
            break
        pages += piece
        cost += planned[0][0]["Plan"]["Total Cost"] if planned else 0.0
        if clock.ticks() > deadline or piece * (place + 2) > table.pages:
            break
    if not pages or seconds <= 0:
        return None, None
    return pages * BLOCK / seconds, seconds / cost if cost else None


def _measure_insert(connection: psycopg.Connection[Any], deadline: float) -> float | None:
    rows, seconds = 0, 0.0
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("create temporary table segue_speed (id bigint, filler text) on commit drop")
            for turn in range(20):
                began = clock.ticks()
                connection.execute(
                    "insert into pg_temp.segue_speed select n, repeat('x', 84) from generate_series(1, %s) as n",
                    [SAMPLE_ROWS],
                )
                # The first one makes the file and is unlike the others: it counts where there is no time for more.
                if turn == 1:
                    rows, seconds = 0, 0.0
                rows += SAMPLE_ROWS
                seconds += clock.ticks() - began
                if clock.ticks() > deadline:
                    break
    except psycopg.Error:
        if connection.closed:
            raise
        return None
    return rows / seconds if rows and seconds > 0 else None


def weigh(work: Work, speeds: Speeds, connection: psycopg.Connection[Any], deadline: float) -> Cost:
    """Return what a piece of work costs on this target."""
    row = 1 / speeds.insert
    match work:
        case Scan(relation, why, limit):
            pages = relation.pages if limit is None else min(limit, relation.pages)
            read = pages * BLOCK
            return Cost(
                read / speeds.read * _SCANNED, read, _rows(relation), f"{why} {_named(relation, read)}", relation.oid
            )
        case Match(child, parent):
            read = (child.pages + (parent.pages if parent else 0)) * BLOCK
            rows = _rows(child)
            seconds = read / speeds.read + (rows + (_rows(parent) if parent else 0)) * row * _MATCHED_ROW
            other = f" against {parent.name}" if parent is not None else ""
            words = f"checks every row of {_named(child, child.pages * BLOCK)}{other}"
            return Cost(seconds, read, rows, words, child.oid)
        case Build():
            return _build(work, speeds)
        case Rewrite(relation, volatile):
            return _rewrite(relation, speeds, volatile=volatile)
        case Query():
            return _query(work, speeds, connection, deadline)


@dataclass(frozen=True, slots=True)
class Copied:
    """What it takes to copy tables beside the application: seconds by what is done, bytes read, bytes written."""

    seconds: dict[str, float]
    rows: int
    bytes: int
    disk: int


def copied(tables: Sequence[Relation], speeds: Speeds, workers: int = 1) -> Copied:
    """Return what it takes to copy tables row by row, index the copies, and compare every row of both."""
    rows = sum(map(_rows, tables))
    held = sum((each.pages + each.toast_pages) * BLOCK for each in tables)
    indexed = sum(index.pages for each in tables for index in each.indexes) * BLOCK
    entries = sum(_rows(each) * len(each.indexes) for each in tables)
    row = 1 / speeds.insert
    # Those who work side by side share disk, log and locks.
    side_by_side = max(1.0, math.sqrt(workers))
    seconds = {
        "copy": (held / speeds.read + rows * row * _COPIED_BESIDE + held / WRITTEN_PER_SECOND) / side_by_side,
        "indexes": held / speeds.read * _SCANNED + entries * row * _SORTED_ROW + indexed / WRITTEN_PER_SECOND,
        "comparison": (2 * held / speeds.read + 2 * rows * row * _COMPARED_ROW) / side_by_side,
    }
    return Copied(seconds, rows, held, held + indexed)


def _build(work: Build, speeds: Speeds) -> Cost:
    relation, rows = work.relation, _rows(work.relation)
    read, written = relation.pages * BLOCK, rows * (work.width + 12)
    sort = (_SORTED_TEXT if work.sorts_text else _SORTED_ROW) * rows / speeds.insert
    seconds = read / speeds.read * _SCANNED + sort + written / WRITTEN_PER_SECOND
    times = _CONCURRENT if work.concurrent else 1.0
    words = f"builds an index over {count(rows)} rows of {_named(relation, read)}"
    return Cost(seconds * times, round(read * (2 if work.concurrent else 1) + written), rows, words, relation.oid)


def _rewrite(relation: Relation, speeds: Speeds, *, volatile: bool) -> Cost:
    rows = _rows(relation)
    held = (relation.pages + relation.toast_pages) * BLOCK
    row = (_COMPUTED_ROW if volatile else _COPIED_ROW) / speeds.insert
    seconds = held / speeds.read + rows * row + held / WRITTEN_PER_SECOND
    for index in relation.indexes:
        seconds += rows * _SORTED_ROW / speeds.insert + index.pages * BLOCK / WRITTEN_PER_SECOND
    written = held + sum(index.pages for index in relation.indexes) * BLOCK
    also = f" and {len(relation.indexes)} indexes" if len(relation.indexes) > 1 else ""
    also = " and its index" if len(relation.indexes) == 1 else also
    return Cost(seconds, held + written, rows, f"writes {_named(relation, held)}{also} anew", relation.oid)


def _query(work: Query, speeds: Speeds, connection: psycopg.Connection[Any], deadline: float) -> Cost:
    """Ask the server's planner; where it cannot plan the statement yet, the tables are taken to be read in full."""
    planned = _planned(work.sql, connection) if clock.ticks() < deadline else None
    whole = sum(each.pages for each in work.reads) * BLOCK
    if planned is None:
        seconds = whole / speeds.read * _SCANNED
        rows = max((_rows(each) for each in work.reads), default=0)
        said = f"reads {', '.join(each.name for each in work.reads[:2])}" if work.reads else ""
    else:
        rows, cost = planned
        seconds = cost * speeds.cost
        whole = min(whole, round(seconds * speeds.read))
        names = ", ".join(dict.fromkeys(each.name for each in work.reads[:3]))
        said = f"reads about {_counted(rows)}" + (f" of {names}" if names else "")
    if work.into is None:
        return Cost(seconds, whole, rows, said)
    indexes = len(work.into.indexes)
    each = (_CHANGED_ROW + _INDEX_ENTRY * indexes) if work.in_place else (_COPIED_ROW + _NEW_ENTRY * indexes)
    seconds += rows * each / speeds.insert
    held = sum(each.pages for each in work.writes) * BLOCK / max(1, sum(map(_rows, work.writes))) * rows
    return Cost(seconds, round(whole + held), rows, f"writes about {_counted(rows)} of {work.into.name}")


def _planned(text: str, connection: psycopg.Connection[Any]) -> tuple[int, float] | None:
    """Return how many rows a statement reads or writes, and its cost, as the planner sees it; it is not run."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("set transaction read only")
            row = connection.execute(b"explain (format json) " + text.encode()).fetchone()
    except psycopg.Error:
        if connection.closed:
            raise
        # A column that the plan has yet to add, a table that is locked, or what the role may not read.
        return None
    if row is None:
        return None
    plan = row[0][0]["Plan"]
    cost = float(plan["Total Cost"])
    if plan["Node Type"] == "ModifyTable" and plan.get("Plans"):
        return round(plan["Plans"][0]["Plan Rows"]), cost
    # What an aggregate gives is one row; what it reads is further down.
    nodes, most = [plan], 0.0
    while nodes:
        node = nodes.pop()
        most = max(most, node["Plan Rows"])
        nodes += node.get("Plans", [])
    return round(most), cost


def _rows(relation: Relation) -> int:
    return round(relation.rows or 0)


def _counted(rows: int) -> str:
    return f"{count(rows)} row" if rows == 1 else f"{count(rows)} rows"


def _named(relation: Relation, held: float) -> str:
    return f"{relation.name} ({size(held)})"
