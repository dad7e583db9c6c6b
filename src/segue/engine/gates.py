"""What may stand before an execution or a step: approvals and windows, as the engine asks about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from segue.ports import Approved


class Gates(Protocol):
    """The gates of one execution; asked again and again, each time of the store as it is."""

    def approval(self, step: str) -> Approved | None:
        """Return the approval of a step that counts now: of this content of the plan, not revoked, not expired."""
        ...

    def boundary(self) -> None:
        """Raise MustWait when the execution may not go on now, because its window has closed."""
        ...


class Open:
    """Gates that let everything pass: nobody has to approve, and nothing closes. A rollback has these."""

    def approval(self, step: str) -> Approved | None:
        """Return nothing."""
        return None

    def boundary(self) -> None:
        """Let it pass."""
