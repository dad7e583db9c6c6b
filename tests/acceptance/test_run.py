"""`segue run` and its companions as processes: every exit code, every message, nothing half-done."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_hostile import administrator
from fix_process import Segue

from segue.embedded import Cluster

CUSTOMERS = """
create table customers (
    id bigint generated always as identity primary key, first_name text, last_name text, n int not null default 0
);
insert into customers (first_name, last_name) select 'a' || g, 'b' || g from generate_series(1, 20000) g;
analyze customers;
"""

PLAN = """\
plan: full-name
version: 1.0.0
description: Give customers a full name
steps:
  - name: add-column
    kind: sql
    sql: ALTER TABLE customers ADD COLUMN full_name text
    reverse: ALTER TABLE customers DROP COLUMN full_name
  - name: fill
    kind: backfill
    needs: [add-column]
    table: customers
    set: {full_name: "first_name || ' ' || last_name", n: n + 1}
    batch: {size: 500, max: 500}
    pause: PAUSE
  - name: index
    kind: sql
    needs: [fill]
    sql: CREATE INDEX CONCURRENTLY customers_full_name ON customers (full_name)
    reverse: DROP INDEX CONCURRENTLY customers_full_name
  - name: all-filled
    kind: validate
    needs: [fill]
    query: SELECT count(*), max(n) FROM customers WHERE full_name IS NOT NULL
    row: [20000, 1]
"""


def head(name: str, rest: str = "") -> str:
    return f"plan: {name}\nversion: 1.0.0\ndescription: A test\n{rest}steps:\n"


def sql_step(name: str, sql: str, reverse: str = "SELECT 1", extra: str = "") -> str:
    return f"  - name: {name}\n    kind: sql\n    sql: {sql}\n    reverse: {reverse}\n{extra}"


class Shop:
    """A database with customers that is the environment `shop`."""

    def __init__(self, segue: Segue, url: str) -> None:
        self.segue = segue
        self.url = url
        with psycopg.connect(url) as connection:
            connection.execute(CUSTOMERS)
        self.add(url)

    def add(self, url: str, *more: str) -> None:
        self.segue("env", "add", "shop", "--type", "test", "--url-stdin", *more, text=url).expect(0)

    def plan(self, pause: str = "0ms") -> Path:
        return self.write(PLAN.replace("PAUSE", pause))

    def write(self, text: str) -> Path:
        path = self.segue.folder / "plan.yaml"
        path.write_text(text)
        return path

    def value(self, query: str) -> Any:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row and len(row) == 1 else row

    def wait(self, query: str, seconds: float = 60) -> None:
        """Wait until a query gives true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if self.value(query):
                    return
            except psycopg.Error:
                pass
            time.sleep(0.05)
        pytest.fail(f"never true: {query}")

    def status(self) -> Any:
        return self.segue("status", "--json").expect(0).json


BEGUN = "select to_regclass('segue.chunk') is not null and exists (select from segue.chunk)"


@pytest.fixture
def shop(segue: Segue, debian_database: str) -> Shop:
    return Shop(segue, debian_database)


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_run_completes_and_says_so(shop: Shop) -> None:
    outcome = shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    assert "full-name  shop  completed  4/4 steps" in outcome.stdout
    assert shop.value("select count(*) from customers where full_name = first_name || ' ' || last_name") == 20000
    assert [step["status"] for step in shop.status()["steps"]] == ["completed"] * 4


def test_run_of_a_completed_plan_does_nothing(shop: Shop) -> None:
    shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    again = shop.segue("run", "full-name", "--env", "shop", "--json").expect(0).json
    assert again["nothing_to_do"] is True
    assert shop.value("select max(n) from customers") == 1


def test_run_fills_the_record_of_jobs_and_batches(shop: Shop, store_url: str) -> None:
    shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    with psycopg.connect(store_url) as connection:
        job = connection.execute(
            "select status, progress_percent, processed_rows, successful_rows, total_rows "
            "from segue_store.data_migration_jobs"
        ).fetchone()
        batches = connection.execute(
            "select count(*), sum(successful_rows), bool_and(status = 'completed') "
            "from segue_store.data_migration_batches"
        ).fetchone()
    assert job == ("completed", 100.0, 20000, 20000, 20000)
    # Each is a range that was written in eight lanes of 500 keys.
    assert batches == (5, 20000, True)


