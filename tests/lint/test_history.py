"""What a rule knows of what came before: guards, the names that the server gives, partitions."""

from __future__ import annotations

import subprocess
import sys

import pytest

from segue.databases.postgresql.changes import read
from segue.lint.history import History


def after(*texts: str) -> History:
    """Return the history after some files, each with a session of its own."""
    history = History()
    for text in texts:
        history.next_file(in_transaction=False)
        for statement in read(text):
            history.take(statement)
    return history


def test_table_that_existed_is_not_new_behind_if_not_exists() -> None:
    history = after(
        "CREATE TABLE orders (id int, day date NOT NULL)", "CREATE TABLE IF NOT EXISTS orders (id int, other int)"
    )
    assert not history.new("orders")
    assert set(history.table("orders").columns) == {"id", "day"}
    assert after("SELECT 1", "CREATE TABLE IF NOT EXISTS orders (id int)").new("orders")


def test_column_and_index_that_existed_stay_behind_if_not_exists() -> None:
    history = after(
        "CREATE TABLE orders (id int NOT NULL); CREATE INDEX i ON orders (id)",
        "ALTER TABLE orders ADD COLUMN IF NOT EXISTS id text; CREATE INDEX IF NOT EXISTS i ON orders (other)",
    )
    assert history.table("orders").columns["id"].type == "int4"
    assert history.indexes["i"].columns == ("id",)


@pytest.mark.parametrize(
    ("written", "called"),
    [
        ("ADD CHECK (amount > 0)", "orders_amount_check"),
        ("ADD CHECK (amount > price)", "orders_check"),
        ("ADD CHECK (amount > 0), ADD CHECK (amount < 9)", "orders_amount_check1"),
        ("ADD COLUMN n int CHECK (amount > n)", "orders_check"),
        ("ADD FOREIGN KEY (a, b) REFERENCES others", "orders_a_b_fkey"),
        ("ADD COLUMN n int REFERENCES others", "orders_n_fkey"),
        ("ADD UNIQUE (a, b)", "orders_a_b_key"),
        ("ADD PRIMARY KEY (a)", "orders_pkey"),
    ],
)
def test_unnamed_constraint_is_known_by_the_name_that_the_server_gives(written: str, called: str) -> None:
    text = f"ALTER TABLE orders {written}"
    assert after(text).table("orders").constraint(called)
    assert not after(text, f"ALTER TABLE orders DROP CONSTRAINT {called}").table("orders").constraint(called)


def test_validation_by_the_given_name_proves() -> None:
    text = "ALTER TABLE orders ADD CHECK (amount IS NOT NULL) NOT VALID"
    assert not after(text).table("orders").proven("amount")
    assert after(text, "ALTER TABLE orders VALIDATE CONSTRAINT orders_amount_check").table("orders").proven("amount")


def test_attached_table_is_a_partition() -> None:
    text = "ALTER TABLE events ATTACH PARTITION e1 FOR VALUES IN (1)"
    assert after(text).table("e1").partition_of == "events"


def test_explain_shows_what_an_earlier_file_did() -> None:
    command = [sys.executable, "-m", "segue", "explain", "primary-key-nullable"]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "In an earlier file:\n\n```sql\nCREATE UNIQUE INDEX keyless_id ON keyless (id);\n```" in words
