"""A small storefront that an application has worked on, with what its journal says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from segue.demo import oracle, storefront
from segue.demo.journal import Tail
from segue.embedded import Cluster

PASSWORD = "only-for-tests"  # the role is the cluster's, so all tests on it share the password


@dataclass
class Shop:
    """A storefront and where its past is written down."""

    url: str
    folder: Path

    def judge(self) -> oracle.Verdict:
        return oracle.judge(self.url, self.folder / "before", self.folder / "journal")

    def application_url(self) -> str:
        return make_conninfo(self.url, user=storefront.APPLICATION, password=PASSWORD)

    def tail(self) -> Tail:
        return Tail(self.folder / "journal").look()


def open_shop(url: str, folder: Path) -> Shop:
    """Create and fill a small storefront, and write down what it holds."""
    storefront.create(url, PASSWORD)
    storefront.load(url, 0.001)
    oracle.take(url, folder / "before")
    return Shop(url, folder)


def work(shop: Shop, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> Tail:
    """Let the application work on it; `meanwhile` is called over and over."""
    traffic = subprocess.Popen(
        [sys.executable, "-m", "segue.demo.traffic", "--journal", shop.folder / "journal", "--rate", "200"],
        env={**os.environ, "STOREFRONT_URL": shop.application_url()},
    )
    try:
        limit = time.monotonic() + 30
        while not shop.tail().started:
            assert traffic.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            meanwhile()
            time.sleep(0.05)
        traffic.send_signal(signal.SIGTERM)
        assert traffic.wait(20) == 0
    finally:
        traffic.kill()
        traffic.wait()
    return shop.tail()


@pytest.fixture
def new_shop(database: str, tmp_path: Path) -> Shop:
    """Give a storefront of this test's own, on which nobody has worked yet."""
    return open_shop(database, tmp_path)


@pytest.fixture(scope="session")
def worked_shop(server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Give a storefront on which the application has worked; tests change only copies of it."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE worked_shop")
        shop = open_shop(server.url("worked_shop"), tmp_path_factory.mktemp("shop"))
        work(shop, 2.5)
        yield shop
        connection.execute("DROP DATABASE worked_shop WITH (FORCE)")


@pytest.fixture
def shop(server: Cluster, worked_shop: Shop) -> Iterator[Shop]:
    """Give a copy of a storefront on which the application has worked."""
    name = sql.Identifier(f"{conninfo_to_dict(worked_shop.url)['dbname']}_copy")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE worked_shop").format(name))
        yield Shop(server.url("worked_shop_copy"), worked_shop.folder)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
