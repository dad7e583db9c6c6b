"""Read-only copies of tables whose home is elsewhere: where that is now, and having a copy follow it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from segue.errors import Blocked, UsageError
from segue.services import moves

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.model.moves import MoveStarted
    from segue.ports import Patience
    from segue.ports.moving import Mirror
    from segue.services.moves import Move, Moving
    from segue.settings import Settings
    from segue.store import Store


def rehome(
    store: Store,
    settings: Settings,
    name: str,
    home: str | None,
    database: Callable[[str], Moving],
    patience: Patience,
    note: Callable[[str], None],
) -> tuple[str, MoveStarted | None]:
    """Have a read-only copy follow its tables' home as it is now, or `home`; return it, and what was written.

    None where the copy follows it already. Cut off at any point it may be called again. Readers find the copy as it
    was until it is level with the new home. Raises UsageError for a move that is no read-only copy.
    """
    driver = moves.Driver(store, settings, name, database, patience, note)
    move = driver.move
    if not move.read_only:
        raise UsageError(f'"{name}" is no read-only copy', hint="`segue move create … --read-only` makes one")
    new = home or now_at(store, settings, move, database)
    if new == move.source:
        # Also where an earlier call was cut off behind the record, before the copy had its new home.
        done = driver.start(workers=2)
        return new, done if done.copied else None
    if new == move.target:
        raise Blocked(
            f"the home of the tables is {new} now, which is where this copy is",
            hint=f"the copy is not needed any more: `segue move cancel {name}`",
        )
    moved = moves.Move(name, new, move.target, move.tables, read_only=True)
    # Before anything is left: that it is known, and is not ours.
    moves.mover(store, settings, moved, database)
    cast("Mirror", driver.mover).leave(patience, note)
    moves.replace(store, settings, moved)
    return new, moves.Driver(store, settings, name, database, patience, note).start(workers=2)


def now_at(store: Store, settings: Settings, copy: Move, database: Callable[[str], Moving]) -> str:
    """Return the environment in which a copy's tables are written to now, by the moves that are known.

    Raises Blocked where they are in several.
    """
    found = {_now_at(store, settings, table, copy.source, database) for table in copy.tables}
    if len(found) > 1:
        raise Blocked(
            f"the tables of {copy.name} have different homes now: {', '.join(sorted(found))}",
            hint="cancel it, and make a read-only copy for each home",
        )
    return found.pop()


def _now_at(store: Store, settings: Settings, table: str, place: str, database: Callable[[str], Moving]) -> str:
    seen = {place}
    while True:
        away = [
            move
            for move in moves.known(store)
            if move.source == place and _plain(table) in map(_plain, move.tables) and not (move.read_only or move.once)
        ]
        gone = [move.target for move in away if _gone(store, settings, move, database)]
        if not gone or gone[-1] in seen:
            return place
        place = gone[-1]
        seen.add(place)


def _gone(store: Store, settings: Settings, move: Move, database: Callable[[str], Moving]) -> bool:
    if moves.current(store, move.name) is None:
        return moves.completed(store, move.name)
    return moves.mover(store, settings, move, database).look().open == "target"


def _plain(table: str) -> str:
    return table.strip().removeprefix("public.")
