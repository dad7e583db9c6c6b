"""What is asked of an online schema change, and what is seen of one. Pure values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from segue.model.vocabulary import ChangeType

_QUOTED = re.compile(r'(?<![^.])"([a-z_][a-z0-9_$]*)"(?![^.])')
_PLACES = re.compile(r'(?<![."])(?:"[a-z_][a-z0-9_$]*"\.)+"[a-z_][a-z0-9_$]*"(?![."])')
#: What people may set for a change while it runs, beside the throttle's limits; kept with those.
TUNABLE = ("cutover", "cancel_blockers", "chunk_seconds", "window")


_DOING = {
    "pending": "about to begin",
    "creating-shadow": "creating the new table",
    "capturing": "beginning to log touched keys",
    "copying-data": "copying rows",
    "draining": "catching up, building indexes",
    "verifying": "comparing rows",
    "swapping": "swapping",
    "reversible": "swapped; the old table is kept current",
    "failed": "stopped by an error",
    "rolled-back": "rolled back",
}


@dataclass(frozen=True, slots=True)
class TableChange:
    """What becomes of one table.

    `alter`: ALTER TABLE statements without their head ("ALTER a TYPE bigint, ADD b int"), applied in this order.
    `columns`: the order of the columns, where it is to change. `partition_by`: "RANGE (c)"; `partitions`: statements
    that create the partitions. `back`: SQL expressions by column of the old table, over the new one's columns, where
    a plain assignment would not lead back.
    """

    table: str
    alter: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    partition_by: str | None = None
    partitions: str | None = None
    back: Mapping[str, str] = field(default_factory=dict)


#: What a replication slot may keep back of the server's log by default, in bytes, before it is given up: a full disk
#: would be the application's.
WAL_LIMIT = 32 * 2**30


def usual_sessions(wanted: int | None, *, watched: bool) -> int:
    """Return how many sessions an online change works in: what was `wanted`, else fewer where latency is `watched`."""
    return wanted or (1 if watched else 2)


@dataclass(frozen=True, slots=True)
class ChangeSpec:
    """One online change: tables that are changed together and swapped at one instant.

    `strategy`: auto, native-online, shadow-table or ghost. `keys`: take the tables whose foreign keys refer to a
    changed key along. `workers`: sessions that copy, build indexes and verify, None for what is usual. `reversible`:
    keep the old tables current after the swap. `wal_limit`: bytes of the server's log that a slot may keep back before
    it is given up.
    """

    tables: tuple[TableChange, ...]
    strategy: str = "auto"
    keys: bool = True
    reversible: bool = True
    workers: int | None = None
    chunk_seconds: float = 0.3
    chunk_keys: int = 50_000
    wal_limit: int = WAL_LIMIT

    def sessions(self, *, watched: bool) -> int:
        """Return how many sessions work at a time, while the application's latency is `watched` or not."""
        return usual_sessions(self.workers, watched=watched)


@dataclass(frozen=True, slots=True)
class Member:
    """A table of a change, as people and the store know it. Names are as SQL writes them."""

    number: int
    table: str
    shadow: str
    rows: int
    bytes: int
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """How a change is done, and why."""

    strategy: str
    reasons: tuple[str, ...]
    members: tuple[Member, ...]
    #: What people must know beforehand: prepared statements that fail once, views made anew, and the like.
    warnings: tuple[str, ...] = ()
    #: For `native-online`: the statements in the order in which they are run.
    native: tuple[str, ...] = ()
    #: For each of them what takes it back, in the order in which it is run, and what of it nothing does, in words.
    native_undo: tuple[tuple[str, ...], ...] = ()
    native_lost: tuple[str, ...] = ()
    #: Which of them are one command together: half of it must not stay, for the application would feel it.
    native_groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain did: `keys` were brought up to date, of which `refused` by the destination's rules.

    `left`: entries that are still in the log, about, up to what was asked for. `emptied`: the source was truncated, so
    the copy has to begin anew. `differing`: keys whose rows were not the same afterwards.
    """

    keys: int = 0
    refused: int = 0
    left: int = 0
    emptied: bool = False
    differing: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What one look after the old tables of a reversible change did: so many keys were brought up to date there.

    `left`: more waits in the log. `held`: somebody drives the database, or stood in the way. `refused`: rows that the
    old tables cannot hold.
    """

    keys: int = 0
    left: bool = False
    held: bool = False
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Retained:
    """What a change without triggers keeps back of the server's log, in bytes.

    `behind`: how much of it is not read yet; `limit`: with how much the slot is given up; `safe`: after how much more
    the server drops it, None without a limit of its own; `given_up`: it was dropped just now, or is gone.
    """

    bytes: int
    behind: int
    limit: int
    safe: int | None = None
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """What a comparison of a table with its shadow has come to, over all ranges."""

    ranges: int
    rows: int
    differing: int
    digest_old: str
    digest_new: str
    rows_new: int
    methods: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A row that the destination's rules refuse: synchronising goes on without it, and the swap waits."""

    table: str
    key: Mapping[str, Any]
    sqlstate: str
    message: str
    rule: str
    row: Mapping[str, Any]
    seen_at: datetime
    direction: str = "forward"


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What lock probes before a swap have seen: how many of them got every lock, how long it took, who stood by."""

    probes: int
    granted: int
    milliseconds: float
    blockers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Swapped:
    """A swap that took place: how long the locks were held, how many tries, how many keys were drained under it.

    `looked`: for how many of these milliseconds it was looked whether somebody has changed anything.
    """

    milliseconds: float
    tries: int
    keys: int
    looked: float = 0.0


@dataclass(frozen=True, slots=True)
class Alteration:
    """One part of what ALTER TABLE says: what it does, to which column, with which index or constraint."""

    kind: ChangeType
    column: str | None = None
    index: str | None = None


def doing(phase: str) -> str:
    """Return what is done in a phase, in words."""
    return _DOING.get(phase, phase)


def plain(name: str) -> str:
    """Return a qualified name for people: without quotes around parts that are written as they are."""
    return _QUOTED.sub(r"\1", name)


def readable(text: str) -> str:
    """Return a text for people: qualified names in it without the quotes that they need not have."""
    return _PLACES.sub(lambda found: found[0].replace('"', ""), text)


def weightiest(alterations: Sequence[Alteration]) -> Alteration:
    """Return the part that says best what a change does."""
    weights = list(ChangeType)
    return max(alterations, key=lambda one: weights.index(one.kind), default=Alteration(ChangeType.ALTER_TABLE))
