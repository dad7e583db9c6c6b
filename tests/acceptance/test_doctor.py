"""`segue doctor` and `segue store`: they help when nothing is set up, and when something is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from fix_process import Segue

import segue as package

PASSWORD = "not-for-your-eyes"
EMBEDDED = {"SEGUE_STORE": None}
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def only_problem(report: dict[str, Any]) -> dict[str, Any]:
    (problem,) = report["problems"]
    assert set(problem) == {"what", "why", "do"}
    assert all(problem.values())
    return dict(problem)


def test_doctor_on_a_fresh_machine_says_what_to_type(segue: Segue) -> None:
    report = segue("doctor", "--json", env=EMBEDDED).expect(0).json
    assert (report["segue"], report["version"]) == (1, package.__version__)
    assert report["store"]["url"].startswith("postgresql:///segue?host=/")
    assert report["store"]["server_version"]
    assert report["store"]["schema_head"]
    assert (report["workers"], report["environments"], report["problems"]) == ([], [], [])
    said = segue("doctor", env=EMBEDDED).expect(0).stdout
    assert "next  segue demo" in said
    assert "segue env add" in said


def test_doctor_names_environments_and_the_unreachable_one(segue: Segue, database: str) -> None:
    for name, url in (("good", database), ("lost", f"postgresql://me:{PASSWORD}@127.0.0.1:1/shop")):
        words = ("--type", "test", "--url-env", "SHOP_URL")
        segue("env", "add", name, *words, env={"SHOP_URL": url}).expect(0)
    done = segue("doctor", "--json").expect(1)
    good, lost = done.json["environments"]
    assert (good["name"], good["reachable"]) == ("good", True)
    assert good["server_version"]
    assert (lost["name"], lost["reachable"], lost["server_version"]) == ("lost", False, None)
    assert only_problem(done.json)["what"] == 'environment "lost"'
    said = segue("doctor").expect(1).stdout
    assert "not reachable" in said
    assert PASSWORD not in said + done.stdout


def test_doctor_counts_no_worker_that_has_stopped(segue: Segue, store_url: str) -> None:
    segue("worker", "--once", "--name", "gone").expect(0)
    with psycopg.connect(store_url) as connection:
        assert connection.execute("SELECT status FROM segue_store.workers").fetchall() == [("stopped",)]
    assert segue("doctor", "--json").expect(0).json["workers"] == []


def test_doctor_helps_when_the_store_is_unreachable(segue: Segue) -> None:
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:1/store"
    done = segue("doctor", "--json", env={"SEGUE_STORE": url}).expect(1)
    assert done.json["store"] == {
        "url": "postgresql://127.0.0.1:1/store",
        "server_version": None,
        "schema_head": None,
    }
    assert only_problem(done.json)["what"] == "store"
    assert PASSWORD not in done.stdout + done.stderr
    assert PASSWORD not in segue("doctor", env={"SEGUE_STORE": url}).expect(1).stdout


def test_doctor_helps_when_the_key_is_another(segue: Segue, database: str) -> None:
    segue("env", "add", "shop", "--type", "test", "--url-env", "SHOP_URL", env={"SHOP_URL": database}).expect(0)
    problem = only_problem(segue("doctor", "--json", env={"SEGUE_KEY": KEY}).expect(1).json)
    assert problem["what"] == 'environment "shop"'
    assert "SEGUE_KEY" in problem["do"]


def test_doctor_says_once_what_is_wrong_with_the_key(segue: Segue, database: str) -> None:
    for name in ("shop", "stage"):
        segue("env", "add", name, "--type", "test", "--url-env", "SHOP_URL", env={"SHOP_URL": database}).expect(0)
    done = segue("doctor", "--json", env={"SEGUE_KEY": "short"}).expect(1)
    assert only_problem(done.json)["what"] == 'environments "shop", "stage"'
    assert [found["reachable"] for found in done.json["environments"]] == [None, None]
    said = segue("doctor", env={"SEGUE_KEY": "short"}).expect(1).stdout
    assert said.count("not looked at") == 2
    assert "not reachable" not in said


def test_doctor_helps_when_the_key_is_none(segue: Segue) -> None:
    problem = only_problem(segue("doctor", "--json", env={"SEGUE_KEY": "short"}).expect(1).json)
    assert problem["what"] == "key"


def test_doctor_helps_when_settings_are_wrong(segue: Segue) -> None:
    problem = only_problem(segue("doctor", "--json", env={"SEGUE_STORE": "mysql://host/store"}).expect(1).json)
    assert problem["what"] == "settings"


def test_doctor_helps_when_the_home_cannot_be_used(segue: Segue, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    env = {**EMBEDDED, "SEGUE_HOME": str(file / "home")}
    problem = only_problem(segue("doctor", "--json", env=env).expect(1).json)
    assert problem["what"] == "store"
    assert "SEGUE_HOME" in problem["do"]


def test_doctor_finds_a_run_whose_process_is_gone(segue: Segue, database: str, executed: Callable[..., str]) -> None:
    segue("env", "add", "shop", "--type", "test", "--url-env", "SHOP_URL", env={"SHOP_URL": database}).expect(0)
    execution = executed("running", lease_owner="somebody", heartbeat_at="2020-02-02T02:02:00Z")
    problem = only_problem(segue("doctor", "--json").expect(1).json)
    assert problem["what"] == f"execution {execution}"
    assert "since 2020-02-02 02:02 UTC" in problem["why"]
    assert f"segue resume {execution}" in problem["do"]


def test_store_url_is_one_that_a_client_takes_until_the_store_is_stopped(segue: Segue) -> None:
    url = segue("store", "url", env=EMBEDDED).expect(0).stdout.strip()
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM segue_store.environments").fetchone()
    assert row == (0,)
    assert segue("store", "status", "--json", env=EMBEDDED).expect(0).json["store"]["running"] is True
    segue("store", "stop", env=EMBEDDED).expect(0)
    assert segue("store", "status", "--json", env=EMBEDDED).expect(0).json["store"]["running"] is False


def test_store_url_in_json_has_no_user_and_no_password(segue: Segue, store_url: str) -> None:
    url = segue("store", "url", "--json").expect(0).json["url"]
    assert "@" not in url
    assert segue("store", "url").expect(0).stdout.strip() == store_url


def test_server_of_a_team_is_not_stopped(segue: Segue) -> None:
    assert "SEGUE_STORE" in segue("store", "stop").expect(64).stderr
