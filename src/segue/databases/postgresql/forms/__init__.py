"""What each form of a statement does, as measured on PostgreSQL 14 to 18: locks by role, duration, scans, waits.

The forms are in the YAML files of this folder, the tables they were tried on in `world.sql`; `measured.json` is what
was seen (`tests/measuring.py` writes it, a test compares). Lint, prediction and docs/locks.md read it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from segue.model.impact import Duration, Lock
from segue.model.values import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The oldest and the newest server that was measured.
OLDEST, NEWEST = 14, 18

#: The role of a table that the statement names; others are "parent" (of a foreign key), "child", "partition", "default
#: partition", "inherited", "domain user", "type user", "index", "sequence", "view", "materialized view".
TABLE = "table"


class Facts(Value):
    """What one form does on one server."""

    locks: Mapping[str, Lock]  # the strongest by role, on what existed before
    duration: Duration
    scans: frozenset[str]  # roles of the tables that are read from end to end
    rewrites: frozenset[str]  # roles of the tables that are written anew
    waits: str  # for the end of others' transactions: "" (no), "snapshots" (of any), "users" (of the table)
    alone: bool  # may not be in a transaction block
    error: str  # SQLSTATE where the server refuses the form, mostly because it does not know it; "" else

    def lock(self, role: str = TABLE) -> Lock:
        """Return the lock on what has this role."""
        return self.locks.get(role, Lock.NONE)


class Form(Value):
    """A form of a statement: its key, what it is in words, an example, and its facts by major version."""

    key: str
    words: str
    example: str
    facts: Mapping[int, Facts]

    def on(self, major: int) -> Facts:
        """Return the facts for a server; those of the oldest or newest measured stand for others beyond them."""
        return self.facts[min(max(major, OLDEST), NEWEST)]

    @property
    def since(self) -> int:
        """Return the first measured version that knows the form."""
        return next(major for major in sorted(self.facts) if not self.facts[major].error)


def newest(key: str) -> Facts:
    """Return a form's facts on the newest server, where no form takes less than on an older one."""
    return _form(key).on(NEWEST)


def form(key: str) -> Form:
    """Return a form by its key; raises KeyError if there is none."""
    return _form(key)


def keys() -> tuple[str, ...]:
    """Return the keys of all forms, family by family."""
    return tuple(_measured())


@cache
def _form(key: str) -> Form:
    entry = _measured()[key]
    facts: dict[int, Facts] = {}
    for name, value in entry.items():
        if name[0].isdigit():
            first, last = map(int, name.split("-"))
            facts |= dict.fromkeys(range(first, last + 1), _facts(value))
    return Form(key, entry["words"], entry["sql"], MappingProxyType(facts))


def _facts(value: dict[str, Any]) -> Facts:
    return Facts(
        locks=MappingProxyType({role: Lock(lock) for role, lock in value.get("locks", {}).items()}),
        duration=Duration(value.get("duration", Duration.INSTANT.value)),
        scans=frozenset(value.get("scans", ())),
        rewrites=frozenset(value.get("rewrites", ())),
        waits=value.get("waits", ""),
        alone=value.get("alone", False),
        error=value.get("error", ""),
    )


@cache
def _measured() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "measured.json").read_text("utf-8"))
    return found
