"""Live moves whose processes are killed, whose connections are cut and whose servers restart, under writers."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from fix_process import Segue
from fix_proxy import Proxy
from fix_servers import HASTY, short_folder
from fix_targets import Background, rows, run_sql, until
from fix_wal import LOGICAL
from psycopg import conninfo

from segue.embedded import Cluster

WRITERS = 4
OWN = 50
TABLES = ("counter", "event", "bulk")
SCHEMA = (
    "CREATE TABLE counter (id integer PRIMARY KEY, n bigint NOT NULL)",
    "CREATE TABLE event (writer integer, no bigint, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (writer, no))",
    "CREATE TABLE bulk (id bigint PRIMARY KEY, filling text NOT NULL)",
)
OPTIONS = {**HASTY, **LOGICAL, "wal_writer_delay": "200ms", "wal_receiver_timeout": "5s", "wal_sender_timeout": "5s"}


@dataclass
class Writer:
    """The application: each transaction counts up rows of its own and adds an event, on whichever side is open.

    A transaction whose end is unknown is looked up before the next: its event is there or it is not.
    """

    urls: dict[str, str]
    number: int
    counts: dict[int, int] = field(default_factory=dict)
    events: int = 0
    doubts: int = 0
    fenced: int = 0
    errors: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        side, doubt = "source", None
        chance = random.Random(self.number)
        while not self.over.is_set() or doubt is not None:
            try:
                with psycopg.connect(self.urls[side], autocommit=True) as session:
                    while not self.over.is_set() or doubt is not None:
                        if doubt is not None:
                            self._settle(session, doubt)
                            doubt = None
                        doubt = keys = chance.sample(range(OWN), chance.choice([1, 2, 5]))
                        self._write(session, keys)
                        self._acknowledged(keys)
                        doubt = None
                        self.over.wait(0.01)
            except psycopg.errors.SerializationFailure as error:
                # The fence: nothing was written, and the other side is open, or will be.
                doubt = None
                self.fenced += 1
                if error.diag.constraint_name != "segue_fence":
                    self.errors.append(repr(error))
                side = "target" if side == "source" else "source"
                time.sleep(0.02)
            except psycopg.OperationalError as error:
                if error.sqlstate not in (None, "57P01", "57P02", "57P03"):
                    self.errors.append(repr(error))
                    doubt = None
                time.sleep(0.1)
            except psycopg.Error as error:
                self.errors.append(repr(error))
                doubt = None

    def _write(self, session: psycopg.Connection[Any], keys: list[int]) -> None:
        mine = [self.number * OWN + key for key in keys]
        with session.transaction():
            done = session.execute("UPDATE counter SET n = n + 1 WHERE id = ANY(%s)", [mine])
            assert done.rowcount == len(mine)
            session.execute("INSERT INTO event (writer, no) VALUES (%s, %s)", [self.number, self.events + 1])

    def _settle(self, session: psycopg.Connection[Any], keys: list[int]) -> None:
        self.doubts += 1
        # The lock waits for the transaction in doubt, whose session the server may not have ended yet.
        with session.transaction():
            session.execute("SELECT FROM counter WHERE id / %s = %s FOR UPDATE", [OWN, self.number])
            query = "SELECT FROM event WHERE writer = %s AND no = %s"
            done = session.execute(query, [self.number, self.events + 1]).rowcount
        if done:
            self._acknowledged(keys)

    def _acknowledged(self, keys: list[int]) -> None:
        self.events += 1
        for key in keys:
            self.counts[key] = self.counts.get(key, 0) + 1


@dataclass
class Site:
    """Two servers behind proxies, a move between them, and what is done to all of these."""

    segue: Segue
    clusters: dict[str, Cluster]
    proxies: dict[str, Proxy]
    writers: list[Writer]
    chance: random.Random
    done: dict[str, int] = field(default_factory=dict)

    def insist(self, *words: str, pause: tuple[float, float], disturbances: int) -> None:
        """Run a command until it succeeds, disturbed this many times at most."""
        end = time.monotonic() + 240
        while True:
            process = self.segue.start(*words)
            for _ in range(2):
                try:
                    process.wait(self.chance.uniform(*pause))
                    break
                except subprocess.TimeoutExpired:
                    if disturbances > 0:
                        disturbances -= 1
                        self.disturb(process)
            said = process.communicate(timeout=120)
            if process.returncode == 0:
                return
            assert "Traceback" not in said[1], said[1]
            assert time.monotonic() < end, f"{words} ended with {process.returncode}: {said[1]}"

    def disturb(self, process: subprocess.Popen[str]) -> None:
        what = self.chance.choice(["kill", "kill", "cut-source", "cut-target", "restart-target", "restart-source"])
        self.done[what] = self.done.get(what, 0) + 1
        verb, _, name = what.partition("-")
        if verb == "kill":
            process.kill()
        elif verb == "cut":
            self.proxies[name].cut()
        else:
            self.clusters[name].stop(self.chance.choice(["fast", "immediate"]))
            self.clusters[name].start()

    def content(self, name: str) -> dict[str, list[tuple[Any, ...]]]:
        url = self.clusters[name].url("shop")
        queries = {
            "counter": "SELECT id, n FROM counter ORDER BY 1",
            "event": "SELECT writer, count(*), max(no) FROM event GROUP BY 1 ORDER BY 1",
            "bulk": "SELECT count(*), sum(hashtext(filling)::bigint) FROM bulk",
        }
        return {table: rows(url, query) for table, query in queries.items()}

    def remains(self, name: str) -> list[tuple[Any, ...]]:
        query = """
            SELECT nspname FROM pg_namespace WHERE nspname LIKE 'segue%'
            UNION ALL SELECT slot_name FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication
            UNION ALL SELECT subname FROM pg_subscription UNION ALL SELECT tgname FROM pg_trigger WHERE NOT tgisinternal
        """
        return rows(self.clusters[name].url("shop"), query)


@pytest.fixture
def site(segue: Segue, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Give the move "shop", created but not begun, of as many rows as the test's parameter says, under writers."""
    folder = short_folder()
    clusters = {name: Cluster(folder / name, options=OPTIONS, tcp=True) for name in ("source", "target")}
    proxies = {}
    writers: list[Writer] = []
    threads: list[Background] = []
    try:
        urls = {}
        for name, cluster in clusters.items():
            cluster.start()
            run_sql(cluster.url("postgres"), "CREATE DATABASE shop")
            urls[name] = cluster.url("shop")
            run_sql(urls[name], *SCHEMA)
            port = int(conninfo.conninfo_to_dict(urls[name])["port"] or 0)
            proxies[name] = Proxy(port)
            through = urls[name].replace(f":{port}/", f":{proxies[name].port}/")
            segue("env", "add", name, "--type", "test", "--url-env", "URL", env={"URL": through}).expect(0)
        run_sql(
            urls["source"],
            f"INSERT INTO counter SELECT g, 0 FROM generate_series(0, {WRITERS * OWN - 1}) g",
            f"INSERT INTO bulk SELECT g, repeat(md5(g::text), 6) FROM generate_series(1, {request.param}) g",
            "ANALYZE",
        )
        words = [word for table in TABLES for word in ("-t", table)]
        segue("move", "create", "shop", "--from", "source", "--to", "target", *words).expect(0)
        writers += [Writer(urls, number) for number in range(WRITERS)]
        threads += [Background(writer.run) for writer in writers]
        yield Site(segue, clusters, proxies, writers, random.Random(7))
    finally:
        for writer in writers:
            writer.over.set()
        for thread in threads:
            thread.result()
        for proxy in proxies.values():
            proxy.close()
        for cluster in clusters.values():
            cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def _soak(site: Site, workers: int, disturbances: int, turns: int) -> None:
    site.insist("move", "start", "shop", "--workers", str(workers), pause=(0.5, 4), disturbances=disturbances)
    for verb in ("switch", "reverse") * turns:
        marks = [writer.events for writer in site.writers]
        until(lambda marks=marks: all(w.events > mark + 10 for w, mark in zip(site.writers, marks, strict=True)), 60)
        site.insist("move", verb, "shop", "--budget", "20s", pause=(0.5, 3), disturbances=max(1, disturbances // 3))
    site.insist("move", "switch", "shop", "--budget", "20s", pause=(60, 61), disturbances=0)
    for writer in site.writers:
        writer.over.set()
    site.segue("verify", "source", "target", *(word for table in TABLES for word in ("-t", table))).expect(0)
    site.segue("move", "complete", "shop", "--yes", timeout=120).expect(0)
    assert [writer.errors for writer in site.writers] == [[]] * WRITERS
    there = site.content("target")
    assert dict(there["counter"]) == {
        writer.number * OWN + key: writer.counts.get(key, 0) for writer in site.writers for key in range(OWN)
    }
    assert there["bulk"] == site.content("source")["bulk"]
    assert there["event"] == [(writer.number, writer.events, writer.events) for writer in site.writers]
    assert site.remains("source") == site.remains("target") == []
    assert site.done


@pytest.mark.parametrize("site", [60_000], indirect=True)
def test_a_move_comes_through_kills_cuts_and_restarts(site: Site) -> None:
    _soak(site, workers=2, disturbances=3, turns=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("site", [3_000_000], indirect=True)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_large_move_comes_through_many(site: Site, workers: int) -> None:
    site.chance = random.Random(workers)
    _soak(site, workers=workers, disturbances=12, turns=3)