def test_backfill_beyond_its_estimate_does_not_claim_to_be_done(shop: Shop) -> None:
    # Never analysed, and with shorter texts than the planner thinks: it guesses a third of the rows.
    with psycopg.connect(shop.url, autocommit=True) as connection:
        connection.execute("create table fresh (like customers including all) with (autovacuum_enabled = off)")
        connection.execute("insert into fresh (first_name, last_name) select 'a', 'b' from generate_series(1, 20000)")
    process = shop.segue.start(
        "run", shop.write(PLAN.replace("customers", "fresh").replace("PAUSE", "150ms")), "--env", "shop"
    )
    shop.wait(BEGUN)
    shown = ""
    while process.poll() is None and " so far" not in shown:
        shown = shop.segue("status").expect(0).stdout
    assert " so far" in shown
    code, _, said = ended(process)
    assert code == 0
    lines = [line for line in said.splitlines() if " rows, " in line]
    assert any("rows, more to come" in line for line in lines)
    assert [line for line in lines if "100 %" in line] == lines[-1:]
    assert "fill: 20,000 rows, 100 %" in lines[-1]
    assert "20,000 (100 %)" in shop.segue("status").expect(0).stdout


def test_short_execution_takes_less_than_a_second(shop: Shop) -> None:
    path = shop.write(head("quick") + sql_step("one", "CREATE TABLE one (id int)", "DROP TABLE one"))
    shop.segue("run", path, "--env", "shop").expect(0)
    said = shop.segue("status").expect(0).stdout
    assert "took" in said
    assert "took         0 ms" not in said


def test_execution_is_measured(shop: Shop) -> None:
    shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    metrics = shop.status()["metrics"]
    assert metrics["rows"] == 20000
    assert metrics["wal_bytes"] > 0
    assert metrics["latency_ms"]["p99"] > 0


def test_typo_in_the_plan_is_said_with_its_place(shop: Shop) -> None:
    path = shop.write(PLAN.replace("PAUSE", "0ms").replace("ADD COLUMN", "ADDD COLUMN"))
    outcome = shop.segue("run", path, "--env", "shop").expect(2)
    assert "plan.yaml:7:" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert shop.value("select to_regnamespace('segue') is null")


def test_missing_privilege_is_said_with_what_to_grant(shop: Shop) -> None:
    administrators = administrator(shop.url)
    with psycopg.connect(administrators, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"create role guest_{name} login password 'x'")
        connection.execute(f'alter table customers owner to "guest_{name}"')
    given = psycopg.conninfo.conninfo_to_dict(shop.url)
    guest = psycopg.conninfo.make_conninfo("", **{**given, "user": f"guest_{name}", "password": "x"})
    shop.segue("env", "add", "guest", "--type", "test", "--url-stdin", text=guest).expect(0)
    outcome = shop.segue("run", shop.plan(), "--env", "guest").expect(2)
    assert "GRANT CREATE ON DATABASE" in outcome.stderr
    assert shop.segue("status", "--all", "--json").json["executions"] == []
    assert shop.value("select to_regnamespace('segue') is null")
    with psycopg.connect(administrators, autocommit=True) as connection:
        connection.execute(f'reassign owned by "guest_{name}" to current_user')
        connection.execute(f'drop role "guest_{name}"')


def test_unknown_environment_is_said(segue: Segue) -> None:
    (segue.folder / "p.yaml").write_text(head("p") + sql_step("a", "SELECT 1"))
    assert 'no environment "nowhere"' in segue("run", "p.yaml", "--env", "nowhere").expect(2).stderr


def test_run_without_environment_is_a_usage_error(segue: Segue) -> None:
    segue("run", "p").expect(64)


def test_failing_validation_exits_with_findings(shop: Shop) -> None:
    path = shop.write(
        head("v") + "  - name: look\n    kind: validate\n    query: SELECT count(*) FROM customers\n    scalar: 5\n"
    )
    outcome = shop.segue("run", path, "--env", "shop").expect(1)
    assert "found 20000, expected 5" in outcome.stderr


def test_null_is_a_result_that_can_be_expected(shop: Shop, store_url: str) -> None:
    shop.segue(
        "run",
        shop.write(
            head("nulls")
            + "  - {name: none, kind: validate, query: SELECT NULL, scalar: null}\n"
            + "  - {name: some, kind: validate, query: 'SELECT true, NULL', row: [true, 1], blocking: false}\n"
        ),
        "--env",
        "shop",
    ).expect(0)
    said = shop.segue("logs").expect(0).stdout
    assert "none: found null" in said
    assert "some: found [true, null], expected [true, 1]" in said
    with psycopg.connect(store_url) as connection:
        kept = connection.execute(
            "select expected::text, actual::text, passed from segue_store.migration_validations order by step_name"
        ).fetchall()
    assert kept == [("null", "null", True), ("[true, 1]", "[true, null]", False)]


