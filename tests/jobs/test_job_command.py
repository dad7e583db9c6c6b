"""`segue job`: a job as a person makes, runs and mends it, and what the store keeps of it."""

from __future__ import annotations

from typing import Any

import pytest
from fix_columns import never_filled, unexplained
from fix_process import Segue
from fix_shops import Shops
from fix_targets import rows, run_sql, until, value
from fix_transfers import CENTS, fill_old

from segue.errors import Blocked, Busy, InvalidInput, NotFound, StepFailed
from segue.services import jobs

MAKE = ("job", "create", "move-old", "--from", "old", "--to", "new", "--set", f"cents={CENTS['cents']}")


def make(shops: Shops, url: str, **fields: Any) -> None:
    """Open the environment `shop`, and store the job `move-old`."""
    shops.open("shop", url)
    asked = jobs.Asked("move-old", fields={"source": "old", "target": "new", "set": CENTS, **fields})
    jobs.create(shops.store, shops.settings, shops.parts, asked)


def settle(shops: Shops, *keys: str, how: str = "retry", **more: Any) -> jobs.Settled:
    decision = jobs.Decision(how, **more)
    return jobs.resolve(shops.store, shops.settings, shops.parts, "move-old", keys, decision)


def shown(shops: Shops) -> dict[str, Any]:
    with shops.store.session() as session:
        return jobs.describe(session, jobs.find(session, "move-old"))


def test_job_moves_what_it_can_and_the_rest_is_settled(segue: Segue, shops: Shops, database: str) -> None:
    fill_old(database, 4000, 1000)
    shops.open("shop", database)
    segue(*MAKE, "--continue-on-error", "--check", "known=id > 0", "--where", "id < 1e9").expect(0)
    segue("job", "start", "move-old", "--env", "shop").expect(0)
    found = segue("job", "errors", "move-old", "--json").expect(1).json
    assert [(one["key"], one["type"]) for one in found["errors"]] == [
        (["1000"], "transformation"),
        (["2000"], "constraint"),
        (["3000"], "transformation"),
        (["4000"], "constraint"),
    ]
    # One is mended in the source, one is written otherwise, one is left out; the last one stays.
    run_sql(database, "UPDATE old SET amount = '7' WHERE id = 1000")
    left = segue("job", "retry", "move-old", "--json").expect(1).json
    assert (left["settled"], [one["key"] for one in left["left"]]) == (1, [["2000"], ["3000"], ["4000"]])
    segue("job", "resolve", "move-old", "4000", "--set", "name=no name").expect(0)
    settle(shops, found["errors"][2]["error"], how="skip", note="not ours")
    counters = ("processed_rows", "successful_rows", "failed_rows", "skipped_rows")
    assert [shown(shops)[name] for name in counters] == [4000, 3998, 1, 1]
    assert rows(database, "SELECT id, name, cents FROM new WHERE id IN (1000, 4000) ORDER BY id") == [
        (1000, "n1000", 700),
        (4000, "no name", 100000),
    ]
    ours = {one for one in unexplained(never_filled(shops.store.url)) if one[0].startswith("data_migration_")}
    assert ours == set()
    shops.rollback()
    assert value(database, "SELECT count(*) FROM new") == 0


def test_store_keeps_every_column_of_a_job(shops: Shops, database: str, store_url: str) -> None:
    fill_old(database, 3000, 500)
    make(shops, database, continue_on_error=True, where="id > 5", workers=2)
    shops.run("move-old")
    settle(shops, how="skip", note="old ones")
    (job,) = rows(store_url, "SELECT to_jsonb(j) FROM segue_store.data_migration_jobs j")[0]
    assert (job["source_table"], job["target_table"], job["kind"]) == ("old", "new", "data-job")
    assert (job["processed_rows"], job["successful_rows"], job["skipped_rows"]) == (3000, 2989, 11)
    assert rows(
        store_url,
        "SELECT sum(processed_rows), sum(successful_rows), sum(failed_rows), count(worker_id) = count(*) "
        "FROM segue_store.data_migration_batches",
    ) == [(3000, 2989, 6, True)]
    errors = [one for (one,) in rows(store_url, "SELECT to_jsonb(e) FROM segue_store.data_migration_errors e")]
    assert len(errors) == 6
    assert {name for name in errors[0] if all(one[name] is None for one in errors)} == set()
    assert {one["resolution"] for one in errors} == {"skipped: old ones"}


def test_stopped_job_goes_on_without_the_row_that_was_settled(shops: Shops, database: str) -> None:
    fill_old(database, 3000, 2000)
    make(shops, database)
    with pytest.raises(StepFailed, match=r"cannot write the row \(2000\)"):
        shops.run("move-old")
    assert (shown(shops)["status"], shown(shops)["failed_rows"]) == ("failed", 1)
    settle(shops, "2000", how="correct", values={"name": "mended", "cents": 1})
    shops.run("move-old")
    assert rows(database, "SELECT count(*), max(name) FILTER (WHERE id = 2000) FROM new") == [(3000, "mended")]
    now = shown(shops)
    assert (now["successful_rows"], now["failed_rows"], now["skipped_rows"], now["retry"]) == (3000, 0, 0, 1)


