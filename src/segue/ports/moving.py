"""What a database does for tables that move to another one while they are written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.model.checks import Finding
    from segue.model.moves import MoveStanding, MoveStarted, MoveSwitched
    from segue.model.verifying import TableVerdict, VerifySpec
    from segue.ports import Patience

    Note = Callable[[str], None]


class Mover(Protocol):
    """A move between two databases; what it does is kept in both, so any process may take it up."""

    def preflight(self, tables: Sequence[str], *, make_tables: bool, once: bool) -> list[Finding]:
        """Look for all that stands in its way, and change nothing; a red finding refuses a start."""
        ...

    def start(
        self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note, make_tables: bool = False
    ) -> MoveStarted:
        """Copy the tables and follow them; goes on, or begins the copy anew, after a process that died.

        `make_tables`: make them on the target, as they are in the source, with their indexes after the copy.
        """
        ...

    def copy(
        self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note, make_tables: bool = False
    ) -> MoveStarted:
        """Copy the tables at one moment, count their rows on both sides, and leave nothing else behind."""
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


class Reshaper(Mover, Protocol):
    """A move whose tables have another shape on the target: what is written is carried over by a process of ours."""

    def check(self) -> list[str]:
        """Fit the shape to both databases; return what a person should know beforehand. Raises InvalidInput."""
        ...

    def follow(self, *, once: bool, patience: Patience, note: Note, stop: Callable[[], bool] = ...) -> int:
        """Carry over what is written on the open side, until told to stop or the move has ended; return the entries.

        `once`: until nothing is left. Any number of processes may do so; they take turns.
        """
        ...

    def verify(self, spec: VerifySpec, note: Note, *, way_back: bool = False) -> list[TableVerdict]:
        """Compare what the rows of the source become with those of the target; `way_back`: the other way round."""
        ...


class Mirror(Mover, Protocol):
    """Read-only copies of tables, which follow their home for good; they are never switched."""

    def leave(self, patience: Patience, note: Note) -> None:
        """Stop following the source, and leave nothing there; the copies stay as they are, closed to writers.

        `start` with another source brings them level with that one. A source that cannot be reached is told of.
        """
        ...


class Router(Protocol):
    """What an application is told of where to read and write a move's tables; kept in the move's source."""

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
        """Let so many of a hundred reads go to the target while it is at most `most` seconds behind.

        `names`: what source and target are called. Goes on until told to stop, and returns why it ended. The share
        counts for some seconds only, so it ends with the process. Raises Blocked where the source is not open, and
        NotCaughtUp.
        """
        ...

    def point(self, to: str) -> None:
        """Say that writes, and all reads, go to "source" or "target"; nothing where no routing is kept."""
        ...

    def forget(self) -> None:
        """Keep no routing of this move any more."""
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

    def begin(
        self,
        name: str,
        to: str,
        tables: Sequence[str],
        patience: Patience,
        note: Note,
        *,
        make_tables: bool = False,
        read_only: bool = False,
    ) -> MoveDriver:
        """Create a move, or take it up where it was created so before. Raises Blocked where the name means another."""
        ...

    def find(self, name: str, patience: Patience, note: Note) -> MoveDriver | None:
        """Take up a move that has not ended; None where there is none. Raises Blocked for another environment's."""
        ...
