"""A data job whose source is in another database: the same rows, errors and ways back as within one."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import Open, rows, run_sql, value
from fix_transfers import TABLES, fill_old, job, rejected

from segue.databases.postgresql.jobs.filtering import says_the_same
from segue.databases.postgresql.jobs.tables import table_of
from segue.databases.postgresql.target import PostgresTarget
from segue.errors import OutcomeUnknown, PrivilegeMissing, SegueError, StepRefused
from segue.ports import BACKWARD


@pytest.fixture
def far(new_database: Callable[[], str]) -> str:
    """Give another database, where the source is."""
    return new_database()


def at(target: PostgresTarget, far: str) -> PostgresTarget:
    """Let a target's jobs find their source."""
    target.places = {"far": far}.__getitem__
    return target


def test_job_brings_every_row_once_from_another_database(database: str, far: str, open_target: Open) -> None:
    fill_old(far, 5000)
    run_sql(database, TABLES[1])
    run = job(at(open_target(database), far), source_env="far", workers=3, batch={"size": 300})
    assert run.record.rows == 5000
    there = rows(far, "SELECT id, name, (amount::numeric * 100)::bigint FROM old ORDER BY id")
    assert rows(database, "SELECT id, name, cents FROM new ORDER BY id") == there


def test_job_from_elsewhere_isolates_exactly_the_bad_rows(database: str, far: str, open_target: Open) -> None:
    fill_old(far, 4000, 500)
    run_sql(database, TABLES[1])
    checks = {"not seven": "old.id <> 7"}
    job(at(open_target(database), far), source_env="far", continue_on_error=True, checks=checks, workers=2)
    assert [key for key, _ in rejected(database)] == [7, *range(500, 4001, 500)]
    assert rows(database, "SELECT source FROM segue.rejected WHERE key = '{7}'") == [
        ({"id": 7, "name": "n7", "amount": "1.7500000000000000"},)
    ]
    assert value(database, "SELECT count(*) FROM new") == 3991


def test_job_from_elsewhere_is_taken_back(database: str, far: str, open_target: Open) -> None:
    fill_old(far, 1000)
    run_sql(database, TABLES[1], "INSERT INTO new VALUES (-1, 'mine', 1)")
    target = at(open_target(database), far)
    job(target, source_env="far")
    run_sql(database, "UPDATE new SET name = 'changed' WHERE id = 5")
    job(target, source_env="far", direction=BACKWARD)
    assert rows(database, "SELECT id, name FROM new ORDER BY id") == [(-1, "mine"), (5, "changed")]


def test_types_that_the_target_lacks_come_as_texts(database: str, far: str, open_target: Open) -> None:
    run_sql(
        far,
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        'CREATE TABLE old (id int PRIMARY KEY, mood mood, times timestamptz[], "Odd" jsonb)',
        "INSERT INTO old SELECT n, 'glad', ARRAY[now()], '{\"a\": 1}' FROM generate_series(1, 100) n",
    )
    run_sql(database, 'CREATE TABLE new (id bigint PRIMARY KEY, mood text, times timestamptz[], "Odd" jsonb)')
    job(at(open_target(database), far), source_env="far", set={})
    there = rows(far, 'SELECT id, mood::text, times, "Odd" FROM old ORDER BY id')
    assert rows(database, 'SELECT id, mood, times, "Odd" FROM new ORDER BY id') == there


def test_lost_source_leaves_nothing_half_done_and_the_job_goes_on(database: str, far: str, open_target: Open) -> None:
    fill_old(far, 3000)
    name = value(far, "SELECT current_database()")
    run_sql(
        database,
        TABLES[1],
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'; RETURN new; END $$",
        "CREATE TRIGGER cut BEFORE INSERT ON new FOR EACH ROW WHEN (new.id = 1500) EXECUTE FUNCTION cut()",
    )
    target = at(open_target(database), far)
    with pytest.raises(OutcomeUnknown, match="the connection to the source"):
        job(target, source_env="far", batch={"size": 200, "max": 200})
    assert 1500 <= value(database, "SELECT count(*) FROM new") < 3000
    run = job(target, source_env="far", batch={"size": 200, "max": 200})
    assert run.record.rows < 3000
    assert value(database, "SELECT count(*) FROM new") == 3000