def test_refused_statement_fails_the_run_and_a_corrected_target_lets_it_go_on(shop: Shop) -> None:
    path = shop.write(
        head("refused")
        + sql_step("first", "UPDATE customers SET n = n + 1", "UPDATE customers SET n = n - 1")
        + sql_step(
            "second",
            "ALTER TABLE public.later ADD COLUMN x int",
            "ALTER TABLE public.later DROP COLUMN x",
            "    needs: [first]\n",
        )
    )
    outcome = shop.segue("run", path, "--env", "shop").expect(2)
    assert 'relation "public.later" does not exist' in outcome.stderr
    with psycopg.connect(shop.url) as connection:
        connection.execute("create table public.later ()")
    drifted = shop.segue("run", "refused", "--env", "shop").expect(3)
    assert "table later appeared" in drifted.stderr
    shop.segue("run", "refused", "--env", "shop", "--accept-drift").expect(0)
    assert shop.value("select max(n) from customers") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("    approval: true\n", 'step "a" waits for an approval'),
        ("    irreversible: gone\n", "cannot be undone: gone"),
    ],
)
def test_step_that_needs_what_is_not_there_is_refused(shop: Shop, words: str, said: str) -> None:
    step = sql_step("a", "SELECT 1", extra=words)
    path = shop.write(head("blocked") + (step.replace("    reverse: SELECT 1\n", "") if "irrev" in words else step))
    assert said in shop.segue("run", path, "--env", "shop").expect(3).stderr


def test_plan_for_another_schema_than_the_environments_is_refused(shop: Shop) -> None:
    with psycopg.connect(shop.url, autocommit=True) as connection:
        connection.execute("create schema sales")
    shop.add(shop.url, "--replace", "--schema", "sales")
    step = sql_step("one", "CREATE TABLE one (id int)", "DROP TABLE one")
    refused = shop.segue("run", shop.write(head("here") + step), "--env", "shop").expect(3)
    assert 'changes the schema "public", but environment "shop" is for the schema "sales"' in refused.stderr
    assert "target_schema: sales" in refused.stderr
    shop.segue("run", shop.write(head("here", "target_schema: sales\n") + step), "--env", "shop").expect(0)
    assert shop.value("select to_regclass('sales.one') is not null and to_regclass('public.one') is null")


def test_strategy_that_is_not_there_is_refused_with_a_pointer(shop: Shop) -> None:
    path = shop.write(head("blocked", "strategy: blue-green\n") + sql_step("a", "SELECT 1"))
    refused = shop.segue("run", path, "--env", "shop").expect(3).stderr
    assert "blue-green" in refused
    assert "docs/strategies.md" in refused
    assert "`segue run` would refuse it" in shop.segue("plan", "validate", path).expect(0).stderr


def test_failure_can_undo_everything(shop: Shop) -> None:
    path = shop.write(
        head("careful", "rollback: {on_failure: rollback}\n")
        + sql_step("first", "UPDATE customers SET n = n + 1", "UPDATE customers SET n = n - 1")
        + sql_step("second", "ALTER TABLE missing ADD COLUMN x int", "SELECT 1", "    needs: [first]\n")
    )
    outcome = shop.segue("run", path, "--env", "shop").expect(4)
    assert "was undone" in outcome.stderr
    assert shop.value("select max(n) from customers") == 0
    assert shop.status()["status"] == "rolled-back"


def test_target_set_back_behind_our_back_needs_a_person(shop: Shop) -> None:
    path = shop.write(
        head("setback")
        + sql_step("first", "CREATE TABLE made ()", "DROP TABLE made")
        + sql_step("second", "ALTER TABLE missing ADD COLUMN x int", "SELECT 1", "    needs: [first]\n")
    )
    shop.segue("run", path, "--env", "shop").expect(2)
    with psycopg.connect(shop.url) as connection:
        connection.execute("drop table made; drop schema segue cascade")
    outcome = shop.segue("run", "setback", "--env", "shop").expect(5)
    assert "the target does not show it" in outcome.stderr


