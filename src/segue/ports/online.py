"""What the workflow of an online schema change needs of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from segue.model.lifecycles import OnlineChangePhase
    from segue.model.online import Chosen, Conflict, Drained, Rehearsed, Retained, Swapped, Verified
    from segue.ports import ChunkedWork, Pace, Patience


class OnlineChange(Protocol):
    """One online change on a target, of one or more tables that are swapped at one instant.

    The target knows how far it is: every method may be called again after a death, and finds what is done already.
    Anything may raise FenceLost, TargetUnreachable or OutcomeUnknown; after the target was reached again, the change
    must be asked for anew.
    """

    @property
    def phase(self) -> OnlineChangePhase:
        """Return what is to be done next, as the target says."""
        ...

    @property
    def chosen(self) -> Chosen:
        """Return how it is done, and why."""
        ...

    def prepare(self, note: Callable[[str], None]) -> Chosen:
        """Look at the tables, choose, and draw the change up; changes nothing of the application's.

        Raises StepFailed with every reason for which it cannot be done.
        """
        ...

    def create(self, patience: Patience, note: Callable[[str], None]) -> None:
        """Make the shadows, empty and without secondary indexes, and the logs of touched keys."""
        ...

    def capture(self, patience: Patience, note: Callable[[str], None]) -> None:
        """Begin to log the keys that the application touches; everything after this call is in the log."""
        ...

    def copying(self, member: int, patience: Patience) -> ChunkedWork:
        """Return the copy of a member's rows, to be walked; rows that are refused become conflicts."""
        ...

    def copied(self) -> None:
        """Record that the rows of all members are copied."""
        ...

    def restart(self, patience: Patience, note: Callable[[str], None], *, lost: bool = False) -> None:
        """Empty the shadows and begin the copy anew, because a source was emptied.

        `lost`: because what was written meanwhile is not known (SlotLost); it is captured anew first.
        """
        ...

    def drain(self, member: int, most: int | None, *, compare: bool = False) -> Drained:
        """Bring up to `most` touched keys of a member up to date; with None, all that one snapshot sees.

        `compare`: look whether their rows are the same then. One short transaction.
        """
        ...

    def settle(
        self,
        patience: Patience,
        note: Callable[[str], None],
        boundary: Callable[[], None],
        pace: Callable[[], Pace],
        rest: Callable[[float], None],
    ) -> None:
        """Give the shadows their keys, drain, build their other indexes, and gather statistics.

        `rest` is called with the seconds that a drain took, and waits as long as the pace says.
        Rows that a new index refuses become conflicts. After it, drains keep unique values apart by taking a whole
        snapshot at a time.
        """
        ...

    def verify(
        self, member: int, pace: Callable[[], Pace], note: Callable[[Verified], None], boundary: Callable[[], None]
    ) -> Verified:
        """Compare every row of a member with its shadow, repair what differs, compare that again, keep the record."""
        ...

    def verified(self) -> None:
        """Record that everything was compared, so that the swap may come."""
        ...

    def watch(self) -> None:
        """Raise StepFailed when somebody has changed the tables meanwhile; cheap, and looks once a second at most."""
        ...

    def retained(self) -> Retained | None:
        """Return what is kept back of the server's log for this change, as last seen; None where nothing is."""
        ...

    def parity(self) -> list[str]:
        """Compare everything else, grants to statistics; return what differs without being asked for."""
        ...

    def slower(self) -> list[str]:
        """Return statements of the application's that would be planned worse on the new tables; empty where unknown."""
        ...

    def rehearse(self, probes: int) -> Rehearsed:
        """Try the swap's locks for an instant each, and let them go."""
        ...

    def swap(
        self,
        patience: Patience,
        budget: float,
        note: Callable[[str], None],
        *,
        most: int = 300,
        cancel: Sequence[str] = (),
    ) -> Swapped:
        """Put the new tables in place of the old ones, in one transaction.

        Tried in slices; given up for now when more than `most` keys are left once the locks are held, or when it would
        hold them for more than `budget` seconds. Sessions in the way whose application is among `cancel` have their
        statements cancelled. Raises LockNotGranted when `patience` is over.
        """
        ...

    def complete(self, patience: Patience, note: Callable[[str], None], boundary: Callable[[], None]) -> None:
        """After the swap: validate foreign keys, and whatever else could not be done under its locks."""
        ...

    def losses(self) -> list[Conflict]:
        """Bring the old tables up to date, and return the rows that they cannot hold."""
        ...

    def swap_back(
        self, patience: Patience, budget: float, note: Callable[[str], None], *, most: int = 300, lossy: bool = False
    ) -> Swapped:
        """Put the old tables back, with everything that was written since; `lossy`: without rows they cannot hold."""
        ...

    def conflicts(self, limit: int = 100) -> tuple[int, list[Conflict]]:
        """Return how many rows are refused, and some of them."""
        ...

    def backlog(self) -> int:
        """Return about how many entries are in the logs."""
        ...

    def discard(self, patience: Patience, note: Callable[[str], None]) -> None:
        """Remove everything that the change made, before the swap or after it was taken back."""
        ...

    def retire(self, patience: Patience, note: Callable[[str], None]) -> None:
        """After the swap: end the way back; drop the old tables, logs and triggers."""
        ...

    def close(self) -> None:
        """End sessions that were opened for this change."""
        ...


class ChangeRecord(Protocol):
    """The store's record of an online change and its shadow tables. Written at most once a second but for phases."""

    def chosen(self, chosen: Chosen) -> None:
        """Record the strategy and the shadows."""
        ...

    def phase(self, phase: OnlineChangePhase) -> None:
        """Record what is done now."""
        ...

    def progress(self, rows: int, total: int, pace: Pace) -> None:
        """Record how far the copy is, and why it is not faster."""
        ...

    def verified(self, member: int, verified: Verified) -> None:
        """Record what a comparison came to."""
        ...

    def synced(self, member: int, *, diverged: bool = False) -> None:
        """Record that a shadow was brought up to date, or that it differs."""
        ...

    def measure(self, **metrics: Any) -> None:
        """Keep measurements: lock milliseconds, tries, keys drained; None takes one away.

        Shown while it goes on: `conflicts` (how many), `waiting` (why there is no swap yet, in words) and `blockers`
        (a line each).
        """
        ...

    def rows(self, members: Mapping[int, int], shadows: Sequence[int] = ()) -> None:
        """Record row counts by member."""
        ...

    def stop(self, error: BaseException) -> None:
        """Record that it stopped: cancelled or failed; nothing for a pause."""
        ...
