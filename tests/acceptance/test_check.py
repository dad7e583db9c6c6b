"""`segue env check` as a process: lights, exit codes, what is kept of it."""

from __future__ import annotations

import psycopg
import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import make_role, run_sql


def test_an_environment_is_checked_and_the_findings_are_kept(
    segue: Segue, shops: Shops, database: str, store_url: str
) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    shops.open("shop", database)
    done = segue("env", "check", "shop").expect(0)
    assert "green   server" in done.stdout
    assert done.stdout.index("amber") < done.stdout.index("green")
    assert "amber" in done.stderr
    found = segue("env", "check", "shop", "--json").expect(0).json
    assert (found["ok"], found["environment"], found["replicas"]) == (True, "shop", [])
    with psycopg.connect(store_url) as connection:
        row = connection.execute("SELECT checked, identity FROM segue_store.environments").fetchone()
    assert row is not None
    assert row[0]["findings"] == found["findings"]
    assert row[1]["system_identifier"] == found["identity"]["system_identifier"]


def test_a_red_light_is_exit_code_1_with_what_to_do(segue: Segue, shops: Shops, database: str) -> None:
    run_sql(database, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    shops.open("shop", make_role(database))
    done = segue("env", "check", "shop", "--expect-replica", "east").expect(1)
    assert done.stdout.startswith("red     keep lease and history")
    assert "do: as an owner: GRANT CREATE ON DATABASE" in done.stdout
    assert "red     replica east" in done.stdout


@pytest.mark.parametrize(("url", "code"), [("postgresql://me:hush@127.0.0.1:1/shop", 69), (None, 2)])
def test_what_cannot_be_checked_says_why(segue: Segue, shops: Shops, url: str | None, code: int) -> None:
    if url is not None:
        shops.open("shop", url)
    done = segue("env", "check", "shop").expect(code)
    assert "hush" not in done.stderr
