"""What a database does for tables that move to another one while they are written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.model.moves import MoveStanding, MoveStarted, MoveSwitched
    from segue.ports import Patience

    Note = Callable[[str], None]


class Mover(Protocol):
    """A move between two databases; what it does is kept in both, so any process may take it up."""

    def start(self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note) -> MoveStarted:
        """Copy the tables and follow them; goes on, or begins the copy anew, after a process that died."""
        ...

    def look(self) -> MoveStanding:
        """Say how it stands."""
        ...

    def turn(self, to: str, *, budget: float, margin: int, patience: Patience, note: Note) -> MoveSwitched:
        """Open the side `to` ("source" or "target") and close the other; undone when it takes longer than `budget`."""
        ...

    def recover(self, *, finish: bool, note: Note) -> str:
        """Finish or undo a switch that was cut off; return the open side."""
        ...

    def complete(self, patience: Patience, note: Note) -> None:
        """End it with the target in use."""
        ...

    def cancel(self, patience: Patience, note: Note) -> None:
        """Give it up with the source in use."""
        ...


class MoveDriver(Protocol):
    """One move, with its record in the store."""

    def start(self, workers: int) -> MoveStarted:
        """Copy, follow, and arm the way back; goes on where an earlier start ended."""
        ...

    def look(self) -> MoveStanding:
        """Say how it stands."""
        ...

    def turn(self, to: str, *, budget: float, margin: int, finish: bool = True) -> MoveSwitched | None:
        """Open the side `to`; None when that was so already, or is so by finishing a switch that was cut off."""
        ...

    def cancel(self) -> None:
        """Give it up with the source in use."""
        ...


class Moves(Protocol):
    """The moves of an execution's environment, for the steps of a plan."""

    def begin(self, name: str, to: str, tables: Sequence[str], patience: Patience, note: Note) -> MoveDriver:
        """Create a move, or take it up where it was created so before. Raises Blocked where the name means another."""
        ...

    def find(self, name: str, patience: Patience, note: Note) -> MoveDriver | None:
        """Take up a move that has not ended; None where there is none. Raises Blocked for another environment's."""
        ...
