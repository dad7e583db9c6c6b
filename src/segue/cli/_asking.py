"""What `segue change start` can be asked: its options, and what they come to."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.errors import InvalidInput, UsageError

if TYPE_CHECKING:
    from segue.services.changes import Asked

_BIGGEST_FILE = 1_000_000


class Way(StrEnum):
    """How a table is changed."""

    AUTO = "auto"
    NATIVE_ONLINE = "native-online"
    SHADOW_TABLE = "shadow-table"
    GHOST = "ghost"
    PT_ONLINE_SCHEMA_CHANGE = "pt-online-schema-change"


Table = Annotated[str, typer.Argument(help="The table, or a whole ALTER TABLE.", show_default=False)]
Alter = Annotated[
    list[str] | None,
    typer.Argument(metavar="ALTER", help="What ALTER TABLE says; several are one copy.", show_default=False),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns", help="Columns in the order that they are to have, a,b,…; others follow.", show_default=False
    ),
]
PartitionBy = Annotated[
    str | None, typer.Option("--partition-by", help='E.g. "RANGE (placed_at)".', show_default=False)
]
Partitions = Annotated[
    Path | None,
    typer.Option("--partitions", metavar="FILE", help="SQL that creates the partitions.", show_default=False),
]
Strategy = Annotated[Way, typer.Option("--strategy", help="How it is done.")]
NoKeys = Annotated[bool, typer.Option("--no-keys", help="Leave columns alone that refer to a changed key.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=32,
        help="Sessions that copy and compare; two, or one while a latency budget is to hold.",
        show_default=False,
    ),
]
PostponeCutover = Annotated[
    bool, typer.Option("--postpone-cutover", help="Swap only once `segue change cutover` says so.")
]
RetentionDays = Annotated[
    int, typer.Option("--retention-days", min=0, max=3650, help="How long the way back is kept open.")
]
NoReverse = Annotated[bool, typer.Option("--no-reverse", help="Keep no way back after the swap; not in production.")]
Name = Annotated[
    str | None, typer.Option("--name", help="The plan's name; by default made from the table.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the plan, as a plan file.")]
Window = Annotated[
    str | None,
    typer.Option("--window", help='When it may swap, e.g. "Sun 02:00-04:00 UTC".', show_default=False),
]
WalLimit = Annotated[
    str | None,
    typer.Option(
        "--wal-limit",
        metavar="SIZE",
        help="What ghost may keep back of the server's log before it gives its slot up; 32GiB.",
        show_default=False,
    ),
]
Blockers = Annotated[
    list[str] | None,
    typer.Option(
        "--cancel-blockers",
        metavar="APP",
        help="Cancel statements of this application that stand in the way of the swap; repeatable.",
        show_default=False,
    ),
]


def asked(
    table: str,
    alter: list[str],
    *,
    columns: str | None,
    partition_by: str | None,
    partitions: Path | None,
    name: str | None,
    **given: Any,
) -> Asked:
    """Return what is asked for; `given` are fields of the step, of which what is usual is left out."""
    from segue.services.changes import Asked

    usual = {
        "strategy": "auto",
        "keys": True,
        "workers": None,
        "cutover": "automatic",
        "reversible": True,
        "retention_days": 7,
        "cancel_blockers": [],
        "wal_limit": None,
    }
    if (partition_by is None) != (partitions is None):
        raise UsageError("--partition-by and --partitions go together", hint="--partitions names a file with their SQL")
    order = [word.strip() for word in columns.split(",")] if columns is not None else []
    if columns is not None and not all(order):
        raise UsageError(f'"{columns}" is no list of columns', hint="write for example --columns id,placed_at,total")
    twice = next((word for word in order if order.count(word) > 1), None)
    if twice is not None:
        raise UsageError(f'"{twice}" stands twice in --columns', hint="name each column once; others follow")
    return Asked(
        table=table,
        alter=alter,
        columns=order,
        partition_by=partition_by,
        partitions=_text(partitions) if partitions is not None else None,
        name=name,
        fields={word: value for word, value in given.items() if value != usual[word]},
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _BIGGEST_FILE:
            raise InvalidInput(f'"{path}" is larger than a plan can hold')
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidInput(f'there is no file "{path}"', hint="--partitions names a file with SQL") from None
    except UnicodeDecodeError:
        raise InvalidInput(f'"{path}" is not UTF-8', hint="save the file as UTF-8") from None
    except OSError as error:
        raise InvalidInput(f'"{path}" cannot be read: {error.strerror}') from error


def checked_size(text: str | None) -> int | None:
    """Return the bytes of a size; raises UsageError."""
    from segue.model.quantities import octets

    try:
        return None if text is None else octets(text)
    except ValueError as error:
        raise UsageError(f"{error}") from error


def checked_window(text: str) -> str:
    """Return a window as it is kept; raises UsageError."""
    from segue.model.windows import Window

    return str(Window.parse(text))
