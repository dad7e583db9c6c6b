"""What one SQL statement does to a running application: locks, what they block, and for how long."""

from __future__ import annotations

from enum import Enum

from segue.model.values import Value


class Lock(Enum):
    """A table lock, weakest first; the values are PostgreSQL's words as `LOCK TABLE … IN … MODE` takes them."""

    NONE = ""
    ACCESS_SHARE = "ACCESS SHARE"
    ROW_SHARE = "ROW SHARE"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE = "SHARE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    EXCLUSIVE = "EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"

    @property
    def rank(self) -> int:
        """Return the lock's strength, 0 for none."""
        return _RANKS[self]

    @property
    def blocks(self) -> str:
        """Return what of the application waits behind this lock: nothing, writes, or reads and writes."""
        if self is Lock.ACCESS_EXCLUSIVE:
            return "reads and writes"
        if self.rank >= Lock.SHARE.rank:
            return "writes"
        return "nothing"


_RANKS = {lock: rank for rank, lock in enumerate(Lock)}


class Duration(Enum):
    """How long the lock is held, as a class: the timeout depends on it."""

    INSTANT = "instant"
    SCAN = "scan"
    REWRITE = "rewrite"
    INDEX_BUILD = "index build"
    SNAPSHOTS = "wait for snapshots"
    DATA = "data"


class TableLock(Value):
    """A lock on one table, named as the statement names it (`orders` or `public.orders`).

    The name is written as SQL writes it, in double quotes where it needs them, so that `to_regclass` finds it.
    """

    table: str
    lock: Lock
    known: bool = True  # False: the text does not name the table; `table` describes it for people ("table of index i")


class IndexBuild(Value):
    """The index that a statement builds, rebuilds or drops, so that its outcome can be looked up."""

    name: str  # as `to_regclass` takes it: with the table's schema where the statement names one
    table: str | None
    action: str  # "create", "drop" or "reindex"


class Statement(Value):
    """One SQL statement with what is predicted of it. `offset` is its first character in the text it came from."""

    sql: str
    offset: int
    verb: str  # e.g. "ALTER TABLE", "CREATE INDEX CONCURRENTLY", "UPDATE"
    locks: tuple[TableLock, ...]  # strongest lock per table that exists already, parents first
    duration: Duration
    transactional: bool  # False: must run outside a transaction block
    index: IndexBuild | None = None
    destroys: bool = False  # data is gone afterwards (DROP TABLE, DROP COLUMN, TRUNCATE, DELETE …)
    notes: tuple[str, ...] = ()  # what a careful reader would want to know, e.g. "scans the table under the lock"

    @property
    def lock(self) -> Lock:
        """Return the strongest lock that the statement takes."""
        return max((held.lock for held in self.locks), key=lambda lock: lock.rank, default=Lock.NONE)