def test_undo_that_the_target_knows_nothing_of_is_not_claimed(shop: Shop) -> None:
    path = shop.write(head("moved") + sql_step("first", "UPDATE customers SET n = n + 1", "SELECT 1"))
    shop.segue("run", path, "--env", "shop").expect(0)
    identity = shop.status()["execution"]
    shop.segue("env", "clean", "shop", "--yes").expect(0)
    outcome = shop.segue("rollback", identity).expect(5)
    assert "--resolve not-done" in outcome.stderr
    assert shop.status()["status"] == "completed"
    shop.segue("rollback", identity, "--resolve", "not-done").expect(0)
    assert shop.status()["status"] == "rolled-back"


def test_half_done_backfill_whose_progress_is_gone_does_not_begin_anew(shop: Shop) -> None:
    path = shop.write(
        head("halfway")
        + "  - name: fill\n    kind: backfill\n    table: customers\n    set: {n: n + 1}\n"
        + "    batch: {size: 1, max: 1}\n    timeout: 0.3s\n"
    )
    shop.segue("run", path, "--env", "shop").expect(2)
    with psycopg.connect(shop.url) as connection:
        connection.execute("drop schema segue cascade")
    assert "its record there" in shop.segue("run", "halfway", "--env", "shop").expect(5).stderr
    assert shop.value("select max(n) from customers") == 1


def test_plan_that_was_changed_in_the_store_is_refused(shop: Shop, store_url: str) -> None:
    path = shop.write(head("edited") + sql_step("first", "UPDATE customers SET n = n + 1", "SELECT 1"))
    shop.segue("plan", "add", path).expect(0)
    with psycopg.connect(store_url) as connection:
        connection.execute(
            "update segue_store.migration_plans "
            "set document = jsonb_set(document, '{steps,0,sql}', '\"DELETE FROM customers\"')"
        )
    assert "changed it in the store" in shop.segue("run", "edited", "--env", "shop").expect(3).stderr
    shop.segue("plan", "add", path).expect(0)
    shop.segue("run", "edited", "--env", "shop").expect(0)


def test_target_that_is_not_there_is_said(shop: Shop) -> None:
    nowhere = psycopg.conninfo.make_conninfo(shop.url, host="127.0.0.1", port="1")
    shop.segue("env", "add", "nowhere", "--type", "test", "--url-stdin", text=nowhere).expect(0)
    outcome = shop.segue("run", shop.plan(), "--env", "nowhere").expect(69)
    assert "127.0.0.1" in outcome.stderr


def test_second_run_is_refused_with_the_holders_name(shop: Shop) -> None:
    first = shop.segue.start("run", shop.plan("200ms"), "--env", "shop")
    shop.wait(BEGUN)
    second = shop.segue("run", "full-name", "--env", "shop").expect(75)
    assert f"pid {first.pid}" in second.stderr
    other = shop.segue.folder / "other.yaml"
    other.write_text(head("other") + sql_step("a", "SELECT 1"))
    third = shop.segue("run", other, "--env", "shop").expect(75)
    assert f"pid {first.pid}" in third.stderr
    first.send_signal(signal.SIGINT)
    assert ended(first)[0] == 130


def test_ctrl_c_stops_at_a_safe_point_and_the_run_goes_on(shop: Shop) -> None:
    process = shop.segue.start("run", shop.plan("200ms"), "--env", "shop")
    shop.wait(BEGUN)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130, err
    assert shop.status()["status"] == "paused"
    shop.segue("resume").expect(0)
    assert shop.value("select count(*), min(n), max(n) from customers") == (20000, 1, 1)


def test_killed_run_goes_on_where_it_was(shop: Shop) -> None:
    process = shop.segue.start("run", shop.plan("100ms"), "--env", "shop")
    shop.wait("select count(*) > 3 from segue.chunk")
    process.kill()
    # Not waited for yet: a process that was killed and not asked for its end drives nothing either.
    time.sleep(0.2)
    assert shop.status()["abandoned"]
    ended(process)
    done = shop.value("select count(*) from segue.chunk")
    shop.segue("run", "full-name", "--env", "shop", "--resume").expect(0)
    assert shop.value("select count(*), min(n), max(n) from customers") == (20000, 1, 1)
    assert shop.value("select count(*) from segue.chunk") > done


