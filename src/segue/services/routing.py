"""The routing of moves that an application reads: reads before writes, a share at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import UsageError
from segue.services import environments, moves

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.ports.moving import Router
    from segue.services.moves import Move, Moving
    from segue.settings import Settings
    from segue.store import Store


def keep_reads(
    store: Store,
    settings: Settings,
    name: str,
    percent: int,
    most: float,
    database: Callable[[str], Moving],
    note: Callable[[str], None],
    stop: Callable[[], bool],
) -> str:
    """Let so many of a hundred reads go to a move's target while it is at most `most` seconds behind.

    Returns, with why, when told to stop, when the writes are switched, or when another process does the same. 0 only
    writes it down. Raises UsageError for moves whose reads cannot be shared, Blocked, and NotCaughtUp.
    """
    move = moves.find(store, name)
    if moves.current(store, name) is None or move.once or move.read_only or move.shape is not None:
        raise UsageError(
            f'the reads of "{name}" cannot be shared',
            hint="it has to be a move that is followed, to tables of the same shape, which has not ended",
        )
    return router(store, settings, move, database).keep(
        percent, (move.source, move.target), move.tables, most=most, note=note, stop=stop
    )


def router(store: Store, settings: Settings, move: Move, database: Callable[[str], Moving]) -> Router:
    """Take up what keeps a move's routing; raises NotFound for an environment that is not known."""
    with store.session() as session:
        _, source = environments.resolve(session, settings, move.source)
        _, target = environments.resolve(session, settings, move.target)
    return database(source).router(move.name, source, target)