@pytest.mark.parametrize(
    ("break_it", "error", "words"),
    [
        ("DROP TABLE old", StepRefused, 'there is no table "old", the source'),
        ("ALTER TABLE old DROP CONSTRAINT old_pkey", StepRefused, "no primary key"),
        ("ALTER TABLE old RENAME amount TO amounts", StepRefused, 'column "amount" does not exist'),
    ],
)
def test_source_that_does_not_fit_is_refused_before_anything_is_written(
    database: str, far: str, open_target: Open, break_it: str, error: type[SegueError], words: str
) -> None:
    fill_old(far, 10)
    run_sql(far, break_it)
    run_sql(database, TABLES[1])
    with pytest.raises(error, match=words):
        job(at(open_target(database), far), source_env="far")
    assert value(database, "SELECT count(*) FROM new") == 0


def test_source_without_the_right_to_read_it_is_refused(database: str, far: str, open_target: Open) -> None:
    fill_old(far, 10)
    run_sql(database, TABLES[1])
    nobody = "nobody_" + str(value(far, "SELECT oid FROM pg_database WHERE datname = current_database()"))
    run_sql(far, f"CREATE ROLE {nobody} LOGIN PASSWORD 'x'")
    url = far.split("://", 1)[0] + f"://{nobody}:x@" + far.split("@", 1)[1]
    try:
        with pytest.raises(PrivilegeMissing, match="permission denied for table old"):
            job(at(open_target(database), url), source_env="far")
    finally:
        run_sql(far, f"DROP ROLE {nobody}")


def test_job_command_reads_from_another_environment(segue: Segue, shops: Shops, database: str, far: str) -> None:
    fill_old(far, 300, 100)
    run_sql(database, TABLES[1])
    shops.open("shop", database)
    shops.open("past", far)
    words = ("--from", "old", "--to", "new", "--set", "cents=(amount::numeric * 100)::bigint", "--continue-on-error")
    segue("job", "create", "bring", "--from-env", "past", *words).expect(0)
    assessed = segue("plan", "assess", "bring", "--env", "shop").expect(0)
    assert "would fail" not in assessed.stdout + assessed.stderr
    segue("job", "start", "bring", "--env", "shop").expect(0)
    assert value(database, "SELECT count(*) FROM new") == 297
    run_sql(far, "UPDATE old SET amount = '1', name = 'mended' WHERE id = 100")
    segue("job", "resolve", "bring", "100", "--retry").expect(0)
    assert rows(database, "SELECT name FROM new WHERE id = 100") == [("mended",)]
    segue("job", "create", "lost", "--from-env", "nowhere", *words).expect(0)
    lost = segue("job", "start", "lost", "--env", "shop").expect(2)
    assert 'there is no environment "nowhere"' in lost.stderr


LEFT_TO_THE_SOURCE = {
    "id > 5": True,
    "old.id BETWEEN 5 AND 9 OR NOT (public.old.id IN (1, 2))": True,
    "name = 'n5' AND amount LIKE 'a%' AND name IS NOT NULL": True,
    "id % 7 = 3": True,
    "id = '5'::bigint": True,
    # Another collation, another function, another table; a value that fails at a row; a column of something else.
    "name > 'n5'": False,
    "lower(name) = 'n5'": False,
    "id IN (SELECT id FROM wanted)": False,
    "amount::numeric > 5": False,
    "1 / id > 0": False,
    "id % 0 = 1": False,
    "o.id > 5": False,
    "nothing > 5": False,
    "id > 5 AND now() > '2020-01-01'": False,
    "folded = 'A'": False,
    "name LIKE 'a\\'": False,
    "id >": False,
}


def test_filter_is_left_to_the_source_where_it_says_the_same_there(debian_database: str) -> None:
    run_sql(
        debian_database,
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE TABLE old (id bigint PRIMARY KEY, name text, amount text, folded text COLLATE blind)",
    )
    with psycopg.connect(debian_database, autocommit=True) as connection:
        source = table_of(connection, "old", "source")
        assert {one: says_the_same(one, source, connection) for one in LEFT_TO_THE_SOURCE} == LEFT_TO_THE_SOURCE
