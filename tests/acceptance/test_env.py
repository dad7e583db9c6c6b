"""Environments: added from every place a URL can come from, measured, shown without secrets, removed, cleaned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from fix_pooler import Pooler
from fix_process import Outcome, Segue
from psycopg.conninfo import conninfo_to_dict, make_conninfo

SUPPORT = Path(__file__).parents[2] / "src/segue/databases/postgresql/sql/support.sql"


def add(segue: Segue, url: str, name: str = "shop", *words: str) -> Outcome:
    return segue("env", "add", name, "--type", "staging", "--url-env", "SHOP_URL", *words, env={"SHOP_URL": url})


def password(url: str) -> str:
    return str(conninfo_to_dict(url)["password"])


def leave_traces(url: str, execution: str = "e1") -> None:
    """Leave in a database what a migration leaves there."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SUPPORT.read_bytes())
        connection.execute(
            "INSERT INTO segue.history (execution, plan, plan_hash, step, direction, part, state, fence) "
            "VALUES (%s, 'add-names', '0', 'add', 'forward', 1, 'done', 1)",
            [execution],
        )


def has_schema(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return bool(connection.execute("SELECT to_regnamespace('segue') IS NOT NULL").fetchone()[0])  # type: ignore[index]


def test_added_environment_is_measured_and_shown(segue: Segue, database: str) -> None:
    words = ("--maintenance-window", "Sunday 2-4 AM UTC", "--promotion-order", "2", "--schema", "sales", "--json")
    added = add(segue, database, "shop", *words).expect(0).json["environment"]
    assert (added["data_size"], added["traffic_level"]) == ("small", "low")
    assert added["measured"]["size_bytes"] > 1_000_000
    shown = segue("env", "show", "shop", "--json").expect(0).json["environment"]
    assert shown == added
    assert shown["maintenance_window"] == "Sunday 2-4 AM UTC"
    assert "small" in segue("env", "list").expect(0).stdout


def test_url_is_stored_encrypted_and_its_password_is_shown_nowhere(segue: Segue, database: str, store_url: str) -> None:
    secret = password(database)
    said = [add(segue, database).expect(0), segue("env", "show", "shop"), segue("env", "list", "--json")]
    said += [segue("doctor", "--json"), segue("ledger", "list", "--json"), segue("env", "remove", "shop", "--yes")]
    assert all(secret not in outcome.stdout + outcome.stderr for outcome in said)
    add(segue, database).expect(0)
    with psycopg.connect(store_url) as connection:
        row = connection.execute("SELECT e::text FROM segue_store.environments e").fetchone()
    assert row is not None
    assert secret not in row[0]
    assert "postgresql://" not in row[0]


def test_password_in_the_arguments_is_refused_with_a_way_out(segue: Segue) -> None:
    for url in ("postgresql://me:hush@host/shop", "host=host password=hush", "postgresql://host/shop?password=hush"):
        done = segue("env", "add", "shop", "--type", "test", "--url", url).expect(64)
        assert "--url-env" in done.stderr
        assert "hush" not in done.stderr
    assert segue("env", "list", "--json").json["environments"] == []


def test_url_may_come_from_stdin_a_service_or_libpq_variables(segue: Segue, database: str) -> None:
    given = conninfo_to_dict(database)
    service = segue.folder / "services.conf"
    service.write_text("[shop]\n" + "".join(f"{word}={value}\n" for word, value in given.items()))
    libpq = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
    words = ("--type", "test", "--check")
    segue("env", "add", "piped", *words, "--url-stdin", text=database + "\n").expect(0)
    env = {"PGSERVICEFILE": str(service)}
    segue("env", "add", "service", *words, "--url", "service=shop", env=env).expect(0)
    segue("env", "add", "libpq", *words, env={name: str(given[word]) for name, word in libpq.items()}).expect(0)
    listed = segue("env", "list", "--json").expect(0).json["environments"]
    places = {found["name"]: found["database"] for found in listed}
    assert places["piped"] == places["libpq"]
    assert places["service"] == "service=shop"


def test_no_url_at_all_is_a_usage_error(segue: Segue) -> None:
    done = segue("env", "add", "shop", "--type", "test").expect(64)
    assert "no database was named" in done.stderr


def test_something_that_is_no_url_is_refused_and_not_repeated(segue: Segue) -> None:
    done = add(segue, "hush-my-password").expect(64)
    assert "hush" not in done.stderr


def test_unreachable_database_is_added_with_a_warning_but_not_with_check(segue: Segue) -> None:
    url = "postgresql://me:hush@127.0.0.1:1/shop"
    done = add(segue, url, "checked", "--check").expect(69)
    assert "hush" not in done.stderr
    done = add(segue, url, "later", "--data-size", "large").expect(0)
    assert "not measured" in done.stderr
    (found,) = segue("env", "list", "--json").json["environments"]
    assert (found["name"], found["data_size"], found["measured"]) == ("later", "large", None)


def test_wrong_password_is_a_configuration_error(segue: Segue, database: str) -> None:
    url = make_conninfo(database, password="hush")
    done = add(segue, url, "shop", "--check").expect(78)
    assert "password authentication failed" in done.stderr
    assert "hush" not in done.stderr


def test_wrong_key_is_a_configuration_error(segue: Segue) -> None:
    done = segue("env", "add", "x", "--type", "test", "--url", "host=nowhere", env={"SEGUE_KEY": "short"}).expect(78)
    assert "SEGUE_KEY" in done.stderr


def test_taken_name_is_refused_unless_replaced(segue: Segue, database: str) -> None:
    add(segue, database).expect(0)
    assert "--replace" in add(segue, database).expect(2).stderr
    add(segue, database, "shop", "--replace", "--description", "anew").expect(0)
    assert segue("env", "show", "shop", "--json").json["environment"]["description"] == "anew"


@pytest.mark.parametrize("name", ["Shop", "my shop", "-", "x" * 64])
def test_bad_name_is_refused(segue: Segue, name: str) -> None:
    done = segue("env", "add", "--type", "test", "--url", "host=nowhere", "--", name).expect(2)
    assert "no name for an environment" in done.stderr


def test_unknown_name_is_refused_with_the_nearest(segue: Segue, database: str) -> None:
    add(segue, database, "production").expect(0)
    assert 'did you mean "production"?' in segue("env", "show", "prodution").expect(2).stderr
    assert "known are production" in segue("env", "show", "zzz").expect(2).stderr


def test_role_that_may_not_create_is_warned_about(segue: Segue, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS meek")
        connection.execute("CREATE ROLE meek LOGIN PASSWORD 'meek'")
    try:
        done = add(segue, make_conninfo(database, user="meek", password="meek")).expect(0)
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("DROP ROLE meek")
    assert 'GRANT CREATE ON DATABASE "test_' in done.stderr


def test_pooler_is_recognised(segue: Segue, database: str) -> None:
    given = conninfo_to_dict(database)
    with Pooler(f"{given['host']}/.s.PGSQL.{given['port']}") as port:
        url = make_conninfo(database, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        done = add(segue, url).expect(0)
    assert "connection pooler" in done.stderr


def test_removed_environment_is_gone(segue: Segue, database: str) -> None:
    add(segue, database).expect(0)
    segue("env", "remove", "shop").expect(64)
    segue("env", "remove", "shop", "--yes").expect(0)
    assert segue("env", "list", "--all", "--json").json["environments"] == []
    actions = [entry["action"] for entry in segue("ledger", "list", "--json").json["entries"]]
    assert actions == ["added", "removed"]
    segue("ledger", "verify").expect(0)


def test_environment_with_executions_stays_as_inactive(
    segue: Segue, database: str, executed: Callable[..., str]
) -> None:
    add(segue, database).expect(0)
    executed("completed")
    done = segue("env", "remove", "shop", "--yes", "--json").expect(0)
    assert done.json["kept_inactive"] is True
    assert segue("env", "list", "--json").json["environments"] == []
    (kept,) = segue("env", "list", "--all", "--json").json["environments"]
    assert kept["active"] is False
    add(segue, database, "shop", "--replace").expect(0)
    assert segue("env", "show", "shop", "--json").json["environment"]["active"] is True


def test_environment_with_a_running_execution_is_neither_removed_nor_cleaned(
    segue: Segue, database: str, executed: Callable[..., str]
) -> None:
    add(segue, database).expect(0)
    executed("running")
    for verb in ("remove", "clean"):
        done = segue("env", verb, "shop", "--yes").expect(3)
        assert "add-names  running" in done.stderr


def test_clean_is_refused_while_a_rollback_window_is_open(
    segue: Segue, database: str, executed: Callable[..., str]
) -> None:
    add(segue, database).expect(0)
    executed("completed", window_until="2999-01-01T00:00:00Z")
    leave_traces(database)
    done = segue("env", "clean", "shop", "--yes").expect(3)
    assert "until 2999-01-01 00:00 UTC" in done.stderr
    assert has_schema(database)


def test_clean_is_refused_while_a_fence_is_armed(segue: Segue, database: str) -> None:
    add(segue, database).expect(0)
    leave_traces(database)
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE orders (id int)")
        connection.execute("CREATE FUNCTION segue.fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        connection.execute(
            "CREATE TRIGGER segue_fence BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION segue.fence()"
        )
    done = segue("env", "clean", "shop", "--yes").expect(3)
    assert 'trigger "segue_fence" on' in done.stderr
    assert has_schema(database)


def test_clean_drops_nothing_that_somebody_else_built_on_it(
    segue: Segue, database: str, executed: Callable[..., str]
) -> None:
    add(segue, database).expect(0)
    leave_traces(database, executed("rolled-back"))
    with psycopg.connect(database) as connection:
        connection.execute("CREATE VIEW public.progress AS SELECT * FROM segue.chunk")
    done = segue("env", "clean", "shop", "--yes").expect(3)
    assert "view progress depends on table segue.chunk" in done.stderr
    assert has_schema(database)


def test_clean_keeps_what_an_execution_of_another_store_still_needs(segue: Segue, database: str) -> None:
    add(segue, database).expect(0)
    leave_traces(database)
    done = segue("env", "clean", "shop", "--yes").expect(3)
    assert "e1  of another store" in done.stderr
    assert has_schema(database)


def test_clean_keeps_what_an_execution_under_another_name_still_needs(
    segue: Segue, database: str, executed: Callable[..., str]
) -> None:
    add(segue, database).expect(0)
    add(segue, database, "alias").expect(0)
    leave_traces(database, executed("failed"))
    done = segue("env", "clean", "alias", "--yes").expect(3)
    assert "failed in shop" in done.stderr
    assert has_schema(database)


def test_clean_keeps_the_history_in_the_ledger(segue: Segue, database: str, executed: Callable[..., str]) -> None:
    add(segue, database).expect(0)
    leave_traces(database, executed("rolled-back"))
    segue("env", "clean", "shop").expect(64)
    done = segue("env", "clean", "shop", "--yes", "--json").expect(0)
    assert done.json["history_kept"] == 1
    assert not has_schema(database)
    (entry,) = segue("ledger", "list", "--action", "cleaned", "--json").json["entries"]
    assert entry["detail"]["history"][0]["plan"] == "add-names"
    assert segue("env", "clean", "shop", "--yes", "--json").expect(0).json["removed"] is False


def test_changed_ledger_is_found(segue: Segue, database: str, store_url: str) -> None:
    add(segue, database).expect(0)
    add(segue, database, "other").expect(0)
    with psycopg.connect(store_url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("ALTER TABLE segue_store.ledger DISABLE TRIGGER ALL")
        connection.execute("UPDATE segue_store.ledger SET actor = 'nobody' WHERE id = 1")
    done = segue("ledger", "verify", "--json").expect(1)
    assert done.json["ok"] is False
    assert done.json["problems"][0]["entry"] == 1
