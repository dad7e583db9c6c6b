"""A live move from its beginning to its end: the parts in their order, each of which may be called again."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from segue.databases.postgresql.moving import following
from segue.databases.postgresql.moving.fencing import arm, disarm, sealed, unseal
from segue.databases.postgresql.moving.following import Lag
from segue.databases.postgresql.moving.mirrored import check_unread
from segue.databases.postgresql.moving.slot import Keeper, drop_slot, make_slot, slot_exists
from segue.databases.postgresql.moving.support import (
    BOTH_WAYS,
    alone,
    check_other,
    cluster,
    identity,
    install,
    known_state,
    require_logical,
    standing,
    state,
    told,
    where,
)
from segue.databases.postgresql.moving.switching import LEVEL_SECONDS
from segue.engine import journal
from segue.errors import Blocked, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair, Side
    from segue.ports import Patience

    Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a move stands. `open`: the side that is written to, None when a switch was cut off."""

    open: str | None
    epoch: int
    both_ways: bool
    #: How far the closed side is behind; None when both are closed.
    lag: Lag | None


def begin(pair: Pair, tables: Sequence[str], patience: Patience, note: Note) -> Keeper:
    """Prepare the source, and return the keeper of the snapshot that is to be copied.

    The application goes on; it queues behind no lock for longer than a slice. Raises InvalidInput and
    ConfigurationError for what cannot be followed, LockNotGranted.
    """
    source, target = pair.source, pair.target
    with ExitStack() as stack:
        a, eye = (stack.enter_context(pair.open(source)) for _ in range(2))
        b = stack.enter_context(pair.open(target))
        alone(pair, a)
        check_other(pair, source, a, identity(b))
        both_ways = _both_ways(a, b)
        for side, connection in ((source, a), (target, b)):
            require_logical(pair, side, connection)
        if not both_ways and cluster(a) == cluster(b):
            raise ConfigurationError(
                f"two databases of one server of PostgreSQL {BOTH_WAYS - 1} or older cannot follow each other",
                hint="move to another server, or copy once",
            )
        with told(where(pair, source)):
            install(pair, source, a, tables, both_ways=both_ways, other=identity(b))
            arm(pair, a, eye, patience, note, closed=False)
            following.publish(pair, source, a, eye, patience, note)
    return Keeper(pair, source, patience.work)


def follow(pair: Pair, tables: Sequence[str], patience: Patience, note: Note) -> None:
    """Follow the source on the target, which has its copy and all its keys, and arm the way back.

    The target is closed from here on. Returns when it has caught up once.
    """
    source, target = pair.source, pair.target
    with ExitStack() as stack:
        a = stack.enter_context(pair.open(source))
        b, eye = (stack.enter_context(pair.open(target)) for _ in range(2))
        alone(pair, b)
        both_ways = known_state(pair, source, a).both_ways
        with told(where(pair, target)):
            install(pair, target, b, tables, both_ways=both_ways, other=identity(a))
            arm(pair, b, eye, patience, note, closed=True)
            following.publish(pair, target, b, eye, patience, note)
            following.subscribe(pair, source, a, b)
            following.enable(pair, source, b)
        note("the target follows the source")
        token = following.mark(pair, source, a)
        following.await_marker(pair, source, b, token, max(patience.work, LEVEL_SECONDS))
        with told(where(pair, source)):
            # Before any switch, while it can carry nothing.
            if both_ways and not slot_exists(b, pair.channel(target)):
                make_slot(pair, target, patience.work)
            following.subscribe(pair, target, b, a)
            if both_ways:
                following.enable(pair, target, a)
        note("the way back is armed" if both_ways else "the way back is prepared; a switch turns the direction round")
    journal.point("move-followed")


def _both_ways(a: Connection, b: Connection) -> bool:
    return all(connection.info.server_version // 10000 >= BOTH_WAYS for connection in (a, b))


def look(pair: Pair, seconds: float = 1.0) -> Standing:
    """Return how a move stands; measures how far the closed side is behind, waiting at most some seconds for it."""
    with pair.open(pair.source) as a, pair.open(pair.target) as b:
        at_source, at_target = known_state(pair, pair.source, a), state(pair, b)
        if at_target is None:
            return Standing("source", at_source.epoch, at_source.both_ways, None)
        side = standing(pair, at_source, at_target)
        epoch = max(at_source.epoch, at_target.epoch)
        if side is None:
            return Standing(None, epoch, at_source.both_ways, None)
        mine, theirs = (a, b) if side is pair.source else (b, a)
        lag = following.measure(pair, side, mine, theirs, seconds)
        return Standing(side.name, epoch, at_source.both_ways, lag)


def complete(pair: Pair, patience: Patience, note: Note) -> None:
    """End a move whose target is open: nothing follows any more, and there is no way back. Leaves nothing behind.

    The tables of the source stay, no longer fenced: whoever still writes to them writes for nobody. Drop them, or take
    the application's rights to them away.
    """
    _end(pair, pair.target, "reverse instead, or cancel", patience, note)


def cancel(pair: Pair, patience: Patience, note: Note) -> None:
    """Give a move up whose source is open, at any point of it; the target keeps the tables as they are."""
    _end(pair, pair.source, "complete it, or reverse it first", patience, note)


def _end(pair: Pair, wanted: Side, instead: str, patience: Patience, note: Note) -> None:
    with ExitStack() as stack:
        a, b, a2, b2 = (
            stack.enter_context(pair.open(side)) for side in (pair.source, pair.target, pair.source, pair.target)
        )
        alone(pair, a)
        alone(pair, b)
        at_source, at_target = state(pair, a), state(pair, b)
        if at_source and at_target:
            found = standing(pair, at_source, at_target)
        else:
            # An earlier end was cut off, or the target was never reached.
            found = pair.source if at_source and at_source.open else wanted
        if found is not wanted:
            which = where(pair, found) if found else "neither side"
            raise Blocked(f"{which} of move {pair.id} is open", hint=instead)
        left, at_left, on_left = (pair.source, at_source, a) if wanted is pair.target else (pair.target, at_target, b)
        if at_left is not None:
            check_unread(pair, left, on_left)
        with told(f"move {pair.id}"):
            following.unsubscribe(pair, pair.source, a, b)
            following.unsubscribe(pair, pair.target, b, a)
            # The side that stays in use last: until the other is gone, its state says which one it is.
            sides = [(pair.target, b, b2), (pair.source, a, a2)]
            for side, connection, eye in sides if wanted is pair.source else reversed(sides):
                remove(pair, side, connection, eye, patience, note)
                note(f"nothing of the move is left in {where(pair, side)}")
                journal.point("move-removed")


def remove(pair: Pair, side: Side, work: Connection, eye: Connection, patience: Patience, note: Note) -> None:
    """Leave nothing of a move on one side; its tables stay."""
    drop_slot(work, pair.channel(side))
    work.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(pair.name)))
    if state(pair, work) is None:
        # A copy that was cut off may have left a note of what it fills.
        work.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(pair.name)))
        return
    if sealed(pair, work):
        with work.transaction():
            unseal(pair, work)
    disarm(pair, work, eye, patience, note)
    work.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(pair.name)))
