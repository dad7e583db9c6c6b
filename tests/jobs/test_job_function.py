"""A data job whose columns a Python function gives: every row once, bad ones alone, whatever the function does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fix_targets import Open, rows, run_sql, value
from fix_transfers import TABLES, fill_old, job, rejected

from segue.errors import SegueError, StepFailed
from segue.ports import BACKWARD

LIFT = """
def lift(rows):
    return [{"cents": int(float(row["amount"]) * 100), "name": row["name"]} for row in rows]
"""


ODD = """
def lift(rows):
    given = []
    for row in rows:
        name, one = row["name"], {"cents": int(float(row["amount"]) * 100), "name": row["name"], "id": row["id"]}
        if name == "raise":
            one = {"a": 1}["mood"]
        elif name == "nan":
            one["cents"] = float("nan")
        elif name == "missing":
            del one["cents"]
        elif name == "text":
            one["cents"] = "a lot"
        elif name == "same":
            one["id"] = 1
        elif name == "much":
            one["more"] = 1
        elif name == "exit":
            raise SystemExit(3)
        elif name == "nul":
            one["name"] = "a" + chr(0)
        given.append(None if name == "skip" else 7 if name == "number" else one)
    print("done")
    return given
"""


def by(text: str, **more: object) -> dict[str, object]:
    given = {"python": "lift.py:lift", "gives": ["cents", "name"], "contents": {"lift.py": text}, **more}
    return {"set": {}, "transform": given}


def test_function_gives_every_row_once(any_database: str, open_target: Open) -> None:
    fill_old(any_database, 5000)
    run = job(open_target(any_database), workers=2, batch={"size": 700}, **by(LIFT))
    assert run.record.rows == 5000
    assert (
        rows(
            any_database,
            "SELECT id, name, cents FROM new EXCEPT SELECT id, name, (amount::numeric * 100)::bigint FROM old",
        )
        == []
    )
    assert value(any_database, "SELECT count(*) FROM new") == 5000


def test_rows_that_the_function_cannot_do_stand_alone(database: str, open_target: Open) -> None:
    fill_old(database, 4000, 200)
    run_sql(
        database,
        "UPDATE old SET name = 'raise', amount = 1 WHERE id = 1001",
        "UPDATE old SET name = 'nan', amount = 1 WHERE id = 1002",
        "UPDATE old SET name = 'missing', amount = 1 WHERE id = 1003",
        "UPDATE old SET name = 'skip', amount = 1 WHERE id = 1004",
        "UPDATE old SET name = 'text', amount = 1 WHERE id = 1005",
        "UPDATE old SET name = 'same', amount = 1 WHERE id = 1006",
        "UPDATE old SET name = 'much', amount = 1 WHERE id = 1007",
        "UPDATE old SET name = 'number', amount = 1 WHERE id = 1008",
        "UPDATE old SET name = 'exit', amount = 1 WHERE id = 1009",
        "UPDATE old SET name = 'nul', amount = 1 WHERE id = 1010",
    )
    run = job(
        open_target(database),
        continue_on_error=True,
        checks={"not five": "old.id <> 5"},
        **by(ODD, gives=["cents", "name", "id"]),
    )
    found = {key: (kind, said) for key, kind, said in rejected(database, "key[1]::bigint, error_type, message")}
    assert [found[n] for n in range(1001, 1011) if n in found] == [
        ("transformation", "KeyError: 'mood'"),
        ("transformation", 'the function gave nan for "cents", which is no number'),
        ("transformation", 'the function gave no "cents"; its row has "name", "id"'),
        ("transformation", 'invalid input syntax for type bigint: "a lot"'),
        ("constraint", 'duplicate key value violates unique constraint "new_pkey": Key (id)=(1) already exists.'),
        ("transformation", 'the function gave "more", which `gives` does not name'),
        ("transformation", "the function gave a int, 7, for the row, and not a dictionary or None"),
        ("transformation", "SystemExit: 3"),
        ("transformation", 'the function gave a text with a NUL character for "name", which the server cannot hold'),
    ]
    assert found[5] == ("validation", 'the check "not five" does not hold')
    # The bad rows that every job meets: two kinds of four are the function's own, two are the target's.
    assert sorted(set(found) - set(range(1001, 1011)) - {5}) == list(range(200, 4001, 200))
    (stack,) = rows(database, "SELECT stack, source, target FROM segue.rejected WHERE key = '{1001}'")
    assert stack[0].startswith("Traceback")
    assert "line 7, in lift" in stack[0]
    assert stack[1] == {"id": 1001, "name": "raise", "amount": "1"}
    assert run.record.rows == value(database, "SELECT count(*) FROM new") == 4000 - len(found) - 1


TYPES = {
    "flag": ("boolean", "true"),
    "whole": ("bigint", "-9223372036854775808"),
    "exact": ("numeric", "12345678901234567890.123456789"),
    "rough": ("double precision", "'NaN'"),
    "words": ("text", "E'tab\\there, line\\nthere, back\\\\slash \\\\N \\r ünï'"),
    "raw": ("bytea", "'\\x00ff5c09'"),
    "day": ("date", "'2024-02-29'"),
    "moment": ("timestamptz", "'2024-02-29 23:59:59.123456+05:30'"),
    "plain": ("timestamp(3)", "'1999-12-31 23:59:59.5'"),
    "span": ("interval", "'-2 days 03:04:05.6'"),
    "key": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"),
    "thing": ("jsonb", '\'{"a": [1, "x", null, {"b": "\\u00fc\\n"}]}\''),
    "word": ("jsonb", "'\"123\"'"),
    "many": ("text[]", "ARRAY['a,b', NULL, '\"q\" \\', '{}']"),
    "spans": ("int4range", "'[1,5)'"),
    "mood": ("mood", "'glad'"),
    "nothing": ("text", "NULL"),
}


def test_values_of_every_type_go_through_a_function_unchanged(database: str, open_target: Open) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in TYPES.items())
    run_sql(
        database,
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        f"CREATE TABLE old (id int PRIMARY KEY, {columns})",
        f"CREATE TABLE new (id int PRIMARY KEY, {columns})",
        f"INSERT INTO old SELECT n, {', '.join(text for _, text in TYPES.values())} FROM generate_series(1, 50) n",
        "INSERT INTO old (id) VALUES (51)",
        "INSERT INTO old (id, day) VALUES (52, 'infinity')",
        "INSERT INTO old (id, span) VALUES (53, '1 mon')",
    )
    same = "def lift(rows):\n    return [{name: row[name] for name in row if name != 'id'} for row in rows]"
    job(open_target(database), continue_on_error=True, **by(same, gives=list(TYPES)))
    assert rejected(database, "key[1]::bigint, message") == [
        (52, "the value of \"day\" cannot be given to Python: date too large (after year 10K): 'infinity'"),
        (53, 'the value of "span" cannot be given to Python: an interval of months has no length in days: 1 mon'),
    ]
    assert value(database, "SELECT count(*) FROM new") == 51
    assert rows(database, "SELECT (o).*, (n).* FROM old o JOIN new n USING (id) WHERE o::text <> n::text") == []


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("def lift(rows): raise RuntimeError('not yet')", {}, "cannot work: RuntimeError: not yet"),
        ("def lift(rows): return None", {}, "must return a list with an item for each row, and returned a NoneType"),
        ("def lift(rows): return rows[:3]", {}, "returned 3 for 10"),
        ("def lift(rows): return (r for r in rows)", {}, "returned a generator"),
        ("def lift(rows): return rows", {}, 'the function gave no "cents"; its row has "id", "name", "amount"'),
        ("def lift(rows): return [{} for r in rows]", {}, 'gave no "cents", "name"; its row has nothing'),
        ("def lift(rows, more): return rows", {}, "missing 1 required positional argument"),
        (LIFT.replace("int(", "repr("), {}, "does not fit: invalid input syntax for type bigint"),
        ("import nothing_of_this_name\n" + LIFT, {}, "cannot be loaded: ModuleNotFoundError"),
        ("async def lift(rows): return rows", {}, "async function"),
        (LIFT, {"gives": ["cents", "name", "price"]}, 'table "new" has no such column'),
        ("def lift(rows):\n    while True: pass", {"timeout": 0.3}, "takes longer than 300 ms"),
        ("import os\ndef lift(rows): os._exit(9)", {}, "process ended with exit code 9"),
    ],
)
def test_function_that_cannot_work_is_refused_before_any_row_moves(
    database: str, open_target: Open, text: str, more: dict[str, Any], said: str
) -> None:
    fill_old(database, 10)
    with pytest.raises(SegueError) as error:
        job(open_target(database), continue_on_error=True, **by(text, **more))
    assert said in error.value.message
    assert value(database, "SELECT count(*) FROM new") == 0
    assert value(database, "SELECT count(*) FROM segue.chunk") == 0


HARM = """
import os, time

