"""Events from one service's outbox to another one's handler: in order, once, whatever dies on the way."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from fix_crash import Crasher
from fix_process import Segue
from fix_targets import drop_role, make_role, rows, run_sql, until, value

HANDLER = """
CREATE TABLE heard (id bigint, key text, n int, seq bigint GENERATED ALWAYS AS IDENTITY);
CREATE FUNCTION hear(id bigint, topic text, key text, payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF payload ? 'bad' AND current_setting('server_version_num')::int > 0
        AND NOT EXISTS (SELECT FROM public.forgiven) THEN
        RAISE EXCEPTION 'no stock of %', key;
    END IF;
    INSERT INTO public.heard (id, key, n) VALUES (id, key, (payload->>'n')::int);
END $$;
CREATE TABLE forgiven (yes int);
"""
ROUTE = ("--from", "shop", "--to", "stock")


@dataclass
class Services:
    """Two services' databases."""

    source: str
    target: str

    def publish(self, *events: tuple[str, str]) -> None:
        """Publish events, each in a transaction of its own: key and payload."""
        with psycopg.connect(self.source, autocommit=True) as connection:
            for key, payload in events:
                connection.execute("SELECT segue_outbox.publish('order.placed', %s, %s)", [key, payload])


@pytest.fixture
def services(new_database: Callable[[], str], segue: Segue) -> Services:
    """Give the environments "shop", with an outbox, and "stock", whose handler `hear` is subscribed to it."""
    found = Services(new_database(), new_database())
    run_sql(found.target, HANDLER)
    for name, url in (("shop", found.source), ("stock", found.target)):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": url}).expect(0)
    segue("outbox", "create", "--env", "shop").expect(0)
    segue("outbox", "subscribe", "hall", *ROUTE, "-t", "order.placed", "--handler", "public.hear").expect(0)
    return found


def test_an_event_is_told_when_its_transaction_is_committed_and_never_otherwise(
    segue: Segue, services: Services
) -> None:
    with psycopg.connect(services.source) as told, psycopg.connect(services.source) as untold:
        told.execute("SELECT segue_outbox.publish('order.placed', 'late', '{\"n\": 1}')")
        untold.execute("SELECT segue_outbox.publish('order.placed', 'never', '{\"n\": 1}')")
        services.publish(("early", '{"n": 1}'))
        assert segue("outbox", "relay", "hall", *ROUTE, "--json").expect(0).json["received"] == 1
        told.commit()
        untold.rollback()
    # Its id is lower than one that was brought before.
    assert segue("outbox", "relay", "hall", *ROUTE, "--json").expect(0).json["received"] == 1
    assert [row[0] for row in rows(services.target, "SELECT key FROM heard ORDER BY seq")] == ["early", "late"]
    assert segue("outbox", "relay", "hall", *ROUTE, "--json").expect(0).json["received"] == 0


class Writers:
    """Writes events from several sessions, each key's numbered by a row that its writers lock; some roll back."""

    def __init__(self, services: Services, seed: int) -> None:
        self._services = services
        self._stop = threading.Event()
        run_sql(services.source, "CREATE TABLE counter (key text PRIMARY KEY, n int NOT NULL)")
        run_sql(services.source, "INSERT INTO counter SELECT 'k' || g, 0 FROM generate_series(1, 5) g")
        self._threads = [threading.Thread(target=self._write, args=(seed * 10 + i,)) for i in range(4)]
        self.written = 0
        for thread in self._threads:
            thread.start()

    def _write(self, seed: int) -> None:
        dice = random.Random(seed)
        with psycopg.connect(self._services.source) as connection:
            while not self._stop.is_set():
                # Numbered before it waits for the row: such an order differs from that of the commits.
                connection.execute("SELECT pg_current_xact_id()")
                key = f"k{dice.randint(1, 5)}"
                row = connection.execute("UPDATE counter SET n = n + 1 WHERE key = %s RETURNING n", [key]).fetchone()
                assert row is not None
                connection.execute(
                    "SELECT segue_outbox.publish('order.placed', %s, jsonb_build_object('n', %s::int))", [key, row[0]]
                )
                if dice.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    self.written += 1

    def end(self) -> None:
        """Let them come to an end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def wrong(services: Services) -> list[Any]:
    """Return keys of which an event is missing, came twice or came out of order."""
    wanted = dict(rows(services.source, "SELECT key, n FROM counter"))
    heard: dict[str, list[int]] = {key: [] for key in wanted}
    for key, n in rows(services.target, "SELECT key, n FROM heard ORDER BY seq"):
        heard[key].append(n)
    return [key for key, n in wanted.items() if heard[key] != list(range(1, n + 1))]


def test_events_of_a_key_stay_in_order_beside_many_writers(segue: Segue, services: Services) -> None:
    writers = Writers(services, 1)
    relay = segue.start("outbox", "relay", "hall", *ROUTE, "--follow", "--poll", "5ms", "--batch", "7")
    try:
        until(lambda: value(services.target, "SELECT count(*) FROM heard") > 300)
    finally:
        writers.end()
    until(lambda: value(services.target, "SELECT count(*) FROM heard") >= writers.written)
    relay.terminate()
    assert relay.wait(30) == 0
    assert writers.written > 300
    assert wrong(services) == []


POINTS = ("outbox-read", "outbox-handled", "outbox-delivered")


def test_promise_5_a_relay_killed_anywhere_brings_each_event_once(
    services: Services, segue: Segue, new_crasher: Callable[..., Crasher]
) -> None:
    crasher = new_crasher(**segue.env)
    writers = Writers(services, 2)
    try:
        for turn in range(2):
            for point in POINTS:
                until(lambda seen=writers.written: writers.written > seen + 20)
                killed = crasher("outbox", "relay", "hall", *ROUTE, "--batch", "5", kill=(point, turn + 1))
                assert killed["status"] == -9, killed
    finally:
        writers.end()
    assert crasher("outbox", "relay", "hall", *ROUTE)["status"] == 0
    assert wrong(services) == []


def test_a_lost_connection_is_opened_again(segue: Segue, services: Services) -> None:
    writers = Writers(services, 3)
    relay = segue.start("outbox", "relay", "hall", *ROUTE, "--follow", "--poll", "5ms", "--batch", "3")
    try:
        for url in (services.target, services.source, services.target):
            seen = value(services.target, "SELECT count(*) FROM heard")
            until(lambda seen=seen: value(services.target, "SELECT count(*) FROM heard") > seen + 20)
            cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
            assert value(url, f"{cut} AND application_name = 'segue outbox'") == 1
    finally:
        writers.end()
    until(lambda: value(services.target, "SELECT count(*) FROM heard") >= writers.written)
    assert wrong(services) == []
    relay.terminate()


def test_a_refused_event_is_parked_with_those_behind_it_and_others_go_on(segue: Segue, services: Services) -> None:
    services.publish(("a", '{"n": 1}'), ("a", '{"bad": 1, "n": 2}'), ("b", '{"n": 1}'), ("a", '{"n": 3}'))
    assert segue("outbox", "relay", "hall", *ROUTE, "--json").expect(1).json["parked"] == 2
    services.publish(("a", '{"n": 4}'))
    assert segue("outbox", "relay", "hall", *ROUTE, "--json").expect(1).json["parked"] == 3
    heard = "SELECT key, n FROM heard ORDER BY seq"
    assert rows(services.target, heard) == [("a", 1), ("b", 1)]
    shown = segue("outbox", "status", "--env", "stock").expect(1).stdout
    assert "no stock of a" in shown
    segue("outbox", "retry", "hall", "--to", "stock").expect(1)
    run_sql(services.target, "INSERT INTO forgiven VALUES (1)")
    assert segue("outbox", "retry", "hall", "--to", "stock", "--json").expect(0).json["handled"] == 3
    assert rows(services.target, heard) == [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("a", 4)]


def test_a_discarded_event_lets_those_behind_it_through(segue: Segue, services: Services) -> None:
    services.publish(("a", '{"bad": 1, "n": 1}'), ("a", '{"n": 2}'))
    segue("outbox", "relay", "hall", *ROUTE).expect(1)
    parked = segue("outbox", "status", "--env", "stock", "--json").expect(1).json["parked"]
    segue("outbox", "discard", "hall", "--to", "stock", "--event", str(parked[0]["id"]), "--yes").expect(0)
    segue("outbox", "discard", "hall", "--to", "stock", "--event", str(parked[0]["id"]), "--yes").expect(2)
    segue("outbox", "retry", "hall", "--to", "stock").expect(0)
    assert rows(services.target, "SELECT n FROM heard") == [(2,)]


def test_a_database_set_back_to_an_earlier_moment_is_noticed(segue: Segue, services: Services) -> None:
    services.publish(("a", '{"n": 1}'))
    segue("outbox", "relay", "hall", *ROUTE).expect(0)
    # The source was restored as it was before it knew that this was read.
    run_sql(services.source, "UPDATE segue_outbox.consumer SET readings = 0")
    assert "earlier moment" in segue("outbox", "relay", "hall", *ROUTE).expect(5).stderr


def test_received_events_are_removed_and_a_consumer_set_back_behind_them_is_noticed(
    segue: Segue, services: Services
) -> None:
    before = value(services.target, "SELECT last::text FROM segue_outbox.subscription")
    services.publish(("a", '{"n": 1}'), ("b", '{"n": 1}'))
    segue("outbox", "relay", "hall", *ROUTE, "--keep", "0s").expect(0)
    assert value(services.source, "SELECT count(*) FROM segue_outbox.event") == 0
    segue("outbox", "relay", "hall", *ROUTE).expect(0)
    run_sql(services.target, f"UPDATE segue_outbox.subscription SET last = '{before}'")
    assert "not received are gone" in segue("outbox", "relay", "hall", *ROUTE).expect(5).stderr


def test_an_event_stays_until_every_consumer_has_it(segue: Segue, services: Services) -> None:
    segue("outbox", "subscribe", "till", *ROUTE, "-t", "order.placed").expect(0)
    services.publish(("a", '{"n": 1}'))
    segue("outbox", "relay", "hall", *ROUTE, "--keep", "0s").expect(0)
    waiting = segue("outbox", "status", "--env", "shop", "--json").expect(0).json["consumers"]
    assert {c["name"]: c["waiting"] for c in waiting} == {"hall": 0, "till": 1}
    segue("outbox", "relay", "till", *ROUTE, "--keep", "0s").expect(0)
    assert value(services.source, "SELECT count(*) FROM segue_outbox.event") == 0
    assert rows(services.target, "SELECT consumer, key FROM segue_outbox.inbox") == [("till", "a")]


def test_a_second_relay_is_refused(segue: Segue, services: Services) -> None:
    with psycopg.connect(services.target) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('segue_outbox hall', 0))")
        segue("outbox", "relay", "hall", *ROUTE).expect(75)


def test_bad_input_says_what_to_do(segue: Segue, services: Services) -> None:
    subscribe = ("outbox", "subscribe", "x", *ROUTE)
    assert "no function public.nothing" in segue(*subscribe, "-t", "a", "--handler", "public.nothing").expect(2).stderr
    assert "cannot be a topic" in segue(*subscribe, "-t", "Sold!").expect(2).stderr
    assert "no outbox" in segue("outbox", "relay", "x", "--from", "stock", "--to", "shop").expect(2).stderr
    segue("outbox", "subscribe", "hall", *ROUTE, "-t", "other", "--handler", "public.hear").expect(3)
    segue("outbox", "relay", "nobody", *ROUTE).expect(2)
    segue("outbox", "drop", "--env", "shop", "--yes").expect(3)
    segue("outbox", "unsubscribe", "hall", *ROUTE, "--yes").expect(0)
    for environment in ("shop", "stock"):
        segue("outbox", "drop", "--env", environment, "--yes").expect(0)
    for url in (services.source, services.target):
        assert value(url, "SELECT to_regnamespace('segue_outbox') IS NULL")


def test_a_role_that_was_granted_may_publish_and_nothing_else(segue: Segue, services: Services) -> None:
    url = make_role(services.source)
    role = value(url, "SELECT current_user")
    with psycopg.connect(url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT segue_outbox.publish('order.placed', 'a', '{}')")
        segue("outbox", "create", "--env", "shop", "--grant", role).expect(0)
        connection.execute("SELECT segue_outbox.publish('order.placed', 'a', '{}')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT count(*) FROM segue_outbox.event")
    drop_role(services.source, url)
