"""What a data job asks of a database, beyond what it is as chunked work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from segue.ports import ChunkedWork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from segue.model.jobs import RowError


@runtime_checkable
class RejectingWork(Protocol):
    """Chunked work that goes on without the rows that it cannot write."""

    def rejected(self, after: int = 0, *, limit: int = 1000) -> list[RowError]:
        """Return rows that could not be written, by id, above `after`."""
        ...


class DataJob(ChunkedWork, Protocol):
    """A data job on its target."""

    #: The source and the target, and the columns that are written, as people call them.
    source: str
    target: str
    columns: tuple[str, ...]
    #: Why a rollback leaves what the job has written; None when it takes it out.
    stays: str | None

    def rejected(self, after: int = 0, *, limit: int = 1000) -> list[RowError]:
        """See `RejectingWork`."""
        ...

    def finish(self, note: Callable[[str], None]) -> None:
        """Do what comes after the last row: sequences of the target lead on from there."""
        ...

    def take_back_corrected(self) -> int:
        """Remove what was written with corrected values; return how many rows."""
        ...

    def retry(self, key: Sequence[str], by: str) -> RowError | None:
        """Try to write a row again; return None when it is there now, else what is the matter."""
        ...

    def correct(self, key: Sequence[str], values: Mapping[str, Any], by: str) -> RowError | None:
        """Write a rejected row with these values by column; return None when it is there now."""
        ...

    def skip(self, key: Sequence[str], by: str, note: str) -> None:
        """Leave a rejected row out for good."""
        ...