def lift(rows):
    for row in rows:
        if row["name"] == "sleep":
            time.sleep(60)
        elif row["name"] == "die":
            os.kill(os.getpid(), 9)
        elif row["name"] == "swell":
            held = "x" * 10 ** 9
    return [{"cents": 1, "name": row["name"]} for row in rows]
"""


def test_function_that_hangs_dies_or_swells_loses_that_row_alone(database: str, open_target: Open) -> None:
    fill_old(database, 40)
    bad = {7: "sleep", 22: "die", 33: "swell"}
    run_sql(database, *(f"UPDATE old SET name = '{name}' WHERE id = {key}" for key, name in bad.items()))
    # Not among those with which it is tried.
    run_sql(
        database, "INSERT INTO old SELECT -n, 'n', '1' FROM generate_series(1, 110) n", "CLUSTER old USING old_pkey"
    )
    job(
        open_target(database),
        continue_on_error=True,
        batch={"size": 8, "max": 8},
        **by(HARM, timeout=0.5, memory="100MB"),
    )
    assert rejected(database, "key[1]::bigint, error_type, message, source ->> 'name'") == [
        (7, "timeout", "the function takes longer than 500 ms", "sleep"),
        (22, "transformation", "the function's process ended with SIGKILL", "die"),
        (33, "transformation", "MemoryError", "swell"),
    ]
    assert value(database, "SELECT count(*) FROM new") == 147


def test_job_stops_at_the_row_that_the_function_cannot_do_and_goes_on(database: str, open_target: Open) -> None:
    fill_old(database, 3000)
    run_sql(database, "UPDATE old SET amount = 'x' WHERE id = 2345")
    target = open_target(database)
    with pytest.raises(StepFailed, match=r"cannot write the row \(2345\): ValueError: could not convert"):
        job(target, **by(LIFT))
    assert rejected(database) == [(2345, "transformation")]
    run_sql(database, "UPDATE old SET amount = '1' WHERE id = 2345")
    job(target, **by(LIFT))
    assert value(database, "SELECT count(*) FROM new") == 3000
    assert rows(database, "SELECT resolution FROM segue.rejected") == [("written",)]


def test_rollback_calls_the_function_again_and_leaves_what_others_changed(database: str, open_target: Open) -> None:
    fill_old(database, 3000, 100)
    run_sql(database, "INSERT INTO new VALUES (55, 'n55', 1375)")
    target = open_target(database)
    job(target, continue_on_error=True, **by(LIFT))
    run_sql(database, "UPDATE new SET name = 'changed' WHERE id = 66")
    job(target, direction=BACKWARD, **by(LIFT))
    assert rows(database, "SELECT id, name FROM new ORDER BY id") == [(55, "n55"), (66, "changed")]


def test_function_sees_what_the_filter_leaves_of_another_database(
    database: str, new_database: Callable[[], str], open_target: Open
) -> None:
    far = new_database()
    fill_old(far, 2000)
    run_sql(database, TABLES[1], "CREATE TABLE names (name text PRIMARY KEY)", "INSERT INTO names VALUES ('n30')")
    target = open_target(database)
    target.places = {"far": far}.__getitem__
    strict = LIFT.replace("return", "assert all(20 < row['id'] <= 1500 for row in rows)\n    return")
    look = {"table": "names", "alias": "n", "on": {"name": "old.name"}}
    run = job(
        target, source_env="far", where="id > 20 AND id NOT IN (1, 2) AND old.id <= 1500", lookups=[look], **by(strict)
    )
    assert run.record.rows == 1480
    assert rows(database, "SELECT min(id), max(id) FROM new") == [(21, 1500)]
