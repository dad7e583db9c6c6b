"""Where an application reads and writes tables that are moved: told in the source, reads before writes."""

from __future__ import annotations

import secrets
import uuid
from contextlib import ExitStack, suppress
from importlib.resources import files
from typing import TYPE_CHECKING

import psycopg

from segue import clock
from segue.databases.postgresql.moving import following
from segue.databases.postgresql.moving.support import Pair, Side, known_state, state, told, where
from segue.engine import journal
from segue.errors import Blocked, NotCaughtUp, SegueError
from segue.model.quantities import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.moving.support import Connection

    Note = Callable[[str], None]

#: How often the target is measured, and how long a share counts that nobody lengthens, in seconds.
PERIOD = 1.0
LEASE = 10.0
#: What sessions listen to that want to hear of a change at once; the payload is the move's name.
CHANNEL = "segue_routing"

_TELL = """
insert into segue_routing.kept (move, tables, source, target, writes) values (%s, %s, %s, %s, 'source')
on conflict (move) do update set tables = excluded.tables, source = excluded.source, target = excluded.target,
    writes = 'source'
"""
_SHARE = """
update segue_routing.kept set percent = %s, until = clock_timestamp() + %s * interval '1 second', keeper = %s,
    changed_at = case when percent = %s then changed_at else clock_timestamp() end
where move = %s and writes = 'source' and (%s or keeper = %s)
"""


class PostgresRouter:
    """See `segue.ports.moving.Router`."""

    def __init__(self, id_: str, source: str, target: str) -> None:
        self._pair = Pair(id_, Side("source", source), Side("target", target))

    def keep(
        self,
        percent: int,
        names: tuple[str, str],
        tables: Sequence[str],
        *,
        most: float,
        note: Note,
        stop: Callable[[], bool],
    ) -> str:
        """Let a share of the reads go to the target for as long as it is level; return why it ended."""
        pair = self._pair
        keeper = str(uuid.UUID(bytes=secrets.token_bytes(16)))
        with ExitStack() as stack:
            a, b = stack.enter_context(pair.open(pair.source)), stack.enter_context(pair.open(pair.target))
            with told(where(pair, pair.source)):
                if not known_state(pair, pair.source, a).open:
                    raise Blocked(
                        f"{where(pair, pair.source)} is not open: reads go where writes go",
                        hint="`segue move status` shows where that is",
                    )
                known_state(pair, pair.target, b)
                behind = self._behind(a, b, most)
                if percent and behind is not None:
                    raise NotCaughtUp(
                        f"{where(pair, pair.target)} is {behind} behind, more than {duration(most)}",
                        hint="wait until `segue move status` shows less, or allow more with --max-lag",
                    )
                self._make(a)
                a.execute(_TELL, [pair.id, list(tables), *names])
                self._share(a, percent, keeper, take=True)
                journal.point("move-reads")
                if not percent:
                    return "all reads go to the source"
                note(f"{percent} % of the reads go to the target, as long as it is less than {duration(most)} behind")
                try:
                    return self._lengthen(a, b, percent, keeper, most, note, stop)
                finally:
                    # Where this fails the share ends by itself.
                    with suppress(psycopg.Error, SegueError):
                        self._share(a, 0, keeper)

    def _lengthen(
        self,
        a: Connection,
        b: Connection,
        percent: int,
        keeper: str,
        most: float,
        note: Note,
        stop: Callable[[], bool],
    ) -> str:
        now = percent
        while not stop():
            clock.sleep(PERIOD)
            now_at = state(self._pair, a)
            if now_at is None:
                return "the move has ended"
            if not now_at.open:
                return "the writes were switched, and the reads with them"
            behind = self._behind(a, b, most)
            wanted = percent if behind is None else 0
            if not self._share(a, wanted, keeper):
                return "another process keeps the share now"
            if wanted != now:
                note(
                    f"{percent} % of the reads go to the target again"
                    if wanted
                    else f"the target is {behind} behind: all reads go to the source"
                )
                now = wanted
        return "all reads go to the source"

    def _behind(self, a: Connection, b: Connection, most: float) -> str | None:
        """Return how far the target is behind where that is more than allowed, else None."""
        found = following.measure(self._pair, self._pair.source, a, b, most)
        if found.caught_up and found.seconds <= most:
            return None
        return duration(found.seconds)

    def _share(self, a: Connection, percent: int, keeper: str, *, take: bool = False) -> bool:
        """Write the share and lengthen its time; False where somebody else does that, or the writes have gone."""
        id_ = self._pair.id
        with a.transaction():
            row = a.execute("select percent from segue_routing.kept where move = %s for update", [id_]).fetchone()
            done = a.execute(_SHARE, [percent, LEASE, keeper, percent, id_, take, keeper]).rowcount == 1
            if done and row is not None and row[0] != percent:
                a.execute("select pg_catalog.pg_notify(%s, %s)", [CHANNEL, id_])
        return done

    def point(self, to: str) -> None:
        """Say that the writes go to a side; nothing where no routing is kept."""
        with self._pair.open(self._pair.source) as a, told(where(self._pair, self._pair.source)):
            if not self._kept(a):
                return
            with a.transaction():
                done = a.execute(
                    "update segue_routing.kept set writes = %s, percent = 0, until = null, keeper = null, "
                    "changed_at = clock_timestamp() where move = %s and writes <> %s",
                    [to, self._pair.id, to],
                ).rowcount
                if done:
                    a.execute("select pg_catalog.pg_notify(%s, %s)", [CHANNEL, self._pair.id])
        journal.point("move-routed")

    def forget(self) -> None:
        """Keep no routing of this move any more; without one the application uses the source."""
        with self._pair.open(self._pair.source) as a, told(where(self._pair, self._pair.source)):
            if not self._kept(a):
                return
            a.execute("delete from segue_routing.kept where move = %s", [self._pair.id])
            a.execute("select pg_catalog.pg_notify(%s, %s)", [CHANNEL, self._pair.id])
            with a.transaction():
                a.execute("lock table segue_routing.kept in access exclusive mode")
                if a.execute("select from segue_routing.kept").rowcount == 0:
                    a.execute("drop schema segue_routing cascade")

    def _make(self, a: Connection) -> None:
        if not self._kept(a):
            with a.transaction():
                a.execute("select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(%s, 0))", [CHANNEL])
                a.execute(files("segue.databases.postgresql").joinpath("sql/routing.sql").read_bytes())

    def _kept(self, a: Connection) -> bool:
        row = a.execute("select pg_catalog.to_regclass('segue_routing.kept') is not null").fetchone()
        return bool(row and row[0])
