"""What is kept of a check: the replicas to expect, which database it was, and that it is another one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
import pytest
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import until, value
from psycopg.conninfo import make_conninfo

from segue.errors import UsageError
from segue.model.checks import Finding, Light
from segue.services import checks, environments
from segue.services.checks import Checked
from segue.store import secrets


def check(shops: Shops, **words: list[str]) -> Checked:
    return checks.check(shops.store, shops.settings, shops.parts, "shop", **words)


def row(shops: Shops) -> Any:
    with shops.store.session() as session:
        return environments.get(session, "shop")


def lead_to(shops: Shops, url: str) -> None:
    """Give the environment another URL."""
    with shops.store.session() as session:
        environments.get(session, "shop").database_url = secrets.encrypt(shops.settings, url)


def reds(found: Checked) -> list[str]:
    return [finding.what for finding in found.findings if finding.light is Light.RED]


def of_database(found: Checked) -> list[Finding]:
    return [finding for finding in found.findings if finding.what == "database"]


def test_a_replica_that_is_expected_and_missing_is_red_until_it_is_forgotten(shops: Shops, database: str) -> None:
    shops.open("shop", database)
    found = check(shops, expect=["east"])
    assert (reds(found), found.replicas) == (["replica east"], ["east"])
    assert row(shops).checked["replicas"] == ["east"]
    assert reds(check(shops)) == ["replica east"]  # nobody need say it again
    assert check(shops, forget=["east"]).replicas == []
    assert (reds(check(shops)), row(shops).checked["replicas"]) == ([], [])
    assert len(shops.ledger("replicas-expected")) == 2


def test_replicas_that_are_there_are_expected_from_then_on(shops: Shops, own_server: Server) -> None:
    url = own_server.database()
    shops.open("shop", url)
    with own_server.replica("north"):
        until(lambda: value(url, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'north'"))
        assert check(shops).replicas == ["north"]
        # What a person need not have is not taken up again, though it is there.
        assert check(shops, forget=["north"]).replicas == []
        assert check(shops).replicas == []
        assert check(shops, expect=["north"]).replicas == ["north"]
    until(lambda: value(url, "SELECT count(*) = 0 FROM pg_stat_replication"))
    assert reds(check(shops)) == ["replica north"]


def test_names_that_mean_nothing_are_refused(shops: Shops, database: str) -> None:
    shops.open("shop", database)
    for words in ({"forget": ["nobody"]}, {"expect": ["a"], "forget": ["a"]}, {"expect": [" "]}):
        with pytest.raises(UsageError):
            check(shops, **words)
    assert row(shops).checked is None


def test_an_environment_that_leads_elsewhere_is_said_to(shops: Shops, database: str, debian_database: str) -> None:
    shops.open("shop", database)
    first = check(shops, expect=["east"])
    assert checks.since(row(shops)) is None
    lead_to(shops, debian_database)
    assert checks.same_target(row(shops), checks.identity(debian_database, shops.parts)) is False
    found = check(shops)
    (moved,) = of_database(found)
    assert (moved.light, str(first.identity["system_identifier"]) in moved.found) == (Light.AMBER, True)
    assert found.replicas == ["east"]  # a person said so
    assert of_database(check(shops)) == []
    assert len(shops.ledger("repointed")) == 1
    since = checks.since(row(shops))
    assert isinstance(since, datetime)
    (earlier,) = row(shops).identity["earlier"]
    assert (earlier["system_identifier"], earlier["until"]) == (
        first.identity["system_identifier"],
        since.isoformat(),
    )


def test_another_database_of_the_same_server_is_another_one(shops: Shops, database: str) -> None:
    shops.open("shop", database)
    check(shops)
    known = row(shops)
    assert checks.same_target(known, checks.identity(database, shops.parts)) is True
    other = checks.identity(make_conninfo(database, dbname="postgres"), shops.parts)
    assert checks.same_target(known, other) is False


@pytest.mark.parametrize(
    ("known", "found", "same"),
    [
        (None, (None, 1), None),
        (("7", 1), ("7", 1), True),
        (("7", 1), ("7", 2), False),
        (("7", 1), ("8", 1), False),
        ((None, 1), ("8", 1), None),  # every new server numbers its databases alike
        ((None, 1), ("8", 2), False),
        (("7", 1), (None, 1), None),
    ],
)
def test_what_cannot_be_told_is_neither_the_same_nor_another(
    known: tuple[str, int] | None, found: tuple[str | None, int], same: bool | None
) -> None:
    class Row:
        """The part of an environment that is asked for."""

        identity = {"system_identifier": known[0], "database_oid": known[1]} if known else None

    words = {"system_identifier": found[0], "database_oid": found[1], "database": "shop"}
    assert checks.same_target(Row(), words) is same  # type: ignore[arg-type]


def test_a_check_keeps_findings_that_a_store_can_hold(shops: Shops, database: str, store_url: str) -> None:
    shops.open("shop", database)
    found = check(shops)
    with psycopg.connect(store_url) as connection:
        kept = connection.execute("SELECT checked -> 'findings' FROM segue_store.environments").fetchone()
    assert kept is not None
    assert kept[0] == [finding.as_json() for finding in found.findings]
