"""Looks at the services' read-only copies of shared tables: they have what their home has, and refuse writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from segue.demo import storefront
from segue.demo.services import MONOLITH, SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

    from segue.model.splits import ReadCopy

#: A change of each shared table at its home, and the way back.
CHANGES = {
    "tax_rates": ("UPDATE tax_rates SET percent = percent + 1", "UPDATE tax_rates SET percent = percent - 1"),
    "settings": ("INSERT INTO settings VALUES ('shared', 'true')", "DELETE FROM settings WHERE name = 'shared'"),
}
#: How long a copy may take to have what its home has.
SECONDS = 30.0


def look(copies: Iterable[ReadCopy], places: Mapping[str, str]) -> dict[str, bool]:
    """Change each shared table at its home and back; return by copy whether it followed, and refused the same write."""
    found = {}
    for copy in copies:
        home = f"{copy.home}-db" if copy.home in SERVICES else MONOLITH
        for table in (name.removeprefix("public.") for name in copy.tables):
            with storefront.connect(places[home]) as written, storefront.connect(places[copy.to]) as read:
                change, back = CHANGES[table]
                seen = [_same(written, read, table)]
                for statement in (change, back):
                    written.execute(statement.encode())
                    seen.append(_same(written, read, table))
                found[f"{copy.domain} reads {table}"] = all(seen) and _refused(read, change)
    return found


def _same(home: psycopg.Connection, copy: psycopg.Connection, table: str) -> bool:
    from psycopg import sql

    query = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(sql.Identifier(table))
    limit = time.monotonic() + SECONDS
    while home.execute(query).fetchall() != copy.execute(query).fetchall():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def _refused(copy: psycopg.Connection, statement: str) -> bool:
    import psycopg

    try:
        copy.execute(statement.encode())
    except psycopg.errors.ReadOnlySqlTransaction:
        return True
    return False
