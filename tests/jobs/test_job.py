"""A data job writes every row once, isolates those that it cannot write, and is taken back without touching others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fix_spaces import SmallSpace
from fix_targets import Open, rows, run_sql, value
from fix_transfers import CENTS, fill_old, job, rejected

from segue.errors import StepFailed
from segue.ports import BACKWARD


def test_job_writes_every_row_once(any_database: str, open_target: Open) -> None:
    fill_old(any_database, 5000)
    run = job(open_target(any_database), workers=3, batch={"size": 300})
    assert run.record.rows == 5000
    assert value(any_database, "SELECT count(*) FROM new JOIN old USING (id, name) WHERE cents = amount::numeric * 100")
    assert (
        rows(
            any_database,
            "SELECT id, name, cents FROM new EXCEPT SELECT id, name, (amount::numeric * 100)::bigint FROM old",
        )
        == []
    )
    assert value(any_database, "SELECT count(*) FROM new") == 5000


@pytest.mark.parametrize(
    ("count", "every", "workers"),
    [(20_000, 1000, 1), (20_000, 37, 2), pytest.param(1_000_000, 1000, 2, marks=pytest.mark.slow)],
)
def test_job_isolates_exactly_the_bad_rows(
    database: str, open_target: Open, count: int, every: int, workers: int
) -> None:
    fill_old(database, count, every)
    run = job(open_target(database), continue_on_error=True, workers=workers)
    bad = list(range(every, count + 1, every))
    assert [key for key, _ in rejected(database)] == bad
    kinds = ("constraint", "transformation", "constraint", "transformation")
    assert [kind for _, kind in rejected(database)] == [kinds[n // every % 4] for n in bad]
    assert run.record.rows == count - len(bad)
    assert value(database, "SELECT count(*) FROM new") == count - len(bad)
    assert value(database, "SELECT count(*) FROM old LEFT JOIN new USING (id) WHERE new.id IS NULL") == len(bad)


def test_rows_that_fail_a_check_are_rejected_by_its_name(database: str, open_target: Open) -> None:
    fill_old(database, 3000)
    job(open_target(database), continue_on_error=True, checks={"small": "id <= 2990", "odd": "id <> 7 OR name = ''"})
    assert rejected(database) == [(7, "validation"), *((n, "validation") for n in range(2991, 3001))]
    assert rejected(database, "message")[0] == ('the check "odd" does not hold',)
    assert value(database, "SELECT count(*) FROM new") == 2989


def test_rejected_row_is_kept_with_both_sides(database: str, open_target: Open) -> None:
    fill_old(database, 10)
    run_sql(database, "UPDATE old SET amount = '-2.5' WHERE id = 3", "UPDATE old SET amount = 'x' WHERE id = 5")
    job(open_target(database), continue_on_error=True)
    low, no_number = rows(database, "SELECT sqlstate, message, stack, source, target FROM segue.rejected ORDER BY id")
    assert low[0] == "23514"
    assert "new_cents_check" in low[1]
    assert low[3:] == ({"id": 3, "name": "n3", "amount": "-2.5"}, {"id": 3, "name": "n3", "cents": -250})
    assert (no_number[0], no_number[4]) == ("22P02", {"id": 5, "name": "n5"})
    assert "statement" in no_number[2]


def test_job_stops_at_the_first_bad_row_and_goes_on_when_it_is_mended(database: str, open_target: Open) -> None:
    fill_old(database, 4000)
    run_sql(database, "UPDATE old SET amount = 'x' WHERE id = 2345")
    target = open_target(database)
    with pytest.raises(StepFailed, match=r"cannot write the row \(2345\): invalid input syntax"):
        job(target)
    assert rejected(database) == [(2345, "transformation")]
    run_sql(database, "UPDATE old SET amount = '1' WHERE id = 2345")
    job(target)
    assert value(database, "SELECT count(*) FROM new") == 4000
    assert rows(database, "SELECT resolution FROM segue.rejected") == [("written",)]


def test_too_many_bad_rows_stop_the_job(database: str, open_target: Open) -> None:
    fill_old(database, 3000, 20)
    with pytest.raises(StepFailed, match="more than 100 rows that it cannot write"):
        job(open_target(database), continue_on_error=True, max_errors=100)
    assert value(database, "SELECT count(*) FROM new") < 3000
    assert len(rejected(database)) <= 100


def test_lookup_finds_leaves_out_or_rejects(database: str, open_target: Open) -> None:
    fill_old(database, 100)
    run_sql(database, "CREATE TABLE names (id bigint PRIMARY KEY, word text NOT NULL)")
    run_sql(database, "INSERT INTO names SELECT n, 'word ' || n FROM generate_series(1, 98) n")
    look = {"table": "names", "alias": "w", "on": {"id": "old.id"}}
    given = {"set": {"name": "coalesce(w.word, 'none')", "id": "old.id"}, "columns": ["id", "name"]}
    target = open_target(database)
    for missing, count, bad in (("null", 100, 0), ("skip", 98, 0), ("error", 98, 2)):
        run_sql(database, "TRUNCATE new")
        job(target, step=missing, lookups=[{**look, "missing": missing}], continue_on_error=True, **given)
        assert value(database, "SELECT count(*) FROM new") == count
        assert value(database, "SELECT count(*) FROM segue.rejected WHERE step = %s", missing) == bad
    assert value(database, "SELECT name FROM new WHERE id = 98") == "word 98"


def test_rows_that_are_there_fail_stay_or_are_replaced(database: str, open_target: Open) -> None:
    fill_old(database, 2000)
    target = open_target(database)
    for way, name in (("skip", "was there"), ("update", "n77")):
        run_sql(database, "TRUNCATE new", "INSERT INTO new VALUES (77, 'was there', 1)")
        job(target, step=way, on_conflict=way)
        assert rows(database, "SELECT count(*), max(name) FILTER (WHERE id = 77) FROM new") == [(2000, name)]
    run_sql(database, "TRUNCATE new", "INSERT INTO new VALUES (77, 'was there', 1)")
    job(target, step="fail", continue_on_error=True)
    assert rejected(database) == [(77, "constraint")]


def test_rule_that_waits_for_the_commit_rejects_its_row(database: str, open_target: Open) -> None:
    fill_old(database, 2000)
    run_sql(
        database, "CREATE TABLE kind (name text PRIMARY KEY)", "INSERT INTO kind SELECT name FROM old WHERE id < 2000"
    )
    run_sql(database, "ALTER TABLE new ADD FOREIGN KEY (name) REFERENCES kind DEFERRABLE INITIALLY DEFERRED")
    job(open_target(database), continue_on_error=True)
    assert rejected(database) == [(2000, "constraint")]
    assert value(database, "SELECT count(*) FROM new") == 1999


def test_row_that_takes_too_long_is_rejected(database: str, open_target: Open) -> None:
    fill_old(database, 4)
    slow = {"name": "CASE WHEN id = 3 THEN pg_sleep(10)::text ELSE name END"}
    job(open_target(database), continue_on_error=True, set={**CENTS, **slow}, row_timeout=0.2)
    assert rejected(database, "key[1]::bigint, error_type, source ->> 'name'") == [(3, "timeout", "n3")]
    assert value(database, "SELECT count(*) FROM new") == 3


def test_sequence_of_the_target_goes_on_behind_the_rows(database: str, open_target: Open) -> None:
    fill_old(database, 500)
    run_sql(database, "ALTER TABLE new ALTER id ADD GENERATED ALWAYS AS IDENTITY")
    run = job(open_target(database))
    run_sql(database, "INSERT INTO new (name, cents) VALUES ('next', 1)")
    assert value(database, "SELECT max(id) FROM new") == 501
    assert "goes on after 500" in run.notes[0]


# -- the way back


def test_rollback_takes_out_what_was_written_and_nothing_else(database: str, open_target: Open) -> None:
    fill_old(database, 3000, 100)
    # One that the job finds there, just as it would write it; one that the application changes afterwards; a new one.
    run_sql(database, "INSERT INTO new VALUES (55, 'n55', 1375)")
    target = open_target(database)
    job(target, continue_on_error=True)
    assert (55, "constraint") in rejected(database)
    run_sql(database, "UPDATE new SET name = 'changed' WHERE id = 66", "INSERT INTO new VALUES (-1, 'mine', 0)")
    job(target, direction=BACKWARD)
    assert rows(database, "SELECT id, name FROM new ORDER BY id") == [(-1, "mine"), (55, "n55"), (66, "changed")]


def test_rollback_leaves_rows_where_it_cannot_tell_them(database: str, open_target: Open) -> None:
    fill_old(database, 100)
    target = open_target(database)
    job(target, on_conflict="update")
    run = job(target, direction=BACKWARD, on_conflict="update")
    assert "it cannot be told what was there before" in run.notes[0]
    assert value(database, "SELECT count(*) FROM new") == 100


def test_rollback_of_half_a_job_goes_where_the_job_was(database: str, open_target: Open) -> None:
    fill_old(database, 4000)
    run_sql(database, "UPDATE old SET amount = 'x' WHERE id = 2345")
    target = open_target(database)
    with pytest.raises(StepFailed):
        job(target, batch={"size": 100})
    run_sql(database, "UPDATE old SET amount = '1' WHERE id = 2345", "INSERT INTO new VALUES (3999, 'n3999', 99975)")
    job(target, direction=BACKWARD)
    assert rows(database, "SELECT id FROM new") == [(3999,)]


def test_row_that_others_refer_to_stops_the_rollback(database: str, open_target: Open) -> None:
    fill_old(database, 100)
    target = open_target(database)
    job(target)
    run_sql(database, "CREATE TABLE child (id bigint REFERENCES new)", "INSERT INTO child VALUES (9)")
    with pytest.raises(StepFailed, match="violates foreign key constraint"):
        job(target, direction=BACKWARD)
    assert value(database, "SELECT count(*) FROM new") == 100


def test_full_disk_stops_the_job_which_goes_on_when_there_is_room(
    database: str, open_target: Open, small_space: Callable[..., SmallSpace]
) -> None:
    space = small_space(2)
    fill_old(database, 40_000, 20_000)
    run_sql(database, f"ALTER TABLE new SET TABLESPACE {space.name}")
    target = open_target(database)
    with pytest.raises(StepFailed, match=r"No space left on device \(SQLSTATE 53100\)"):
        job(target, continue_on_error=True)
    # No row is at fault for it.
    assert [key for key, _ in rejected(database)] in ([], [20_000])
    space.grow(30)
    job(target, continue_on_error=True)
    assert [key for key, _ in rejected(database)] == [20_000, 40_000]
    assert value(database, "SELECT count(*) FROM new") == 39_998
    run_sql(database, "DROP TABLE new")
