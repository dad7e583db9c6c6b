"""The client's own record of what the database acknowledged: one JSON object a line.

A line of a transaction: `n` its number, `c` the client, `k` what it did, `t` when it was due (seconds since the epoch),
`l` its latency from then in milliseconds, `w` its changes, each `[op, table, key, values]`:

  `+` a row was inserted, all its columns given; `=` columns were set; `-` the row was deleted; `~` numbers were added.

`r` marks a transaction that the application rolled back by intent, `f` says how long a fence had turned it away, in
milliseconds. Other lines: `start`, `paused`, `resumed`, `end`, `error` (a failed transaction, with its text), `fenced`,
`row_type` (a prepared statement whose row type had changed), `wrong` (a row read back was not what had been
acknowledged).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Columns that the traffic sets on rows that exist. Every other column of a row keeps its value for ever.
MUTABLE: dict[str, tuple[str, ...]] = {
    "customers": ("first_name", "last_name", "phone", "updated_at"),
    "customer_preferences": ("settings",),
    "carts": ("status", "updated_at"),
    "cart_items": ("quantity",),
    "orders": ("status", "notes", "updated_at"),
}

#: Numbers that the traffic only adds to, in one statement: their end is their start plus all that was acknowledged.
COUNTERS: dict[str, tuple[str, ...]] = {
    "accounts": ("balance_cents",),
    "inventory": ("on_hand",),
    "loyalty_accounts": ("points",),
}

#: What a row of a table that the traffic writes is called by; the rest is called by its primary key.
KEYS: dict[str, str] = {
    "analytics_events": "id",
    "customers": "id",
    "customer_preferences": "customer_id",
    "carts": "id",
    "cart_items": "id",
    "orders": "id",
    "accounts": "id",
    "inventory": "id",
    "loyalty_accounts": "customer_id",
    "addresses": "id",
    "requests": "key",
    "customer_requests": "key",
    "catalogue_requests": "key",
    "payment_requests": "key",
    "analytics_requests": "key",
    "order_items": "id",
    "payments": "id",
    "refunds": "id",
    "shipments": "id",
    "reviews": "id",
    "wishlist_items": "id",
    "accounting_transactions": "id",
    "accounting_entries": "id",
}

#: Tables whose rows a trigger writes: old rows must stay, new ones are judged by the invariants.
DERIVED = ("order_status_history", "audit_log")


class Journal:
    """Appends lines; each is handed to the operating system before `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._number = 0

    def write(self, **line: Any) -> None:
        """Append one line with the next number."""
        self._number += 1
        text = json.dumps({"n": self._number, **line}, separators=(",", ":"), default=str, ensure_ascii=False)
        self._file.write(text.encode() + b"\n")

    def mark(self, **line: Any) -> None:
        """Append a line that says what happened to the traffic itself, and when."""
        self.write(t=time.time(), **line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Return the journal's lines, oldest first; a last line that was cut off in the middle is left out."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)


@dataclass
class Tail:
    """Reads a journal while it is written: what came since the last look, in numbers only."""

    path: Path
    acknowledged: int = 0
    rolled_back: int = 0
    fenced: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: int = 0
    started: bool = False
    paused: bool = False
    ended: bool = False
    #: (moment due, latency in milliseconds) of every transaction, oldest first.
    latencies: list[tuple[float, float]] = field(default_factory=list)
    _offset: int = 0

    def look(self) -> Tail:
        """Read what is new and return self."""
        if not self.path.exists():
            return self
        with self.path.open("rb") as lines:
            lines.seek(self._offset)
            for raw in lines:
                if not raw.endswith(b"\n"):
                    break
                self._offset += len(raw)
                self._take(raw)
        return self

    def _take(self, raw: bytes) -> None:
        line = json.loads(raw)
        if "l" in line:
            self.latencies.append((line["t"], line["l"]))
            if line.get("r"):
                self.rolled_back += 1
            else:
                self.acknowledged += 1
        self.errors += [line["error"]] if "error" in line else []
        self.fenced += "fenced" in line
        self.wrong += "wrong" in line
        self.started |= "start" in line
        self.ended |= "end" in line
        if "paused" in line or "resumed" in line:
            self.paused = "paused" in line
