"""A data job as a value: what it writes from where to where, and rows that it could not write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Lookup:
    """A table to look something up in: `on` has an expression for each column of a key of it.

    `missing` says what becomes of a row that finds nothing: `null`, `skip` or `error`.
    """

    table: str
    alias: str
    on: Mapping[str, str]
    missing: str = "null"


@dataclass(frozen=True, slots=True)
class Transform:
    """A Python function, `path/file.py:name`, that makes values of the columns `gives` from rows of the source.

    `contents`: the text of its files by path. A call takes at most `timeout` seconds, and its process `memory` bytes.
    """

    python: str
    gives: Sequence[str]
    contents: Mapping[str, str]
    timeout: float = 10.0
    memory: int = 1 << 30


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a data job writes. Texts are SQL of the target.

    `assignments`: expressions by column of the target; `columns`: the columns to fill, None for those assigned and
    those that the source has under the same name. `checks`: conditions by name that each row must fulfil. `conflict`:
    the columns of the key by which a row counts as there, none for the primary key. `most_errors`: with more rejected
    rows than this the job stops; `longest`: seconds that a statement may take. `environment`: where the source is, if
    not in the target's database. `transform`: the function that gives further columns.
    """

    source: str
    target: str
    assignments: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] | None = None
    where: str | None = None
    lookups: Sequence[Lookup] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    on_conflict: str = "fail"  # or skip, update
    conflict: Sequence[str] = ()
    continue_on_error: bool = False
    most_errors: int = 10_000
    longest: float = 20.0
    reverse: str | None = None  # delete, nothing; None: delete where that is safe
    environment: str | None = None
    transform: Transform | None = None


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that a job could not write; `id` grows with each. `key` is the source's, as texts."""

    id: int
    key: tuple[str, ...]
    type: str
    message: str
    batch: int | None = None
    sqlstate: str = ""
    stack: str | None = None
    source: Any = None
    target: Any = None
    occurred_at: datetime | None = None
    resolution: str | None = None
    note: str | None = None
    resolved_by: str | None = None
    resolved_at: datetime | None = None