def test_pause_and_resume_from_another_process(shop: Shop) -> None:
    process = shop.segue.start("run", shop.plan("200ms"), "--env", "shop")
    shop.wait(BEGUN)
    assert "will be paused" in shop.segue("pause").expect(0).stderr
    code, _, err = ended(process)
    assert (code, "paused on request" in err) == (3, True)
    assert shop.status()["status"] == "paused"
    shop.segue("resume").expect(0)
    assert shop.value("select min(n), max(n) from customers") == (1, 1)


def test_drift_during_a_pause_is_found(shop: Shop) -> None:
    process = shop.segue.start("run", shop.plan("200ms"), "--env", "shop")
    shop.wait(BEGUN)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 130
    with psycopg.connect(shop.url) as connection:
        connection.execute("create index stray on public.customers (last_name)")
    assert "index stray on customers appeared" in shop.segue("resume").expect(3).stderr


def test_cancelled_run_can_only_be_taken_back(shop: Shop) -> None:
    process = shop.segue.start("run", shop.plan("200ms"), "--env", "shop")
    shop.wait(BEGUN)
    shop.segue("cancel").expect(0)
    assert ended(process)[0] == 3
    assert shop.status()["status"] == "cancelled"
    assert "was cancelled with" in shop.segue("run", "full-name", "--env", "shop").expect(3).stderr
    shop.segue("rollback").expect(0)
    assert "hint" not in shop.segue("cancel").expect(3).stderr
    assert shop.value(
        "select not exists (select from pg_attribute where attrelid = 'customers'::regclass and attname = 'full_name')"
    )


def test_cancelled_rollback_is_not_said_to_go_on(shop: Shop) -> None:
    path = shop.write(head("back") + sql_step("one", "CREATE TABLE one (id int)", "DROP TABLE nowhere"))
    shop.segue("run", path, "--env", "shop").expect(0)
    shop.segue("rollback", "--yes").expect(2)
    assert "failed (rolling back)" in shop.segue("status").expect(0).stdout
    shop.segue("cancel").expect(0)
    said = shop.segue("status").expect(0).stdout
    assert "cancelled" in said
    assert "rolling back" not in said


def test_rollback_takes_everything_back(shop: Shop) -> None:
    shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    shop.segue("rollback").expect(0)
    status = shop.status()
    assert (status["status"], status["steps_completed"]) == ("rolled-back", 0)
    assert shop.value("select to_regclass('customers_full_name') is null")
    assert shop.segue("rollback", "--json").expect(0).json["nothing_to_do"] is True


def test_rollback_refuses_what_later_plans_stand_on(shop: Shop) -> None:
    shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    first = shop.status()["execution"]
    later = shop.write(head("later") + sql_step("a", "ALTER TABLE customers ADD COLUMN x int"))
    shop.segue("run", later, "--env", "shop").expect(0)
    assert "later ones stand on it" in shop.segue("rollback", first).expect(3).stderr


def test_drift_is_refused_and_named(shop: Shop) -> None:
    shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    with psycopg.connect(shop.url) as connection:
        connection.execute("alter table customers add column surprise int")
    later = shop.write(head("later") + sql_step("a", "SELECT 1"))
    assert "column customers.surprise appeared" in shop.segue("run", later, "--env", "shop").expect(3).stderr


def test_plan_changed_after_it_began_is_refused(shop: Shop) -> None:
    path = shop.write(head("changing") + sql_step("a", "ALTER TABLE missing ADD COLUMN x int"))
    shop.segue("run", path, "--env", "shop").expect(2)
    path.write_text(head("changing") + sql_step("a", "SELECT 2"))
    shop.segue("run", path, "--env", "shop").expect(3)


def test_warning_step_fails_without_stopping_the_run(shop: Shop) -> None:
    path = shop.write(
        head("warns")
        + sql_step("hopeless", "ALTER TABLE missing ADD COLUMN x int", extra="    blocking: false\n")
        + sql_step("after", "SELECT 1", extra="    needs: [hopeless]\n")
        + sql_step("free", "UPDATE customers SET n = 7")
    )
    shop.segue("run", path, "--env", "shop").expect(0)
    assert [step["status"] for step in shop.status()["steps"]] == ["warned", "skipped", "completed"]
    assert shop.value("select max(n) from customers") == 7


def test_failing_step_is_tried_again_as_often_as_it_says(shop: Shop) -> None:
    path = shop.write(
        head("retries")
        + sql_step("a", "ALTER TABLE missing ADD COLUMN x int", extra="    retries: 2\n    backoff: 10ms\n")
    )
    shop.segue("run", path, "--env", "shop").expect(2)
    assert shop.status()["steps"][0]["attempt"] == 3


