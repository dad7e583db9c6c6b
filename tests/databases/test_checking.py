"""What a check finds on real servers: each light where it belongs, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from fix_pooler import Pooler
from fix_standbys import Server
from fix_targets import drop_role, make_role, run_sql, session, until, value
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from segue.databases.postgresql import checking
from segue.databases.postgresql.checking import check, identity, own_tables
from segue.errors import ConfigurationError, TargetUnreachable
from segue.model.checks import Checkup, Finding, Light, worst


def find(found: Checkup, what: str) -> Finding:
    """Return the one finding about something."""
    (finding,) = [each for each in found.findings if each.what == what]
    return finding


def one(url: str, what: str) -> Finding:
    return find(check(url, schema="public"), what)


@contextmanager
def roleless(url: str, *grants: str) -> Iterator[str]:
    """Give a database's URL as a role that may do nothing but this."""
    plain = make_role(url, *grants)
    try:
        yield plain
    finally:
        drop_role(url, plain)


def test_an_owner_meets_nothing_red(ordinary: str) -> None:
    run_sql(ordinary, "CREATE TABLE t (id int PRIMARY KEY)")
    found = check(ordinary, schema="public")
    assert [each for each in found.findings if each.light is Light.RED] == []
    assert find(found, "server").found.startswith("PostgreSQL 1")
    assert find(found, "superuser").found == "no, and none is needed"
    assert find(found, "change tables of public").found == "owner of all 1"
    assert find(found, "create in schema public").light is Light.GREEN
    assert "GRANT pg_read_all_stats" in find(found, "see other sessions").do
    assert {"replica-lag", "active-sessions"} <= set(found.unseen)


