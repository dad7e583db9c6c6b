"""What a target's catalogue, statistics and sessions say about the statements of a plan: facts, no judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.model.quantities import count, duration, size

if TYPE_CHECKING:
    from datetime import datetime

    from segue.model.impact import Lock, Statement


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as it is now. A partitioned table's numbers are those of its partitions together.

    `rows` is None where the table was never analysed and its size says nothing; `reads` and `writes` are statements a
    second at present, None where that cannot be told; `made_by_plan`: it is not there yet, so it is empty.
    """

    name: str
    kind: str
    rows: int | None = 0
    heap_bytes: int = 0
    index_bytes: int = 0
    toast_bytes: int = 0
    indexes: int = 0
    partitions: int = 0
    analyzed_at: datetime | None = None
    stale: str | None = None
    reads: float | None = None
    writes: float | None = None
    sessions: int = 0
    made_by_plan: bool = False

    @property
    def total_bytes(self) -> int:
        """Return the bytes of rows, indexes and out-of-line values together."""
        return self.heap_bytes + self.index_bytes + self.toast_bytes

    def as_json(self) -> dict[str, Any]:
        """Return the table for machines."""
        return {
            "table": self.name,
            "kind": self.kind,
            "rows": self.rows,
            "heap_bytes": self.heap_bytes,
            "index_bytes": self.index_bytes,
            "toast_bytes": self.toast_bytes,
            "total_bytes": self.total_bytes,
            "indexes": self.indexes,
            "partitions": self.partitions,
            "analyzed_at": self.analyzed_at,
            "stale": self.stale,
            "reads_per_second": self.reads,
            "writes_per_second": self.writes,
            "sessions": self.sessions,
            "made_by_plan": self.made_by_plan,
        }


@dataclass(frozen=True, slots=True)
class Touched:
    """A table that a statement touches, and why: it is named, or it hangs on one that is."""

    table: str
    lock: Lock
    why: str = ""  # empty: the statement names it

    def as_json(self) -> dict[str, Any]:
        """Return the touch for machines."""
        return {"table": self.table, "lock": self.lock.value or None, "why": self.why or "named by the statement"}


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that a statement would wait for now. What the role may not see of it is None or empty."""

    pid: int
    role: str
    application: str
    state: str
    seconds: float | None
    query: str
    lock: str
    table: str
    autovacuum: bool = False

    def line(self) -> str:
        """Return the session as one line for people."""
        who = ", ".join(word for word in (self.application, self.role, self.state) if word) or "not to be seen"
        since = f" for {duration(self.seconds)}" if self.seconds is not None else ""
        held = f"holds {self.lock} on {self.table}" if self.table else self.lock
        query = f": {self.query}" if self.query else ""
        return f"pid {self.pid} ({who}) {held}{since}{query}"

    def as_json(self) -> dict[str, Any]:
        """Return the session for machines."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class StatementFacts:
    """What one statement will do on this target.

    `statement` is the prediction made sharper: locks with every table that is touched indirectly, and the duration
    class as the catalogue tells it. `seconds` is how long the work takes once the locks are held, None where it cannot
    be told; `rows` how many rows it reads or changes, `bytes` what it reads and writes. `fails` says why the server
    would refuse it.
    """

    statement: Statement
    touched: tuple[Touched, ...] = ()
    does: str = ""
    rows: int | None = None
    bytes: int = 0
    seconds: float | None = None
    waits_for: tuple[Holder, ...] = ()
    waits_unseen: int = 0
    triggers: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Speeds:
    """How fast a target works now; `assumed` names what could not be measured.

    `read` in bytes a second from a table, `insert` in rows a second into a temporary one, `cost` in seconds for one
    unit of the planner's cost.
    """

    round_trip: float
    read: float
    insert: float
    cost: float
    assumed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the speeds for machines."""
        return {
            "round_trip_ms": round(self.round_trip * 1000, 3),
            "read_bytes_per_second": round(self.read),
            "insert_rows_per_second": round(self.insert),
            "seconds_per_cost": self.cost,
            "assumed": list(self.assumed),
        }

    def line(self) -> str:
        """Return the speeds as one line for people."""
        words = [
            f"round trip {self.round_trip * 1000:.1f} ms",
            f"reads {size(self.read)}/s",
            f"inserts {count(self.insert)} rows/s",
        ]
        guessed = f" ({' and '.join(self.assumed)} assumed)" if self.assumed else ""
        return ", ".join(words) + guessed


@dataclass(frozen=True, slots=True)
class ChangeFacts:
    """What an online change of tables would be on a target, and what it takes beside its locks.

    `seconds` by what is done, in order, empty where nothing is copied; `disk` is the room for the new tables, which the
    old ones keep until the way back ends, `wal` what is written to the log. `refused`: why it cannot be done.
    """

    strategy: str
    reasons: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    rows: int = 0
    bytes: int = 0
    disk: int = 0
    wal: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Return the seconds of all that is done."""
        return sum(self.seconds.values())

    def as_json(self) -> dict[str, Any]:
        """Return the change for machines."""
        return {
            "strategy": self.strategy,
            "reasons": list(self.reasons),
            "tables": list(self.tables),
            "rows": self.rows,
            "bytes": self.bytes,
            "disk_bytes": self.disk,
            "wal_bytes": self.wal,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "refused": list(self.refused),
        }


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What a look at a target found about a plan: `steps` holds the statements of each step, in the order given.

    `rates` says where the present rates of statements come from. `unknown` holds what could not be told, in words.
    `changes` are those of the steps that change tables online, by the step's place.
    """

    server_version: str
    tables: Mapping[str, TableFacts]
    steps: tuple[tuple[StatementFacts, ...], ...]
    speeds: Speeds
    rates: str = ""
    unknown: tuple[str, ...] = ()
    took: float = 0.0
    changes: Mapping[int, ChangeFacts] = field(default_factory=dict)