def test_lock_that_is_not_granted_names_who_holds_it(shop: Shop) -> None:
    path = shop.write(
        head("locks") + sql_step("a", "ALTER TABLE customers ADD COLUMN x int", extra="    lock_timeout: 1s\n")
    )
    with psycopg.connect(shop.url, application_name="the-app") as connection:
        connection.execute("select count(*) from customers")
        outcome = shop.segue("run", path, "--env", "shop").expect(75)
        assert "the-app" in outcome.stderr
        assert f"pid {connection.info.backend_pid}" in outcome.stderr
    shop.segue("run", "locks", "--env", "shop").expect(0)


def test_clean_is_refused_while_a_run_can_go_on(shop: Shop) -> None:
    path = shop.write(head("half") + sql_step("a", "ALTER TABLE missing ADD COLUMN x int"))
    shop.segue("run", path, "--env", "shop").expect(2)
    shop.segue("env", "clean", "shop", "--yes").expect(3)
    shop.segue("cancel").expect(0)
    shop.segue("env", "clean", "shop", "--yes").expect(0)
    assert shop.value("select to_regnamespace('segue') is null")


def test_dependency_must_be_completed_first(shop: Shop) -> None:
    later = shop.write(head("later", "depends_on: [full-name]\n") + sql_step("a", "SELECT 1"))
    assert "was never run here" in shop.segue("run", later, "--env", "shop").expect(3).stderr


def test_ledger_tells_the_whole_story(shop: Shop) -> None:
    shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    shop.segue("rollback").expect(0)
    shop.segue("ledger", "verify").expect(0)
    entries = shop.segue("ledger", "list", "--json").expect(0).json["entries"]
    story = [entry["action"] for entry in entries if entry["subject"] == "migration_executions"]
    assert sorted(story) == sorted(["pending", "running", "completed", "running", "rolled-back"])


@pytest.fixture
def own_server(home: Path, debian_server: Cluster) -> Callable[[], Cluster]:
    def make() -> Cluster:
        return Cluster(home / "own", bin_dir=debian_server._bin_dir if hasattr(debian_server, "_bin_dir") else None)

    return make


@pytest.mark.timeout(180)
def test_server_stopped_in_the_middle_and_back_again(segue: Segue, own_server: Callable[[], Cluster]) -> None:
    cluster = own_server()
    cluster.start()
    try:
        shop = Shop(segue, cluster.url())
        process = segue.start("run", shop.plan("100ms"), "--env", "shop")
        shop.wait("select count(*) > 3 from segue.chunk")
        cluster.kill()
        time.sleep(1)
        cluster.start()
        code, _, err = ended(process, 90)
        assert code == 0, err
        assert "is back" in err
        assert shop.value("select count(*), min(n), max(n) from customers") == (20000, 1, 1)
    finally:
        cluster.destroy()


@pytest.mark.timeout(180)
def test_server_stopped_in_the_middle_for_good(segue: Segue, own_server: Callable[[], Cluster]) -> None:
    cluster = own_server()
    cluster.start()
    try:
        shop = Shop(segue, cluster.url())
        process = segue.start("run", shop.plan("100ms"), "--env", "shop")
        shop.wait("select count(*) > 3 from segue.chunk")
        cluster.stop("immediate")
        code, _, err = ended(process, 120)
        assert code == 69, err
        assert "Traceback" not in err
        assert json.loads(segue("status", "--json").stdout)["status"] == "failed"
        cluster.start()
        segue("run", "full-name", "--env", "shop").expect(0)
        assert shop.value("select count(*), min(n), max(n) from customers") == (20000, 1, 1)
    finally:
        cluster.destroy()


def test_environment_that_leads_elsewhere_runs_the_plan_there(
    shop: Shop, new_debian_database: Callable[[], str]
) -> None:
    shop.segue("run", shop.plan(), "--env", "shop").expect(0)
    other = new_debian_database()
    with psycopg.connect(other) as connection:
        connection.execute(CUSTOMERS)
    shop.add(other, "--replace")
    ran = shop.segue("run", "full-name", "--env", "shop", "--json").expect(0).json
    assert (ran["nothing_to_do"], ran["number"], ran["status"]) == (False, 2, "completed")
    with psycopg.connect(other) as connection:
        assert connection.execute("select min(n), max(n) from customers").fetchone() == (1, 1)
    assert shop.segue("run", "full-name", "--env", "shop", "--json").expect(0).json["nothing_to_do"]