def test_row_is_settled_once_and_only_with_what_the_job_writes(shops: Shops, database: str, store_url: str) -> None:
    fill_old(database, 2000, 1000)
    make(shops, database, continue_on_error=True)
    shops.run("move-old")
    with pytest.raises(InvalidInput, match='writes no column "price"'):
        settle(shops, "1000", how="correct", values={"price": 1})
    with pytest.raises(NotFound, match='no error "7"'):
        settle(shops, "7")
    run_sql(database, "DELETE FROM old WHERE id = 2000")
    with pytest.raises(Blocked, match="gone from the source"):
        settle(shops, "2000")
    settle(shops, "2000", how="skip", note="gone")
    # As if the process had died before the store was told.
    run_sql(store_url, "UPDATE segue_store.data_migration_errors SET is_resolved = false, resolution = null")
    with pytest.raises(Blocked, match="is skipped already"):
        settle(shops, "2000")
    assert shown(shops)["failed_rows"] == 1
    assert settle(shops, how="skip", note="both").done == 1
    assert shown(shops)["failed_rows"] == 0


def test_running_job_is_busy_and_is_paused_between_two_batches(segue: Segue, shops: Shops, database: str) -> None:
    fill_old(database, 300)
    make(shops, database, batch={"size": 10, "max": 10}, pause=20)
    process = segue.start("job", "start", "move-old", "--env", "shop")
    until(lambda: value(database, "SELECT count(*) FROM new") > 0)
    with pytest.raises(Busy):
        shops.run("move-old")
    rates = ("rows_per_second", "average_batch_ms", "estimated_completion")
    until(lambda: all(shown(shops)[name] is not None for name in rates))
    segue("job", "pause", "move-old").expect(0)
    assert process.wait(30) == 3
    found = shown(shops)
    assert (found["status"], found["estimated_completion"]) == ("paused", None)
    assert found["paused_at"] is not None
    assert 0 < value(database, "SELECT count(*) FROM new") < 300
    segue("job", "cancel", "move-old").expect(0)
    assert shown(shops)["execution_status"] == "cancelled"


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"where": "id > 1)"}, "syntax error"), ({"set": {"cents": "1, 2"}}, "must hold an expression")],
)
def test_wrong_words_are_refused_before_anything_is_stored(shops: Shops, fields: dict[str, Any], said: str) -> None:
    asked = jobs.Asked("a", fields={"source": "old", "target": "new", **fields})
    with pytest.raises(InvalidInput) as error:
        jobs.create(shops.store, shops.settings, shops.parts, asked)
    assert said in "".join([error.value.message, *error.value.details])
    with shops.store.session() as session:
        assert jobs.listed(session) == []


LIFT = """
def lift(rows):
    return [{"cents": round(float(row["amount"]) * 100)} for row in rows]
"""


def test_job_by_a_function_is_made_run_changed_and_settled(segue: Segue, shops: Shops, database: str) -> None:
    fill_old(database, 400, 100)
    shops.open("shop", database)
    file = segue.folder / "lift.py"
    words = ("--from", "old", "--to", "new", "--python", "lift.py:lift", "--gives", "cents", "--continue-on-error")
    assert "there is no file" in segue("job", "create", "lift-old", *words).expect(2).stderr
    file.write_text(LIFT)
    segue("job", "create", "lift-old", *words).expect(0)
    segue("job", "start", "lift-old", "--env", "shop").expect(0)
    run_sql(database, "UPDATE old SET amount = '-7' WHERE id = 200")
    left = segue("job", "retry", "lift-old", "--json").expect(1).json
    assert (left["settled"], left["left"][1]["key"]) == (0, ["200"])
    assert "new_cents_check" in left["left"][1]["message"]
    run_sql(database, "UPDATE old SET amount = '7' WHERE id = 200", "UPDATE old SET amount = 'x' WHERE id = 300")
    segue("job", "resolve", "lift-old", "200", "--retry").expect(0)
    assert "ValueError" in segue("job", "resolve", "lift-old", "300", "--retry").expect(1).stdout
    segue("job", "resolve", "lift-old", "300", "--set", "id=300", "--set", "name=c", "--set", "cents=3").expect(0)
    assert rows(database, "SELECT id, name, cents FROM new WHERE id IN (200, 300) ORDER BY id") == [
        (200, "n200", 700),
        (300, "c", 3),
    ]
    found = segue("job", "show", "lift-old", "--json").expect(0).json
    assert (found["successful_rows"], found["failed_rows"], found["skipped_rows"]) == (398, 2, 0)
    assert found["transformation"].startswith("cents = python lift.py:lift\n")
    # Another text is another version; the rows that the first one could not write are not settled by it.
    file.write_text(LIFT.replace("100", "1000"))
    assert segue("job", "create", "lift-old", *words, "--json").expect(0).json["version"] == "1.0.1"
    assert "was changed since the job ran" in segue("job", "retry", "lift-old").expect(3).stderr


@pytest.mark.parametrize(("option", "words"), [("--set", "cents"), ("--lookup", "x"), ("--check", "=1")])
def test_words_that_are_no_pair_are_refused(option: str, words: str) -> None:
    from typer.testing import CliRunner

    from segue.cli.job import app

    found = CliRunner().invoke(app, ["create", "a", "--from", "old", "--to", "new", option, words])
    assert words in str(found.exception)
