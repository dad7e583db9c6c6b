"""A tenant's rows move from tables that others go on using: both write all the time, and nobody loses anything."""

from __future__ import annotations

import random
import signal
import threading
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from fix_process import Segue
from fix_standbys import Server
from fix_targets import Background, rows, run_sql, until, value

MOVING, STAYING = 7, 8
TABLES = """
CREATE TABLE orders (tenant int NOT NULL, id bigint NOT NULL, note text, PRIMARY KEY (tenant, id));
CREATE TABLE lines (tenant int NOT NULL, id bigint NOT NULL, no int NOT NULL, price numeric,
    PRIMARY KEY (tenant, id, no));
"""
ROWS = """
INSERT INTO orders SELECT 6 + t, g, 'o' || g FROM generate_series(1, 3) t, generate_series(1, 200) g;
INSERT INTO lines SELECT tenant, id, 1, id / 7.0 FROM orders;
"""
CREATE = ("move", "create", "seven", "--from", "one", "--to", "two", "-t", "orders", "-t", "lines", "--where")
ORDERS = "SELECT id, note FROM orders WHERE tenant = %s ORDER BY id"
LINES = "SELECT id, no, price FROM lines WHERE tenant = %s ORDER BY id, no"


@dataclass
class Tenant:
    """Writes to the rows of one tenant, where they are, and keeps what was acknowledged."""

    number: int
    places: tuple[str, str]
    orders: dict[int, str] = field(default_factory=dict)
    lines: dict[tuple[int, int], Any] = field(default_factory=dict)
    done: int = 0
    fenced: int = 0
    at: int = 0

    def __post_init__(self) -> None:
        self.orders = dict(rows(self.places[0], ORDERS, self.number))
        self.lines = {(id_, no): price for id_, no, price in rows(self.places[0], LINES, self.number)}

    def write(self, stop: threading.Event) -> None:
        chance = random.Random(self.number)
        with psycopg.connect(self.places[0]) as a, psycopg.connect(self.places[1]) as b:
            while not stop.is_set():
                orders, lines = dict(self.orders), dict(self.lines)
                session = (a, b)[self.at]
                try:
                    self._once(session, chance, orders, lines)
                    session.commit()
                except psycopg.errors.SerializationFailure as error:
                    session.rollback()
                    if error.diag.constraint_name != "segue_fence":
                        raise
                    self.fenced += 1
                    self.at = 1 - self.at
                    continue
                self.orders, self.lines = orders, lines
                self.done += 1
                stop.wait(chance.random() * 0.01)

    def _once(self, session: Any, chance: random.Random, orders: dict[int, str], lines: dict[Any, Any]) -> None:
        what, id_ = chance.choice("iudp"), chance.choice(sorted(orders))
        if what == "i":
            id_ = max(orders) + 1
            orders[id_], lines[id_, 1] = "new", None
            session.execute("INSERT INTO orders VALUES (%s, %s, 'new')", (self.number, id_))
            session.execute("INSERT INTO lines VALUES (%s, %s, 1, NULL)", (self.number, id_))
        elif what == "u":
            orders[id_] = f"{chance.random()}"
            changed = (orders[id_], self.number, id_)
            session.execute("UPDATE orders SET note = %s WHERE (tenant, id) = (%s, %s)", changed)
        elif what == "d" and len(orders) > 50:
            del orders[id_]
            lines_of = [key for key in lines if key[0] == id_]
            for key in lines_of:
                del lines[key]
            session.execute("DELETE FROM orders WHERE (tenant, id) = (%s, %s)", (self.number, id_))
            session.execute("DELETE FROM lines WHERE (tenant, id) = (%s, %s)", (self.number, id_))
        elif (id_, 1) in lines:
            # A key that changes.
            number = max(no for other, no in lines if other == id_) + 1
            lines[id_, number] = lines.pop((id_, 1))
            session.execute("UPDATE lines SET no = %s WHERE (tenant, id, no) = (%s, %s, 1)", (number, self.number, id_))

    def agrees(self, url: str) -> bool:
        """Tell whether a database has exactly what was acknowledged."""
        there = {(id_, no): price for id_, no, price in rows(url, LINES, self.number)}
        return dict(rows(url, ORDERS, self.number)) == self.orders and there == self.lines


@pytest.fixture
def shards(segue: Segue, moving_server: Server) -> tuple[str, str]:
    """Give the environments "one", with the rows of three tenants, and "two", with the same tables empty."""
    found = moving_server.database(), moving_server.database()
    for name, url in zip(("one", "two"), found, strict=True):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": url}).expect(0)
        run_sql(url, TABLES)
    run_sql(found[0], ROWS)
    return found


def test_a_condition_names_rows_of_every_table(segue: Segue, shards: tuple[str, str]) -> None:
    assert "--where:1:1" in segue(*CREATE, "s.nothing = 7").expect(2).stderr
    assert "--where:1:" in segue(*CREATE, "s.tenant = (select 7)").expect(2).stderr
    segue(*CREATE, "s.tenant = 7", "--schema").expect(64)
    segue(*CREATE, "s.tenant = 7", "--shape", "some.yaml").expect(64)
    segue(*CREATE, "s.tenant = 7").expect(0)
    assert segue("move", "start", "seven", "--json").expect(0).json["tables"] == {
        "public.orders": 200,
        "public.lines": 200,
    }
    assert rows(shards[1], "SELECT DISTINCT tenant FROM lines") == [(7,)]


@pytest.mark.slow
def test_one_tenant_moves_while_all_write(segue: Segue, shards: tuple[str, str]) -> None:
    segue(*CREATE, "s.tenant = 7").expect(0)
    stop = threading.Event()
    tenants = [Tenant(MOVING, shards), Tenant(STAYING, shards)]
    writers = [Background(lambda tenant=tenant: tenant.write(stop)) for tenant in tenants]
    try:
        until(lambda: all(tenant.done > 20 for tenant in tenants))
        segue("move", "start", "seven").expect(0)
        follower = segue.start("move", "follow", "seven")
        for verb in ("switch", "reverse", "switch"):
            marks = [tenant.done for tenant in tenants]
            until(lambda marks=marks: all(t.done > mark + 30 for t, mark in zip(tenants, marks, strict=True)))
            segue("move", verb, "seven", "--budget", "20s").expect(0)
        marks = [tenant.done for tenant in tenants]
        until(lambda: all(t.done > mark + 30 for t, mark in zip(tenants, marks, strict=True)))
    finally:
        stop.set()
        for writer in writers:
            writer.result()
    moved, stayed = tenants
    assert (moved.at, stayed.at, stayed.fenced) == (1, 0, 0)
    segue("move", "verify", "seven").expect(0)
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(60) == 0
    assert moved.agrees(shards[1])
    assert stayed.agrees(shards[0])
    assert value(shards[1], "SELECT count(*) FROM orders WHERE tenant <> 7") == 0
    with pytest.raises(psycopg.errors.SerializationFailure):
        run_sql(shards[0], "UPDATE orders SET note = 'late' WHERE tenant = 7")
    segue("move", "complete", "seven", "--yes").expect(0)
    # Whoever wants the rows of the source to go deletes them: a move never does.
    assert value(shards[0], "SELECT count(*) > 0 FROM orders WHERE tenant = 7")
    run_sql(shards[0], "DELETE FROM orders WHERE tenant = 7")
