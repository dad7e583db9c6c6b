"""What a database does to be compared with another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segue.model.verifying import TableVerdict, VerifySpec


class Verifier(Protocol):
    """Two databases to be compared; sessions are open until `close`."""

    def verdicts(self, spec: VerifySpec, note: Callable[[str], None]) -> Iterator[TableVerdict]:
        """Compare table by table; raises InvalidInput for names, columns or filters that are wrong."""
        ...

    def repair(self, found: TableVerdict) -> int:
        """Make the second side's rows that differ as the first one's; return how many were written or removed."""
        ...

    def close(self) -> None:
        """End the sessions."""
        ...
