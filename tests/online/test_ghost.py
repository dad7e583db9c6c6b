"""The capture through a replication slot: what it finds, what it waits for, and what it survives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fix_standbys import Server
from fix_targets import run_sql
from fix_wal import ITEMS, Followed

Follow = Callable[..., Followed]

WRITES = """
    INSERT INTO items SELECT g, 'c' || g, g, NULL FROM generate_series(1, 5) AS g;
    UPDATE items SET n = NULL WHERE id = 2;
    UPDATE items SET id = 20 WHERE id = 3;
    DELETE FROM items WHERE id = 4;
"""


@pytest.fixture
def followed(any_logical: Server, follow: Follow) -> Followed:
    """Give a followed table `items`, empty."""
    found = follow(any_logical.database(), "items", sql=(ITEMS,))
    found.begin()
    return found


def test_every_touched_key_comes_old_and_new(followed: Followed) -> None:
    reader = followed.reader()
    run_sql(followed.url, WRITES)
    reader.barrier(10)
    assert followed.keys() == [1, 2, 3, 4, 5, 20]
    run_sql(followed.url, "TRUNCATE items")
    reader.barrier(10)
    assert followed.keys() == [1, 2, 3, 4, 5, 20, None]