def test_a_role_with_nothing_is_told_what_to_ask_for(any_database: str) -> None:
    run_sql(any_database, "CREATE TABLE t (id int PRIMARY KEY)", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with roleless(any_database) as plain:
        found = check(plain, schema="public")
        role, name = (conninfo_to_dict(plain)[word] for word in ("user", "dbname"))
        assert worst(found.findings) is Light.RED
        assert f'GRANT CREATE ON DATABASE "{name}" TO "{role}"' in find(found, "keep lease and history").do
        assert f'GRANT CREATE ON SCHEMA "public" TO "{role}"' in find(found, "create in schema public").do
        owners = find(found, "change tables of public")
        assert (owners.light, owners.found) == (Light.RED, "1 of 1 belong to segue")
        assert f'GRANT "segue" TO "{role}"' in owners.do


def test_the_grants_that_are_named_turn_it_green(database: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with roleless(database) as plain:
        name = conninfo_to_dict(database)["dbname"]
        run_sql(database, f'REVOKE TEMPORARY ON DATABASE "{name}" FROM PUBLIC')
        whats = ("keep lease and history", "create in schema public", "make temporary tables", "see other sessions")
        for what in whats:
            finding = one(plain, what)
            assert finding.light is not Light.GREEN
            run_sql(database, finding.do.partition(": ")[2])
            assert one(plain, what).light is Light.GREEN


def test_some_foreign_tables_are_amber_and_named(ordinary: str, any_database: str) -> None:
    run_sql(ordinary, "CREATE TABLE mine (id int PRIMARY KEY)")
    run_sql(any_database, "CREATE TABLE theirs (id int PRIMARY KEY)")
    finding = one(ordinary, "change tables of public")
    assert (finding.light, finding.details) == (Light.AMBER, ("theirs belongs to segue",))


def test_tables_without_a_key_are_those_that_a_backfill_refuses(database: str) -> None:
    run_sql(
        database,
        "CREATE TABLE keyed (id int PRIMARY KEY)",
        "CREATE TABLE narrow (id int NOT NULL UNIQUE)",
        "CREATE TABLE bare (id int)",
        "CREATE TABLE nullable (id int UNIQUE)",
        "CREATE TABLE partial (id int NOT NULL)",
        "CREATE UNIQUE INDEX ON partial (id) WHERE id > 0",
    )
    assert one(database, "tables without a key").found == "3: bare, nullable, partial"


def test_an_invalid_index_is_found_and_one_under_way_is_not(any_database: str) -> None:
    run_sql(any_database, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        run_sql(any_database, "CREATE UNIQUE INDEX CONCURRENTLY broken ON t (n)")
    finding = one(any_database, "invalid indexes")
    assert (finding.light, finding.details) == (Light.AMBER, ("broken on t",))
    assert "DROP INDEX CONCURRENTLY broken" in finding.do
    with session(any_database, "LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE"):
        assert one(any_database, "invalid indexes").light is Light.GREEN


def test_long_transactions_are_named(any_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "LONG_TRANSACTION", 0.0)
    monkeypatch.setattr(checking, "LONG_IDLE", 0.0)
    run_sql(any_database, "CREATE TABLE t (id int)")
    with session(any_database, "SET application_name = 'report'", "SELECT 42 AS answer FROM t") as reader:
        pid = reader.info.backend_pid
        found = check(any_database, schema="public")
    for what in ("long transactions", "idle in transaction"):
        assert find(found, what).light is Light.AMBER
        mine = [line for line in find(found, what).details if f"pid {pid} " in line]
        assert "report" in mine[0]
        assert "answer" in mine[0]


def test_transactions_of_others_that_cannot_be_seen_are_counted(any_database: str) -> None:
    with roleless(any_database) as plain, session(any_database, "SELECT 1"):
        finding = one(plain, "transactions")
        assert finding.light is Light.AMBER
        assert "of other roles last is hidden" in finding.found


def test_an_idle_slot_is_amber_with_what_it_keeps(own_debian_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "KEPT_LOG", 10)
    url = own_debian_server.database()
    run_sql(url, "SELECT pg_create_physical_replication_slot('forgotten', true)", "CREATE TABLE t (id int)")
    try:
        finding = one(url, "slot forgotten")
        assert finding.light is Light.AMBER
        assert "pg_drop_replication_slot('forgotten')" in finding.do
    finally:
        run_sql(url, "SELECT pg_drop_replication_slot('forgotten')")
    assert not [each for each in check(url, schema="public").findings if each.what == "slot forgotten"]


def test_replicas_are_seen_by_name_whoever_asks(own_debian_server: Server) -> None:
    url = own_debian_server.database()
    with own_debian_server.replica("east"), roleless(url) as plain:
        until(lambda: value(url, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"))
        (seen,) = check(url, schema="public").replicas or ()
        assert (seen.name, seen.state) == ("east", "streaming")
        assert seen.behind is not None
        (seen,) = check(plain, schema="public").replicas or ()
        assert (seen.name, seen.state, seen.behind) == ("east", None, None)


def test_a_replica_itself_is_red(own_debian_server: Server) -> None:
    with own_debian_server.replica("west") as replica:
        assert one(replica.url("postgres"), "primary").light is Light.RED


def test_statistics_of_statements_are_told_to_be_there(own_server: Server) -> None:
    url = own_server.database()
    assert one(url, "pg_stat_statements").light is Light.AMBER
    run_sql(url, "CREATE EXTENSION pg_stat_statements")
    assert one(url, "pg_stat_statements").light is Light.GREEN


def test_settings_that_would_hurt_are_said_to_be_pinned(ordinary: str, any_database: str) -> None:
    role = conninfo_to_dict(ordinary)["user"]
    run_sql(
        any_database,
        f"ALTER ROLE {role} SET statement_timeout = '1s'",
        f"ALTER ROLE {role} SET work_mem = '1MB'",
        f"ALTER ROLE {role} SET temp_file_limit = '1GB'",
    )
    found = check(ordinary, schema="public")
    assert find(found, "role and database settings").found.startswith("statement_timeout = 1s")
    assert "work_mem = 1MB" in find(found, "other settings").found
    assert find(found, "temp_file_limit").light is Light.AMBER


def test_a_role_that_would_skip_triggers_is_red(any_database: str) -> None:
    with roleless(any_database) as plain:
        run_sql(any_database, f"ALTER ROLE {conninfo_to_dict(plain)['user']} SET session_replication_role = replica")
        found = check(plain, schema="public")
        assert worst(found.findings) is Light.RED
        assert "session_replication_role" in find(found, "session").found


def test_strange_tables_in_our_schema_are_amber(database: str) -> None:
    run_sql(database, "CREATE SCHEMA segue", "CREATE TABLE segue.lease (id int)", "CREATE TABLE segue.orders (id int)")
    finding = one(database, 'schema "segue"')
    assert (finding.light, finding.found) == (Light.AMBER, "holds orders, which Segue did not make")
    assert {"lease", "history", "chunk", "schema_state"} <= own_tables()


def test_a_role_that_is_called_like_our_schema_is_amber_until_its_path_is_set(database: str) -> None:
    # The tests' superuser is such a role.
    finding = one(database, 'role "segue"')
    assert finding.light is Light.AMBER
    name = conninfo_to_dict(database)["dbname"]
    run_sql(database, f'ALTER ROLE segue IN DATABASE "{name}" SET search_path = public')
    assert not [each for each in check(database, schema="public").findings if each.what == 'role "segue"']


def test_bystanders_are_named(database: str) -> None:
    run_sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE PUBLICATION news FOR TABLE t",
        "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER watcher ON ddl_command_start EXECUTE FUNCTION watch()",
        "ALTER TABLE t SET (autovacuum_enabled = off)",
    )
    found = check(database, schema="public")
    assert find(found, "publications").found.startswith("news")
    assert find(found, "event triggers").found.startswith("watcher (ddl_command_start)")
    assert [each.light for each in found.findings if each.what == "autovacuum"] == [Light.AMBER, Light.GREEN]


def test_a_pooler_in_between_is_red(database: str) -> None:
    given = conninfo_to_dict(database)
    with Pooler(f"{given['host']}/.s.PGSQL.{given['port']}") as port:
        url = make_conninfo(database, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        found = check(url, schema="public")
    assert find(found, "pooler").light is Light.RED
    assert found.replicas is None


def test_free_room_is_known_only_where_the_servers_files_are_seen(database: str, ordinary: str) -> None:
    run_sql(database, "CREATE TABLE t AS SELECT generate_series(1, 10000)")
    assert "are free" in one(database, "disk").found
    hidden = one(ordinary, "disk")
    assert (hidden.light, "cannot be known from here" in hidden.found) == (Light.AMBER, True)


def test_a_schema_that_is_not_there_is_amber(database: str) -> None:
    found = check(database, schema="sales")
    assert find(found, "create in schema sales").light is Light.AMBER


def test_a_check_changes_nothing(database: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    made = "SELECT (SELECT count(*) FROM pg_class) + (SELECT count(*) FROM pg_namespace)"
    before = value(database, made)
    check(database, schema="public")
    assert value(database, made) == before


# -- which database it is


def test_a_database_keeps_its_identity_under_another_name(any_database: str) -> None:
    before = identity(any_database)
    assert before["system_identifier"]
    old, new = before["database"], before["database"] + "_new"
    run_sql(make_conninfo(any_database, dbname="postgres"), f'ALTER DATABASE "{old}" RENAME TO "{new}"')
    after = identity(make_conninfo(any_database, dbname=new))
    run_sql(make_conninfo(any_database, dbname="postgres"), f'ALTER DATABASE "{new}" RENAME TO "{old}"')
    assert after == {**before, "database": new}


def test_two_databases_differ_on_one_server_and_on_two(database: str, debian_database: str, ordinary: str) -> None:
    here, there = identity(database), identity(debian_database)
    assert here["system_identifier"] != there["system_identifier"]
    assert identity(make_conninfo(database, dbname="postgres"))["database_oid"] != here["database_oid"]
    assert identity(ordinary)["system_identifier"] in (here["system_identifier"], there["system_identifier"])


def test_what_cannot_be_reached_raises() -> None:
    with pytest.raises(TargetUnreachable):
        check("postgresql://me@127.0.0.1:1/shop", schema="public")
    with pytest.raises(TargetUnreachable):
        identity("postgresql://me@127.0.0.1:1/shop")


def test_a_wrong_password_is_no_finding(database: str) -> None:
    with pytest.raises(ConfigurationError):
        check(make_conninfo(database, password="hush"), schema="public")
